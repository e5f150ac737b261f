//! One manifest: read and verified, scanned, its report and bill of materials stored, its verdict written.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sluice_domain::{Digest, Repository};
use sluice_events::wire::state::{ImageEntry, Verdict, VerdictStatus};
use sluice_layer::{ImageContents, LayerSummary, check_layers};
use sluice_registry::Client;
use sluice_service::crash;
use sluice_state::{ImageReader, State, key, update_image};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::cache::{KnownLayer, LayerCache};
use crate::content::{ImageContent, check_size, parts, reason_of};
use crate::cross_check;
use crate::database::{JavaIndex, Origin};
use crate::error::Error;
use crate::failure::Kind;
use crate::folder::Folder;
use crate::layout::Layout;
use crate::relay::{Analysis, Matcher, Relay};
use crate::report::Report;
use crate::room::Quota;
use crate::sbom;
use crate::server::{Server, Version};
use crate::trivy::{Trivy, text};
use crate::unpack::{Budget, Unpacker, blocking, jobs, probable_bytes};
use crate::verdict::{
    Age, Image, Scanned, blank, compare, former, holds, told, unsupported, usable,
};

/// The largest report or bill of materials that is read.
const MOST_BYTES: u64 = 256 << 20;
/// How often a verdict is written anew after somebody else wrote it.
const ROUNDS: usize = 5;
/// How long a scan waits for room on the disk before its message is put off.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Where Trivy writes what it found, in the folder of the scan.
const REPORT: &str = "report.json";
/// How Trivy is asked. What it finds in a layer depends on these, so the cache is named after them.
///
/// With the usual priority a list of files of Debian hides packages of languages; and a bill of materials that lies in
/// an image would be believed, so those are left out.
pub(crate) const ANALYSIS: [&str; 12] = [
    "--scanners",
    "vuln",
    "--detection-priority",
    "comprehensive",
    "--skip-files",
    "**/*.cdx",
    "--skip-files",
    "**/*.cdx.json",
    "--skip-files",
    "**/*.spdx",
    "--skip-files",
    "**/*.spdx.json",
];

/// What every scan needs.
#[derive(Debug)]
pub(crate) struct ImageScanner {
    pub(crate) state: State,
    pub(crate) registry: Client,
    /// What images consist of; from their bytes, since it says what is scanned.
    pub(crate) reader: ImageReader,
    pub(crate) unpacker: Unpacker,
    pub(crate) quota: Arc<Quota>,
    pub(crate) cache: Arc<LayerCache>,
    pub(crate) relay: Relay,
    pub(crate) trivy: Trivy,
    pub(crate) folder: Arc<Folder>,
    pub(crate) origin: Origin,
    pub(crate) java: JavaIndex,
    pub(crate) turns: Semaphore,
    pub(crate) limit: Duration,
}

/// An image in the folder in which Trivy finds it, and each of its layers once it was read.
struct Prepared<'a> {
    image: Image<'a>,
    content: &'a ImageContent,
    /// What is known of each layer from scans before.
    known: &'a [Option<KnownLayer>],
    folder: &'a Path,
    layout: Layout,
    /// The digest by which the report names the image.
    image_id: Digest,
}

/// What the layers of an image are, once all were read.
struct Verified {
    summaries: Vec<LayerSummary>,
    contents: ImageContents,
}

impl ImageScanner {
    /// Returns what an image consists of, and writes that over what others say of it.
    pub(crate) async fn described(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<ImageEntry, sluice_state::Error> {
        let image = self.reader.read(&self.registry, repository, digest).await?;
        update_image(&self.state, digest, &image).await?;
        Ok(image)
    }

    /// Returns the verdict on a manifest that need not be found anew, if there is one.
    pub(crate) async fn standing(
        &self,
        version: &Version,
        digest: &Digest,
    ) -> Result<Option<Verdict>, Error> {
        let entry = self.state.verdicts.get(&key::verdict(digest)).await?;
        let verdict = entry.map(|entry| entry.value);
        Ok(verdict.filter(|verdict| holds(verdict, version)))
    }

    /// Returns the verdict on a manifest, from its entry where that is up to date.
    pub(crate) async fn verdict(
        &self,
        server: &Server,
        image: Image<'_>,
    ) -> Result<Verdict, Error> {
        if let Some(verdict) = self.standing(&server.version, image.digest).await? {
            return Ok(verdict);
        }
        let blank = blank(image, &server.version);
        let verdict = match self.scan(server, image).await {
            Ok(scanned) => told(blank, scanned),
            Err(Error::Unsupported(reason)) => unsupported(blank, reason),
            Err(error) => return Err(error),
        };
        self.write(verdict).await
    }

    /// Records that a manifest could not be scanned, so that no older verdict passes for today's.
    pub(crate) async fn record_failure(
        &self,
        version: &Version,
        image: Image<'_>,
        reason: String,
    ) -> Result<(), Error> {
        let verdict = Verdict {
            status: VerdictStatus::Failed.into(),
            reason,
            ..blank(image, version)
        };
        self.write(verdict).await.map(drop)
    }

    /// Writes a verdict, unless there is one that is as good: a replica may have been faster.
    async fn write(&self, mut verdict: Verdict) -> Result<Verdict, Error> {
        let digest = verdict.digest.clone();
        let parsed: Digest = digest.parse().map_err(|_| Error::Entry(digest))?;
        let key = key::verdict(&parsed);
        let mut last = None;
        for _ in 0..ROUNDS {
            let there = self.state.verdicts.get(&key).await?;
            if let Some(entry) = &there {
                match compare(&entry.value.database_version, &verdict.database_version) {
                    Age::Newer if usable(&entry.value) => return Ok(entry.value.clone()),
                    Age::Newer => {
                        return Err(Error::Outdated {
                            ours: verdict.database_version,
                            theirs: entry.value.database_version.clone(),
                        });
                    }
                    Age::Same if usable(&entry.value) && !usable(&verdict) => {
                        return Ok(entry.value.clone());
                    }
                    Age::Same | Age::Older => {}
                }
            }
            let revision = there.as_ref().map(|entry| entry.revision);
            verdict.former_reports =
                there.map_or_else(Vec::new, |entry| former(entry.value, &verdict));
            match self.state.verdicts.write(&key, &verdict, revision).await {
                Ok(_) => {
                    crash::point("scanner-adapter.verdict_written");
                    return Ok(verdict);
                }
                Err(error) if error.is_conflict() => last = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.map_or_else(
            || Error::not_ready("the verdict keeps changing"),
            Error::from,
        ))
    }

    /// Reads a manifest by its digest, verifies its layers, and lets Trivy scan them by a database that stays the same
    /// meanwhile.
    async fn scan(&self, server: &Server, image: Image<'_>) -> Result<Scanned, Error> {
        let _turn = self.turns.acquire().await;
        let (registry, repository) = (&self.registry, image.repository);
        let content = content_of(&self.reader, registry, repository, image.digest).await?;
        let known = self.known(&content).await?;
        match self.attempt(server, image, &content, &known).await {
            Err(Error::Stale) => {
                tracing::info!(image.digest = %image.digest, "what is known of the layers is of no use; they are read again");
                let unknown = vec![None; known.len()];
                self.attempt(server, image, &content, &unknown).await
            }
            scanned => scanned,
        }
    }

    /// Returns what is known of each layer.
    async fn known(&self, content: &ImageContent) -> Result<Vec<Option<KnownLayer>>, Error> {
        let (cache, layers) = (self.cache.clone(), content.layers.clone());
        blocking(move || layers.iter().map(|layer| cache.find(layer)).collect()).await
    }

    /// Scans an image, of whose layers only those are read that are not known.
    async fn attempt(
        &self,
        server: &Server,
        image: Image<'_>,
        content: &ImageContent,
        known: &[Option<KnownLayer>],
    ) -> Result<Scanned, Error> {
        let missing = content.layers.iter().zip(known);
        let missing = missing.filter(|(_, known)| known.is_none());
        let mut bytes = probable_bytes(missing.map(|(layer, _)| layer));
        loop {
            let folder = tempfile::tempdir_in(self.folder.work()).map_err(Error::files("make"))?;
            let layers = tempfile::tempdir_in(self.folder.work()).map_err(Error::files("make"))?;
            self.trivy
                .let_read(layers.path())
                .map_err(Error::files("hand over"))?;
            let room = tokio::time::timeout(LONGEST_WAIT, self.quota.room(bytes)).await;
            let room =
                room.map_err(|_| Error::not_ready("other scans use all room on the disk"))?;
            let room = room.ok_or_else(|| Error::not_ready("the service stops"))?;
            let budget = Budget::new(room, self.unpacker.limits.unpacked_bytes);
            let name = format!("{}/{}", self.registry.host(), image.repository);
            let layout = Layout::create(layers.path(), folder.path(), name);
            let layout = layout.map_err(Error::files("make"))?;
            let image_id = layout.finish(content, image.digest);
            let prepared = Prepared {
                image,
                content,
                known,
                folder: folder.path(),
                layout,
                image_id: image_id.map_err(Error::files("write"))?,
            };
            match self.analysed(server, &prepared, &budget).await {
                Ok((verified, found)) => {
                    return self.scanned(server, &prepared, &verified, found).await;
                }
                // It gives back what it has before it asks for all.
                Err(Error::NeedsAllRoom) if bytes < self.quota.bytes() => bytes = u64::MAX,
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the layers that are not known while Trivy starts, which takes as long as unpacking 50 MiB. Its first
    /// question, which layers it is to read, is answered when all are verified.
    async fn analysed(
        &self,
        server: &Server,
        prepared: &Prepared<'_>,
        budget: &Arc<Budget>,
    ) -> Result<(Verified, Vec<Option<Analysis>>), Error> {
        server.confirm().await?;
        let are_verified = CancellationToken::new();
        let reading = async {
            let verified = self.verified(prepared, budget).await?;
            are_verified.cancel();
            Ok(verified)
        };
        // Where a layer is refused, the run of Trivy is given up, and ends with that.
        tokio::try_join!(reading, self.ran(server, prepared, &are_verified))
    }

    /// Reads the layers that are not known.
    async fn verified(
        &self,
        prepared: &Prepared<'_>,
        budget: &Arc<Budget>,
    ) -> Result<Verified, Error> {
        let Prepared { content, known, .. } = prepared;
        let jobs = jobs(content, known, &prepared.layout);
        let repository = prepared.image.repository;
        let read = self.unpacker.read(repository, jobs, budget).await?;
        let mut summaries = Vec::new();
        for (layer, known) in content.layers.iter().zip(*known) {
            let found = known.as_ref().map(|known| &known.summary);
            let found = found.or_else(|| {
                let is_same = |summary: &&LayerSummary| {
                    summary.digest == layer.digest
                        && summary.layer_type == layer.layer_type
                        && summary.diff_id == layer.diff_id
                };
                read.iter().map(|(_, summary)| summary).find(is_same)
            });
            summaries.push(found.cloned().ok_or(Error::Stale)?);
        }
        let contents = check_layers(&summaries)
            .map_err(|refused| Error::Unsupported(format!("the layers together: {refused}")))?;
        self.unpacker.limits.check(&contents)?;
        Ok(Verified {
            summaries,
            contents,
        })
    }

    /// Runs Trivy, once more with the index of Java archives where it needs that; returns what it found in the layers.
    async fn ran(
        &self,
        server: &Server,
        prepared: &Prepared<'_>,
        are_verified: &CancellationToken,
    ) -> Result<Vec<Option<Analysis>>, Error> {
        let java = self.java.folder(prepared.folder).await;
        let ran = self.run(server, prepared, &java, are_verified).await;
        if !matches!(&ran, Err(Error::Failed(failed)) if failed.kind == Kind::JavaDatabase) {
            return ran;
        }
        let java = self
            .java
            .fetch(&self.origin, &self.trivy, &self.folder)
            .await?;
        self.run(server, prepared, &java, are_verified).await
    }

    /// Takes the report of what was verified, and keeps what Trivy found if it counts.
    async fn scanned(
        &self,
        server: &Server,
        prepared: &Prepared<'_>,
        verified: &Verified,
        found: Vec<Option<Analysis>>,
    ) -> Result<Scanned, Error> {
        server.confirm().await?;
        let report_path = prepared.folder.join(REPORT);
        let bytes = read("report", &report_path).await?;
        let diff_ids = prepared.content.layers.iter();
        let diff_ids: Vec<&str> = diff_ids.map(|layer| layer.diff_id.as_str()).collect();
        let summary = Report::read(&bytes)?.of_image(prepared.image_id.as_str(), &diff_ids)?;
        let unknown = server
            .unknown(&self.trivy, &self.folder.work(), &summary)
            .await?;
        let incomplete = cross_check::incomplete(&verified.contents, &summary);
        let unmatched = cross_check::unmatched(&verified.contents, &summary);
        if incomplete.is_none() {
            self.keep(prepared, verified, found).await;
        }
        let report_key = self.state.store_report(&bytes).await?;
        crash::point("scanner-adapter.report_stored");
        let sbom_key = if summary.covers() {
            self.sbom(bytes, &server.version.scanner).await?
        } else {
            String::new()
        };
        Ok(Scanned {
            summary,
            unknown,
            incomplete,
            unmatched,
            layers: verified
                .summaries
                .iter()
                .map(crate::verdict::layer)
                .collect(),
            report_key,
            sbom_key,
        })
    }

    /// Keeps what was found in layers that were not known; without it they are only read again.
    async fn keep(
        &self,
        prepared: &Prepared<'_>,
        verified: &Verified,
        found: Vec<Option<Analysis>>,
    ) {
        let layers = prepared.content.layers.iter().zip(&verified.summaries);
        let unknown = layers.zip(prepared.known).zip(found);
        let mut kept = Vec::new();
        for (((layer, summary), known), analysis) in unknown {
            if let (None, Some(analysis)) = (known, analysis) {
                let summary = summary.clone();
                kept.push((layer.clone(), KnownLayer { summary, analysis }));
            }
        }
        let cache = self.cache.clone();
        let stored = blocking(move || {
            kept.iter()
                .try_for_each(|(layer, known)| cache.store(layer, known))
        });
        match stored.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "what was found in layers could not be kept"),
            Err(error) => tracing::warn!(%error, "what was found in layers could not be kept"),
        }
    }

    /// Runs Trivy, and returns what it found in the layers.
    async fn run(
        &self,
        server: &Server,
        prepared: &Prepared<'_>,
        cache: &Path,
        are_verified: &CancellationToken,
    ) -> Result<Vec<Option<Analysis>>, Error> {
        let known = prepared.known.iter();
        let known = known.map(|known| known.as_ref().map(|known| known.analysis.clone()));
        let matcher = Matcher {
            limit: self.limit,
            ..server.matcher()
        };
        let session = self
            .relay
            .open(matcher, known.collect(), are_verified.clone());
        let mut arguments = vec!["image".to_owned()];
        arguments.extend(ANALYSIS.map(str::to_owned));
        let rest = [
            "--list-all-pkgs",
            "--format",
            "json",
            "--offline-scan",
            "--skip-java-db-update",
            "--no-progress",
        ];
        arguments.extend(rest.map(str::to_owned));
        arguments.extend(session.arguments());
        arguments.extend(["--timeout".to_owned(), format!("{}s", self.limit.as_secs())]);
        arguments.extend(["--cache-dir".to_owned(), text(cache)]);
        let report = prepared.folder.join(REPORT);
        arguments.extend(["--output".to_owned(), text(&report)]);
        let input = prepared.layout.input(prepared.image.digest);
        arguments.extend(["--input".to_owned(), input]);
        let ran = self
            .trivy
            .run(
                prepared.folder,
                &arguments,
                &session.variables(),
                self.limit,
            )
            .await;
        match ran {
            Ok(()) => Ok(session.found()),
            Err(_) if session.is_stale() => Err(Error::Stale),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Makes the bill of materials of a report, and stores it.
    async fn sbom(&self, report: Vec<u8>, trivy_version: &str) -> Result<String, Error> {
        let version = trivy_version.to_owned();
        let bill = blocking(move || sbom::bill_of(&report, &version)).await??;
        let key = self.state.store_report(&bill).await?;
        crash::point("scanner-adapter.sbom_stored");
        Ok(key)
    }
}

/// Reads a manifest by its digest, and its configuration.
///
/// # Errors
/// [`Error::Unsupported`] for what has not exactly one reading, or is no image that clients run.
pub(crate) async fn content_of(
    reader: &ImageReader,
    registry: &Client,
    repository: &Repository,
    digest: &Digest,
) -> Result<ImageContent, Error> {
    let document = reader.document(registry, repository, digest).await?;
    let manifest = document
        .read()
        .map_err(|error| Error::Unsupported(reason_of("the manifest", error)))?;
    let (config, layers) = parts(&manifest).map_err(Error::Unsupported)?;
    let raw = reader.config_bytes(registry, repository, config).await?;
    check_size(config, &raw).map_err(Error::Unsupported)?;
    ImageContent::read(&raw, layers).map_err(Error::Unsupported)
}

/// Reads a file that Trivy wrote, unless it is too large. Trivy may be led by an image, and this process may read more
/// than it may, so no link is followed.
async fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    let metadata = tokio::fs::symlink_metadata(path)
        .await
        .map_err(Error::files("find"))?;
    if !metadata.is_file() {
        return Err(Error::files("read")(
            std::io::ErrorKind::InvalidInput.into(),
        ));
    }
    let size_bytes = metadata.len();
    if size_bytes > MOST_BYTES {
        return Err(Error::TooLarge {
            what,
            size_bytes,
            limit_bytes: MOST_BYTES,
        });
    }
    tokio::fs::read(path).await.map_err(Error::files("read"))
}
