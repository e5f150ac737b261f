//! The cache of layers that were read before: their summaries, and the scanner's analyses.
//!
//! One file per layer holds both, so neither can be there without the other; it is written as a whole after a scan with
//! a complete report, and only by the adapter that holds the folder. The folder is named after all that its content
//! depends on: the version and the options of the scanner, and the rules of the reader.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chrono::Utc;
use serde::{Deserialize, Serialize};
use sluice_domain::Digest;
use sluice_layer::{LayerDescriptor, LayerSummary, RULES_VERSION};
use sluice_registry::digest_of;

use crate::scanner::LayerAnalysis;

/// The prefix of the folder's name; a digest of what its content depends on follows.
const FOLDER: &str = "layers-";
/// The longest first line of a file: a summary of a layer with many names.
const MAX_SUMMARY_BYTES: u64 = 256 << 20;
/// The part of the limit that stays when files are removed because the limit was reached.
const EVICT_TO: (u64, u64) = (9, 10);

/// A folder of files that are named after layers.
#[derive(Debug)]
pub(crate) struct LayerCache {
    folder: PathBuf,
    max_bytes: u64,
    max_age: Duration,
    bytes: Mutex<u64>,
}

/// The cached results of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CachedLayer {
    pub(crate) summary: LayerSummary,
    pub(crate) analysis: LayerAnalysis,
}

/// The first line of a file; the message of the analysis follows.
#[derive(Serialize, Deserialize)]
struct Header {
    summary: LayerSummary,
    key: String,
    /// The digest of the message, which shows whether a crash has cut the file.
    digest: Digest,
}

impl LayerCache {
    /// Opens the cache in a folder, and removes the caches of other versions of the scanner.
    pub(crate) fn open(
        root: &Path,
        analysis_version: &str,
        max_bytes: u64,
        max_age: Duration,
    ) -> io::Result<Self> {
        let name = digest_of(format!("{analysis_version} rules {RULES_VERSION}").as_bytes());
        let name = format!("{FOLDER}{}", name.short());
        for entry in fs::read_dir(root)?.flatten() {
            let other = entry.file_name();
            if other.to_string_lossy().starts_with(FOLDER) && other != *name {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let folder = root.join(name);
        fs::create_dir_all(&folder)?;
        let cache = Self {
            folder,
            max_bytes,
            max_age,
            bytes: Mutex::new(0),
        };
        cache.evict(max_bytes)?;
        Ok(cache)
    }

    /// Returns the cached results of a layer; a file that is damaged counts as none.
    pub(crate) fn find(&self, layer: &LayerDescriptor) -> Option<CachedLayer> {
        let path = self.path(layer);
        let cached = read(&path, layer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, image.layer = %layer.digest, "failed to read a layer from the cache; it is fetched and analysed again");
                self.remove(layer);
            }
        });
        // The files that were used last are removed last.
        let used = cached
            .is_ok()
            .then(|| File::options().append(true).open(&path));
        if let Some(Ok(file)) = used {
            file.set_modified(SystemTime::from(Utc::now())).ok();
        }
        cached.ok()
    }

    /// Stores the results of a layer.
    pub(crate) fn store(&self, layer: &LayerDescriptor, results: &CachedLayer) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        let header = Header {
            summary: results.summary.clone(),
            key: results.analysis.key.clone(),
            digest: digest_of(&results.analysis.message),
        };
        serde_json::to_writer(&mut file, &header)?;
        file.write_all(b"\n")?;
        file.write_all(&results.analysis.message)?;
        file.flush()?;
        let size = file.as_file().metadata()?.len();
        file.persist(self.path(layer))?;
        let total = {
            let mut bytes = self.bytes();
            *bytes = bytes.saturating_add(size);
            *bytes
        };
        if total > self.max_bytes {
            let (part, whole) = EVICT_TO;
            self.evict(self.max_bytes / whole * part)?;
        }
        Ok(())
    }

    fn remove(&self, layer: &LayerDescriptor) {
        if let Err(error) = fs::remove_file(self.path(layer)) {
            tracing::debug!(%error, "failed to remove a layer from the cache");
        }
    }

    /// Removes files that were not used for too long, then those that were used least recently until the rest fits.
    fn evict(&self, max_bytes: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)?.flatten() {
            // A file that no longer exists was removed by another scan.
            if let Ok(metadata) = entry.metadata() {
                files.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (used, size, path) in files {
            let is_old = used.elapsed().is_ok_and(|age| age > self.max_age);
            if is_old || total > max_bytes {
                fs::remove_file(path).ok();
                total -= size;
            }
        }
        *self.bytes() = total;
        Ok(())
    }

    fn bytes(&self) -> MutexGuard<'_, u64> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the file of a layer. The same bytes with another media type or `diff_id` are another layer.
    fn path(&self, layer: &LayerDescriptor) -> PathBuf {
        let identity = format!(
            "{} {} {} {}",
            layer.digest,
            layer.size_bytes,
            layer.layer_type.as_str(),
            layer.diff_id
        );
        self.folder.join(digest_of(identity.as_bytes()).hex())
    }
}

fn read(path: &Path, layer: &LayerDescriptor) -> io::Result<CachedLayer> {
    let mut file = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    file.by_ref()
        .take(MAX_SUMMARY_BYTES)
        .read_until(b'\n', &mut line)?;
    let header: Header = serde_json::from_slice(&line)?;
    let mut message = Vec::new();
    file.read_to_end(&mut message)?;
    let summary = header.summary;
    let is_of_layer = summary.rules_version == RULES_VERSION
        && summary.digest == layer.digest
        && summary.size_bytes == layer.size_bytes
        && summary.layer_type == layer.layer_type
        && summary.diff_id == layer.diff_id;
    if !is_of_layer || digest_of(&message) != header.digest {
        let reason = "the file is of another layer or damaged";
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let analysis = LayerAnalysis {
        key: header.key,
        message: Bytes::from(message),
    };
    Ok(CachedLayer { summary, analysis })
}

#[cfg(test)]
mod tests;
