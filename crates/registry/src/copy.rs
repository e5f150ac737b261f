//! Copies an image or a whole index by digest: blobs, then children, then the root.

mod blob_download;
mod blob_transfer;
mod blob_upload;
pub(crate) mod concurrency_limits;
mod config_cache;
pub(crate) mod estimate;
pub(crate) mod integrity;
pub(crate) mod progress;
mod verified_stream;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sluice_domain::{Digest, Repository, Tag};
use sluice_service::crash;

use crate::client::Client;
use crate::content::manifest::descriptor::Descriptor;
use crate::content::manifest::{MAX_DEPTH, MAX_MANIFESTS, Manifest, ManifestRef};
use crate::error::Error;

use self::blob_transfer::BlobTransfer;
use self::concurrency_limits::ConcurrencyLimits;
use self::config_cache::ConfigCache;
use self::progress::{BlobOutcome, Progress, ProgressListener};

/// The most bytes of all manifests of one image.
const MAX_BYTES: usize = 64 << 20;
const PARALLEL_BLOBS: usize = 4;
const PARALLEL_MANIFESTS: usize = 4;

/// The copy of an image or index between two repositories.
#[derive(Debug)]
pub struct CopyJob<'a> {
    /// The source registry.
    pub source: &'a Client,
    /// The source repository.
    pub source_repository: &'a Repository,
    /// The image or index.
    pub digest: &'a Digest,
    /// The target registry.
    pub target: &'a Client,
    /// The target repository.
    pub target_repository: &'a Repository,
    /// Repositories of the target registry that may have its blobs, the likeliest first; only a few are checked.
    pub siblings: &'a [Repository],
}

/// How to copy.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// The listener to the progress.
    pub listener: Option<Arc<dyn ProgressListener>>,
    /// Limits that this copy shares with others; those of the process by default.
    pub limits: Option<ConcurrencyLimits>,
    /// Checks every blob, although a manifest in the target proves that its blobs exist; for an audit.
    pub verify_blobs: bool,
    /// The tag under which the root is pushed, for a caller without other rules for tags; without one, its digest.
    pub tag: Option<Tag>,
    /// The root, if it is a filtered index rather than the manifest that the source has under the digest.
    pub root: Option<Manifest>,
    /// Who pushes the root.
    pub root_push: RootPush,
    /// The most bytes of all blobs, for images that nobody has selected.
    pub max_blob_bytes: Option<u64>,
}

/// Who pushes the root of what is copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RootPush {
    /// The copy, once everything below is in the target.
    #[default]
    Copy,
    /// The caller, with the tag. An index is pushed by the copy all the same: without it the sweep after an interrupted
    /// copy would not find its children.
    Caller,
}

/// The result of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyReport {
    /// The image or index itself.
    pub root: Manifest,
    /// The manifests below it.
    pub children: Vec<Manifest>,
    /// The size of all blobs in bytes.
    pub size_bytes: u64,
    /// Blobs that were transferred.
    pub blobs_copied: u64,
    /// Blobs that were mounted from another repository.
    pub blobs_mounted: u64,
    /// Blobs that existed in the target.
    pub blobs_skipped: u64,
    /// Bytes that were transferred.
    pub bytes_copied: u64,
    /// The small configurations of images that were transferred, by their digest.
    pub configs: HashMap<Digest, Bytes>,
}

/// A manifest, and whether the target has it already.
struct ResolvedManifest {
    manifest: Manifest,
    is_present: bool,
}

/// One attempt at a copy.
struct Attempt<'a> {
    transfer: BlobTransfer<'a>,
    digest: &'a Digest,
    options: &'a CopyOptions,
}

impl CopyJob<'_> {
    /// Copies with the default options; blobs and manifests that the target has are not transferred again.
    ///
    /// # Errors
    /// Content that does not have its digest, of which nothing is stored, or an error of either registry.
    pub async fn run(&self) -> Result<CopyReport, Error> {
        self.run_with(&CopyOptions::default()).await
    }

    /// Copies with options. Dropping the future cancels the copy.
    ///
    /// # Errors
    /// As [`CopyJob::run`].
    pub async fn run_with(&self, options: &CopyOptions) -> Result<CopyReport, Error> {
        let limits = options
            .limits
            .clone()
            .unwrap_or_else(ConcurrencyLimits::of_process);
        let configs = ConfigCache::default();
        let mut attempt = Attempt {
            transfer: BlobTransfer {
                source: self.source,
                source_repository: self.source_repository,
                target: self.target,
                target_repository: self.target_repository,
                siblings: self.siblings,
                listener: options.listener.as_ref(),
                limits: &limits,
                configs: &configs,
                verify_blobs: options.verify_blobs,
            },
            digest: self.digest,
            options,
        };
        let report = match attempt.run().await {
            // The target lacks a blob that it was seen to have.
            Err(error) if error.is_missing_reference() && !options.verify_blobs => {
                tracing::debug!(%error, "copy failed; retrying with a check of every blob");
                attempt.transfer.verify_blobs = true;
                attempt.run().await
            }
            other => other,
        };
        Ok(CopyReport {
            configs: configs.into_bytes(),
            ..report?
        })
    }
}

impl Attempt<'_> {
    fn report(&self, progress: &Progress<'_>) {
        if let Some(listener) = self.transfer.listener {
            listener.on_progress(progress);
        }
    }

    async fn run(&self) -> Result<CopyReport, Error> {
        let levels = self.resolve().await?;
        let manifests = levels.iter().flatten().map(|resolved| &resolved.manifest);
        self.transfer.configs.expect(manifests);
        let (proven, missing) = self.blobs(&levels)?;
        let all = proven.values().chain(missing.values());
        let bytes = all.fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
        if self.options.max_blob_bytes.is_some_and(|max| bytes > max) {
            let reason = format!("its blobs have {bytes} bytes, more than are copied unasked");
            return Err(Error::untrusted(self.digest, reason));
        }
        self.report(&Progress::Planned {
            blobs: u64::try_from(proven.len() + missing.len()).unwrap_or(u64::MAX),
            bytes,
        });
        let mut outcomes = Vec::new();
        for blob in proven.into_values() {
            self.transfer.record_location(&blob.digest);
            outcomes.push(self.report_blob(blob, BlobOutcome::Skipped));
        }
        let transfers: Vec<_> = missing
            .into_values()
            .rev()
            .map(|blob| async {
                let outcome = self.transfer.ensure_blob(blob).await?;
                Ok::<_, Error>(self.report_blob(blob, outcome))
            })
            .collect();
        let transferred: Vec<_> = stream::iter(transfers)
            .buffer_unordered(PARALLEL_BLOBS)
            .try_collect()
            .await?;
        outcomes.extend(transferred);
        self.push_manifests(&levels).await?;
        let mut levels = levels.into_iter().flatten();
        let root = levels.next();
        let root = root.ok_or_else(|| Error::untrusted(self.digest, "it has no manifest"))?;
        let children = levels.map(|resolved| resolved.manifest).collect();
        Ok(CopyReport::new(root.manifest, children, outcomes))
    }

    fn report_blob(&self, blob: &Descriptor, outcome: BlobOutcome) -> (u64, BlobOutcome) {
        let (digest, size) = (&blob.digest, blob.size);
        self.report(&Progress::BlobDone {
            digest,
            size,
            outcome,
        });
        (size, outcome)
    }

    /// Returns the root and everything below it, level by level.
    async fn resolve(&self) -> Result<Vec<Vec<ResolvedManifest>>, Error> {
        let limits = self.transfer.limits;
        let root = {
            let _connection = limits.connections(1).await;
            self.resolve_root().await?
        };
        let mut bytes = root.manifest.raw.len();
        let mut seen = HashSet::from([root.manifest.digest.clone()]);
        let (mut levels, mut level) = (Vec::new(), vec![root]);
        for _ in 0..=MAX_DEPTH {
            let children: Vec<Descriptor> = level
                .iter()
                .flat_map(|resolved| resolved.manifest.children())
                .filter(|child| seen.insert(child.digest.clone()))
                .cloned()
                .collect();
            if seen.len() > MAX_MANIFESTS {
                return Err(Error::untrusted(
                    self.digest,
                    "it has more than 1024 manifests",
                ));
            }
            levels.push(level);
            if children.is_empty() {
                return Ok(levels);
            }
            level = Vec::new();
            let fetches: Vec<_> = children
                .iter()
                .map(|child| self.resolve_child(child))
                .collect();
            let mut fetched = stream::iter(fetches).buffered(PARALLEL_MANIFESTS);
            while let Some(child) = fetched.try_next().await? {
                bytes = bytes.saturating_add(child.manifest.raw.len());
                if bytes > MAX_BYTES {
                    let reason = "its manifests are larger than 64 MiB together";
                    return Err(Error::untrusted(self.digest, reason));
                }
                level.push(child);
            }
        }
        Err(Error::untrusted(
            self.digest,
            "its indexes are nested deeper than 3",
        ))
    }

    /// Fetches the root from the target, where it costs no pull, or else from the source.
    async fn resolve_root(&self) -> Result<ResolvedManifest, Error> {
        let BlobTransfer {
            source,
            source_repository,
            target,
            target_repository,
            ..
        } = self.transfer;
        if let Some(root) = &self.options.root {
            let reference = (&root.digest).into();
            let head = target.head(target_repository, &reference).await?;
            return Ok(ResolvedManifest {
                manifest: root.clone(),
                is_present: head.is_some(),
            });
        }
        let reference = self.digest.into();
        let fetched = target.fetch_manifest(target_repository, &reference).await;
        let source = source.fetch_manifest(source_repository, &reference);
        or_from_source(fetched, source).await
    }

    /// Fetches a child in the same way.
    async fn resolve_child(&self, child: &Descriptor) -> Result<ResolvedManifest, Error> {
        let BlobTransfer {
            source,
            source_repository,
            target,
            target_repository,
            limits,
            ..
        } = self.transfer;
        let _connection = limits.connections(1).await;
        let fetched = target.fetch_child(target_repository, child).await;
        or_from_source(fetched, source.fetch_child(source_repository, child)).await
    }

    /// Returns the blobs that a manifest in the target proves to exist, and those that may be missing, by size.
    fn blobs<'a>(
        &self,
        levels: &'a [Vec<ResolvedManifest>],
    ) -> Result<(Blobs<'a>, Blobs<'a>), Error> {
        let mut sizes = HashMap::new();
        let (mut proven, mut missing) = (Blobs::new(), Blobs::new());
        for resolved in levels.iter().flatten() {
            for blob in resolved.manifest.blobs() {
                if *sizes.entry(&blob.digest).or_insert(blob.size) != blob.size {
                    let reason = "its manifests say different sizes of it";
                    return Err(Error::untrusted(&blob.digest, reason));
                }
                let is_proven = resolved.is_present && !self.transfer.verify_blobs;
                let blobs = if is_proven { &mut proven } else { &mut missing };
                blobs.insert((blob.size, &blob.digest), blob);
            }
        }
        missing.retain(|key, _| !proven.contains_key(key));
        Ok((proven, missing))
    }

    /// Pushes the manifests that the target lacks, children before their index.
    async fn push_manifests(&self, levels: &[Vec<ResolvedManifest>]) -> Result<(), Error> {
        for (depth, level) in levels.iter().enumerate().rev() {
            if levels.len() == 1 && self.options.root_push == RootPush::Caller {
                return Ok(());
            }
            let tag = self.options.tag.as_ref().filter(|_| depth == 0);
            let lacking = level
                .iter()
                .filter(|resolved| !resolved.is_present || tag.is_some());
            let pushes: Vec<_> = lacking
                .map(|resolved| {
                    let digest = &resolved.manifest.digest;
                    let reference = tag.map_or_else(|| digest.into(), ManifestRef::from);
                    self.push_manifest(&resolved.manifest, reference)
                })
                .collect();
            stream::iter(pushes)
                .buffer_unordered(PARALLEL_MANIFESTS)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    async fn push_manifest(
        &self,
        manifest: &Manifest,
        reference: ManifestRef,
    ) -> Result<(), Error> {
        let (transfer, digest) = (&self.transfer, &manifest.digest);
        let _connection = transfer.limits.connections(1).await;
        let repository = transfer.target_repository;
        let pushed = transfer
            .target
            .put_manifest(repository, &reference, manifest);
        if let Err(error) = pushed.await {
            // One of the blobs may be missing.
            for blob in manifest.blobs() {
                transfer.forget_location(&blob.digest);
            }
            return Err(error);
        }
        self.report(&Progress::ManifestPushed { digest });
        crash::point("copy.manifest_put");
        Ok(())
    }
}

/// Takes a manifest of the target, or fetches it from the source if the target lacks it.
async fn or_from_source(
    fetched: Result<Manifest, Error>,
    source: impl Future<Output = Result<Manifest, Error>>,
) -> Result<ResolvedManifest, Error> {
    let (manifest, is_present) = match fetched {
        Ok(manifest) => (manifest, true),
        Err(error) if error.is_not_found() => (source.await?, false),
        Err(error) => return Err(error),
    };
    Ok(ResolvedManifest {
        manifest,
        is_present,
    })
}

type Blobs<'a> = BTreeMap<(u64, &'a Digest), &'a Descriptor>;

impl CopyReport {
    fn new(root: Manifest, children: Vec<Manifest>, outcomes: Vec<(u64, BlobOutcome)>) -> Self {
        let mut report = Self {
            root,
            children,
            size_bytes: 0,
            blobs_copied: 0,
            blobs_mounted: 0,
            blobs_skipped: 0,
            bytes_copied: 0,
            configs: HashMap::new(),
        };
        for (size, outcome) in outcomes {
            report.size_bytes = report.size_bytes.saturating_add(size);
            match outcome {
                BlobOutcome::Copied => {
                    report.blobs_copied += 1;
                    report.bytes_copied = report.bytes_copied.saturating_add(size);
                }
                BlobOutcome::Mounted => report.blobs_mounted += 1,
                BlobOutcome::Skipped => report.blobs_skipped += 1,
            }
        }
        report
    }
}
