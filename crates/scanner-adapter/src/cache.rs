//! What is known of layers that were read before: their summaries, and what Trivy found in them.
//!
//! One file per layer holds both, so neither can be there without the other; it is written whole after a scan that
//! counted, and only by the adapter that holds the folder. The folder is named after all that its content depends on:
//! the version of Trivy, how it is asked, and the rules of the reader.

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

use crate::relay::Analysis;

/// How the folders are called; what follows is made of what their content depends on.
const FOLDER: &str = "layers-";
/// The longest first line of a file: a summary of a layer with many names.
const MOST_OF_SUMMARY: u64 = 256 << 20;
/// To what part of the limit the cache is cleared once it is over it.
const CLEARED_TO: (u64, u64) = (9, 10);

/// A folder of files that are named after layers.
#[derive(Debug)]
pub(crate) struct LayerCache {
    folder: PathBuf,
    max_bytes: u64,
    max_age: Duration,
    bytes: Mutex<u64>,
}

/// A layer that was read before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownLayer {
    pub(crate) summary: LayerSummary,
    pub(crate) analysis: Analysis,
}

/// The first line of a file; Trivy's message follows.
#[derive(Serialize, Deserialize)]
struct Header {
    summary: LayerSummary,
    key: String,
    /// Of the message, so that a file that a crash has cut is not taken for whole.
    digest: Digest,
}

impl LayerCache {
    /// Opens the cache in a folder, and removes what was made under other circumstances.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub(crate) fn open(
        root: &Path,
        circumstances: &str,
        max_bytes: u64,
        max_age: Duration,
    ) -> io::Result<Self> {
        let name = digest_of(format!("{circumstances} rules {RULES_VERSION}").as_bytes());
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
        cache.clear(max_bytes)?;
        Ok(cache)
    }

    /// Returns what is known of a layer; a file that is not whole counts as none.
    pub(crate) fn find(&self, layer: &LayerDescriptor) -> Option<KnownLayer> {
        let path = self.path(layer);
        let known = read(&path, layer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, image.layer = %layer.digest, "what is known of a layer cannot be read; it is read again");
                self.forget(layer);
            }
        });
        // What is used stays longest.
        let touched = known
            .is_ok()
            .then(|| File::options().append(true).open(&path));
        if let Some(Ok(file)) = touched {
            file.set_modified(SystemTime::from(Utc::now())).ok();
        }
        known.ok()
    }

    /// Keeps what a scan that counted has made of a layer.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub(crate) fn store(&self, layer: &LayerDescriptor, known: &KnownLayer) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        let header = Header {
            summary: known.summary.clone(),
            key: known.analysis.key.clone(),
            digest: digest_of(&known.analysis.message),
        };
        serde_json::to_writer(&mut file, &header)?;
        file.write_all(b"\n")?;
        file.write_all(&known.analysis.message)?;
        file.flush()?;
        let size = file.as_file().metadata()?.len();
        file.persist(self.path(layer))?;
        let total = {
            let mut bytes = self.bytes();
            *bytes = bytes.saturating_add(size);
            *bytes
        };
        if total > self.max_bytes {
            let (part, whole) = CLEARED_TO;
            self.clear(self.max_bytes / whole * part)?;
        }
        Ok(())
    }

    /// Removes what is known of a layer.
    pub(crate) fn forget(&self, layer: &LayerDescriptor) {
        if let Err(error) = fs::remove_file(self.path(layer)) {
            tracing::debug!(%error, "what was known of a layer could not be removed");
        }
    }

    /// Removes what has not been used for too long, and then what was not used longest until the rest fits.
    fn clear(&self, max_bytes: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)?.flatten() {
            // One that is gone by now was removed by another scan.
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

    /// The same bytes under another media type or with another `diff_id` are another layer.
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

fn read(path: &Path, layer: &LayerDescriptor) -> io::Result<KnownLayer> {
    let mut file = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    file.by_ref()
        .take(MOST_OF_SUMMARY)
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
        let reason = "it is of another layer, or not whole";
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let analysis = Analysis {
        key: header.key,
        message: Bytes::from(message),
    };
    Ok(KnownLayer { summary, analysis })
}

#[cfg(test)]
mod tests;
