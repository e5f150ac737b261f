//! Copies an image or a whole index by digest: blobs, then children, then the top. The tag is not written here.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sluice_domain::{Digest, Repository};
use sluice_service::crash;

use crate::client::Client;
use crate::error::Error;
use crate::limits::Limits;
use crate::manifest::{Descriptor, Manifest};
use crate::patience::patiently;
use crate::progress::{Arrival, Progress, Watch};

pub(crate) const MAX_DEPTH: usize = 3;
pub(crate) const MAX_MANIFESTS: usize = 1_024;
const PARALLEL_BLOBS: usize = 4;

/// What to copy from where to where.
#[derive(Debug)]
pub struct CopyJob<'a> {
    /// The registry that has it.
    pub source: &'a Client,
    /// The repository there.
    pub source_repository: &'a Repository,
    /// The image or index.
    pub digest: &'a Digest,
    /// The registry that gets it.
    pub target: &'a Client,
    /// The repository there.
    pub target_repository: &'a Repository,
    /// Repositories of the target registry that may have its blobs.
    pub siblings: &'a [Repository],
}

/// How to copy; the default tells nobody, and trusts what proves that something is there.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// Who is told how it goes on.
    pub watch: Option<Arc<dyn Watch>>,
    /// What this copy and others may use together; those of the process by default.
    pub limits: Option<Limits>,
    /// Looks up every single blob, although a manifest that is there proves that its blobs are; for an audit.
    pub thorough: bool,
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The image or index itself.
    pub top: Manifest,
    /// The size of all blobs in bytes.
    pub size_bytes: u64,
    /// Blobs that were transferred.
    pub blobs_copied: u64,
    /// Blobs that a sibling had.
    pub blobs_mounted: u64,
    /// Blobs that were there.
    pub blobs_skipped: u64,
    /// Bytes that were transferred.
    pub bytes_copied: u64,
}

impl Copied {
    fn of(top: Manifest, arrivals: Vec<(u64, Arrival)>) -> Self {
        let mut copied = Self {
            top,
            size_bytes: 0,
            blobs_copied: 0,
            blobs_mounted: 0,
            blobs_skipped: 0,
            bytes_copied: 0,
        };
        for (size, arrival) in arrivals {
            copied.size_bytes = copied.size_bytes.saturating_add(size);
            match arrival {
                Arrival::Copied => {
                    copied.blobs_copied += 1;
                    copied.bytes_copied = copied.bytes_copied.saturating_add(size);
                }
                Arrival::Mounted => copied.blobs_mounted += 1,
                Arrival::Skipped => copied.blobs_skipped += 1,
            }
        }
        copied
    }
}

impl CopyJob<'_> {
    /// Copies it; what is there already is not transferred again.
    ///
    /// # Errors
    /// A failing registry, or content that is not what its digest says; nothing wrong is ever stored.
    pub async fn run(&self) -> Result<Copied, Error> {
        self.run_with(&CopyOptions::default()).await
    }

    /// Copies it in another way than by default. To drop the future cancels it: nothing of it goes on.
    ///
    /// # Errors
    /// As [`CopyJob::run`].
    pub async fn run_with(&self, options: &CopyOptions) -> Result<Copied, Error> {
        let note = |progress: Progress<'_>| {
            if let Some(watch) = &options.watch {
                watch.note(&progress);
            }
        };
        let limits = options.limits.clone().unwrap_or_else(Limits::of_process);
        let manifests = {
            let _connection = limits.connections(1).await;
            self.walk().await?
        };
        let mut blobs: BTreeMap<(u64, &Digest), &Descriptor> = BTreeMap::new();
        for blob in manifests.iter().flat_map(Manifest::blobs) {
            blobs.insert((blob.size, &blob.digest), blob);
        }
        note(Progress::Known {
            blobs: u64::try_from(blobs.len()).unwrap_or(u64::MAX),
            bytes: blobs
                .keys()
                .fold(0, |sum, (size, _)| sum.saturating_add(*size)),
        });
        let transfers: Vec<_> = blobs
            .into_values()
            .rev()
            .map(|blob| async {
                let _bytes = limits.bytes(blob.size).await;
                let _connections = limits.connections(2).await;
                let (size, arrival) = self.blob(blob).await?;
                let digest = &blob.digest;
                note(Progress::Ended {
                    digest,
                    size,
                    arrival,
                });
                Ok::<_, Error>((size, arrival))
            })
            .collect();
        let arrivals: Vec<(u64, Arrival)> = stream::iter(transfers)
            .buffer_unordered(PARALLEL_BLOBS)
            .try_collect()
            .await?;
        let mut manifests = manifests.into_iter();
        let top = manifests
            .next()
            .ok_or_else(|| Error::untrusted(self.digest, "it has no manifest"))?;
        let children: Vec<Manifest> = manifests.collect();
        for manifest in children.iter().rev().chain([&top]) {
            let reference = (&manifest.digest).into();
            if self
                .target
                .head(self.target_repository, &reference)
                .await?
                .is_none()
            {
                self.target
                    .put_manifest(self.target_repository, &reference, manifest)
                    .await?;
                note(Progress::Manifest {
                    digest: &manifest.digest,
                });
                crash::point("copy.manifest_put");
            }
        }
        Ok(Copied::of(top, arrivals))
    }

    /// Returns the top and everything below it, parents before children.
    async fn walk(&self) -> Result<Vec<Manifest>, Error> {
        let top = self
            .source
            .manifest(self.source_repository, &self.digest.into())
            .await?;
        let mut seen = HashSet::from([top.digest.clone()]);
        let (mut all, mut level) = (Vec::new(), vec![top]);
        for _ in 0..=MAX_DEPTH {
            let children: Vec<Descriptor> = level
                .iter()
                .flat_map(Manifest::children)
                .filter(|child| seen.insert(child.digest.clone()))
                .cloned()
                .collect();
            if seen.len() > MAX_MANIFESTS {
                return Err(Error::untrusted(
                    self.digest,
                    "it has more than 1024 manifests",
                ));
            }
            all.append(&mut level);
            if children.is_empty() {
                return Ok(all);
            }
            for child in &children {
                level.push(self.manifest(child).await?);
            }
        }
        Err(Error::untrusted(
            self.digest,
            "its indexes are nested deeper than 3",
        ))
    }

    /// Fetches a child from the target, where it costs nothing, or else from the source.
    async fn manifest(&self, child: &Descriptor) -> Result<Manifest, Error> {
        match self.target.child(self.target_repository, child).await {
            Ok(manifest) => Ok(manifest),
            Err(error) if error.is_not_found() => {
                self.source.child(self.source_repository, child).await
            }
            Err(error) => Err(error),
        }
    }

    async fn blob(&self, blob: &Descriptor) -> Result<(u64, Arrival), Error> {
        let source = (self.source, self.source_repository);
        let bring = || {
            self.target
                .bring_blob(self.target_repository, blob, source, self.siblings)
        };
        let arrival = patiently(bring).await?;
        crash::point("copy.blob_arrived");
        Ok((blob.size, arrival))
    }
}
