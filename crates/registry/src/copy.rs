//! Copies an image or a whole index by digest: blobs, then children, then the top.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sluice_domain::{Digest, Repository, Tag};
use sluice_service::crash;

use crate::blob_transfer::BlobTransfer;
use crate::client::Client;
use crate::configs::Configs;
use crate::error::Error;
use crate::limits::Limits;
use crate::manifest::{Descriptor, Manifest, ManifestRef};
use crate::progress::{Arrival, Progress, Watch};

pub(crate) const MAX_DEPTH: usize = 3;
pub(crate) const MAX_MANIFESTS: usize = 1_024;
/// The most bytes of all manifests of one image.
const MAX_BYTES: usize = 64 << 20;
const PARALLEL_BLOBS: usize = 4;
const PARALLEL_MANIFESTS: usize = 4;

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
    /// Repositories of the target registry that may have its blobs, the likeliest first; few of them are asked.
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
    /// The tag under which the top is written, for whoever has no other rules for tags; without one, its digest.
    pub tag: Option<Tag>,
    /// The top, where it is not what the source has under the digest but a part of that.
    pub top: Option<Manifest>,
    /// Who writes the top.
    pub top_write: TopWrite,
    /// The most bytes that its blobs may have together, for what nobody chose.
    pub most_bytes: Option<u64>,
}

/// Who writes the top of what is copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TopWrite {
    /// The copy, once everything below is there.
    #[default]
    Copy,
    /// Whoever asked for the copy, with the tag. An index is written here all the same: while it is missing, nobody who
    /// clears away what an interrupted copy left would find its children.
    Caller,
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The image or index itself.
    pub top: Manifest,
    /// What is below it.
    pub below: Vec<Manifest>,
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
    /// The small configurations of images that were transferred, by their digest.
    pub configs: HashMap<Digest, Bytes>,
}

/// A manifest, and whether the target has it already.
struct ResolvedManifest {
    manifest: Manifest,
    present: bool,
}

/// One try of a copy.
struct Attempt<'a> {
    bringing: BlobTransfer<'a>,
    digest: &'a Digest,
    tag: Option<&'a Tag>,
    top: Option<&'a Manifest>,
    top_write: TopWrite,
    most_bytes: Option<u64>,
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
        let limits = options.limits.clone().unwrap_or_else(Limits::of_process);
        let configs = Configs::default();
        let mut attempt = Attempt {
            bringing: BlobTransfer {
                source: self.source,
                source_repository: self.source_repository,
                target: self.target,
                target_repository: self.target_repository,
                siblings: self.siblings,
                watch: options.watch.as_ref(),
                limits: &limits,
                configs: &configs,
                thorough: options.thorough,
            },
            digest: self.digest,
            tag: options.tag.as_ref(),
            top: options.top.as_ref(),
            top_write: options.top_write,
            most_bytes: options.most_bytes,
        };
        let copied = match attempt.run().await {
            // The registry lacks what it was seen to have.
            Err(error) if error.is_missing_part() && !options.thorough => {
                tracing::debug!(%error, "looking closer");
                attempt.bringing.thorough = true;
                attempt.run().await
            }
            other => other,
        };
        Ok(Copied {
            configs: configs.into_bytes(),
            ..copied?
        })
    }
}

impl Attempt<'_> {
    fn note(&self, progress: &Progress<'_>) {
        if let Some(watch) = self.bringing.watch {
            watch.note(progress);
        }
    }

    async fn run(&self) -> Result<Copied, Error> {
        let levels = self.walk().await?;
        let manifests = levels.iter().flatten().map(|found| &found.manifest);
        self.bringing.configs.want(manifests);
        let (proven, missing) = self.blobs(&levels)?;
        let all = proven.values().chain(missing.values());
        let bytes = all.fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
        if self.most_bytes.is_some_and(|most| bytes > most) {
            let reason = format!("its blobs have {bytes} bytes, more than is taken unasked");
            return Err(Error::untrusted(self.digest, reason));
        }
        self.note(&Progress::Known {
            blobs: u64::try_from(proven.len() + missing.len()).unwrap_or(u64::MAX),
            bytes,
        });
        let mut arrivals = Vec::new();
        for blob in proven.into_values() {
            self.bringing.note(&blob.digest);
            arrivals.push(self.ended(blob, Arrival::Skipped));
        }
        let transfers: Vec<_> = missing
            .into_values()
            .rev()
            .map(|blob| async {
                let arrival = self.bringing.bring(blob).await?;
                Ok::<_, Error>(self.ended(blob, arrival))
            })
            .collect();
        let brought: Vec<_> = stream::iter(transfers)
            .buffer_unordered(PARALLEL_BLOBS)
            .try_collect()
            .await?;
        arrivals.extend(brought);
        self.write(&levels).await?;
        let mut levels = levels.into_iter().flatten();
        let top = levels.next();
        let top = top.ok_or_else(|| Error::untrusted(self.digest, "it has no manifest"))?;
        let below = levels.map(|found| found.manifest).collect();
        Ok(Copied::of(top.manifest, below, arrivals))
    }

    fn ended(&self, blob: &Descriptor, arrival: Arrival) -> (u64, Arrival) {
        let (digest, size) = (&blob.digest, blob.size);
        self.note(&Progress::Ended {
            digest,
            size,
            arrival,
        });
        (size, arrival)
    }

    /// Returns the top and everything below it, level by level.
    async fn walk(&self) -> Result<Vec<Vec<ResolvedManifest>>, Error> {
        let BlobTransfer { limits, .. } = self.bringing;
        let top = {
            let _connection = limits.connections(1).await;
            self.top().await?
        };
        let mut bytes = top.manifest.raw.len();
        let mut seen = HashSet::from([top.manifest.digest.clone()]);
        let (mut levels, mut level) = (Vec::new(), vec![top]);
        for _ in 0..=MAX_DEPTH {
            let children: Vec<Descriptor> = level
                .iter()
                .flat_map(|found| found.manifest.children())
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
            let fetches: Vec<_> = children.iter().map(|child| self.child(child)).collect();
            let mut found = stream::iter(fetches).buffered(PARALLEL_MANIFESTS);
            while let Some(child) = found.try_next().await? {
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

    /// Fetches the top from the target, where it costs nothing, or else from the source.
    async fn top(&self) -> Result<ResolvedManifest, Error> {
        let bringing = &self.bringing;
        if let Some(top) = self.top {
            let reference = (&top.digest).into();
            let there = bringing.target.head(bringing.target_repository, &reference);
            return Ok(ResolvedManifest {
                manifest: top.clone(),
                present: there.await?.is_some(),
            });
        }
        let reference = self.digest.into();
        let there = bringing
            .target
            .manifest(bringing.target_repository, &reference);
        let (manifest, present) = match there.await {
            Ok(manifest) => (manifest, true),
            Err(error) if error.is_not_found() => {
                let from = bringing.source_repository;
                (bringing.source.manifest(from, &reference).await?, false)
            }
            Err(error) => return Err(error),
        };
        Ok(ResolvedManifest { manifest, present })
    }

    /// Fetches a child in the same way.
    async fn child(&self, child: &Descriptor) -> Result<ResolvedManifest, Error> {
        let bringing = &self.bringing;
        let _connection = bringing.limits.connections(1).await;
        let there = bringing.target.child(bringing.target_repository, child);
        let (manifest, present) = match there.await {
            Ok(manifest) => (manifest, true),
            Err(error) if error.is_not_found() => {
                let from = bringing.source_repository;
                (bringing.source.child(from, child).await?, false)
            }
            Err(error) => return Err(error),
        };
        Ok(ResolvedManifest { manifest, present })
    }

    /// Returns the blobs that a manifest in the target proves to be there, and those that are to be brought, by size.
    fn blobs<'a>(
        &self,
        levels: &'a [Vec<ResolvedManifest>],
    ) -> Result<(Blobs<'a>, Blobs<'a>), Error> {
        let mut sizes = HashMap::new();
        let (mut proven, mut missing) = (Blobs::new(), Blobs::new());
        for found in levels.iter().flatten() {
            for blob in found.manifest.blobs() {
                if *sizes.entry(&blob.digest).or_insert(blob.size) != blob.size {
                    let reason = "its manifests say different sizes of it";
                    return Err(Error::untrusted(&blob.digest, reason));
                }
                let is_proven = found.present && !self.bringing.thorough;
                let blobs = if is_proven { &mut proven } else { &mut missing };
                blobs.insert((blob.size, &blob.digest), blob);
            }
        }
        missing.retain(|key, _| !proven.contains_key(key));
        Ok((proven, missing))
    }

    /// Writes the manifests that the target lacks, those below before those above.
    async fn write(&self, levels: &[Vec<ResolvedManifest>]) -> Result<(), Error> {
        for (depth, level) in levels.iter().enumerate().rev() {
            if levels.len() == 1 && self.top_write == TopWrite::Caller {
                return Ok(());
            }
            let tag = self.tag.filter(|_| depth == 0);
            let wanted = level.iter().filter(|found| !found.present || tag.is_some());
            let writes: Vec<_> = wanted
                .map(|found| {
                    let digest = &found.manifest.digest;
                    let reference = tag.map_or_else(|| digest.into(), ManifestRef::from);
                    self.put(&found.manifest, reference)
                })
                .collect();
            stream::iter(writes)
                .buffer_unordered(PARALLEL_MANIFESTS)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    async fn put(&self, manifest: &Manifest, reference: ManifestRef) -> Result<(), Error> {
        let (bringing, digest) = (&self.bringing, &manifest.digest);
        let _connection = bringing.limits.connections(1).await;
        let repository = bringing.target_repository;
        let written = bringing
            .target
            .put_manifest(repository, &reference, manifest);
        if let Err(error) = written.await {
            // It may be for the lack of one of them.
            for blob in manifest.blobs() {
                bringing.forget(&blob.digest);
            }
            return Err(error);
        }
        self.note(&Progress::Manifest { digest });
        crash::point("copy.manifest_put");
        Ok(())
    }
}

type Blobs<'a> = BTreeMap<(u64, &'a Digest), &'a Descriptor>;

impl Copied {
    fn of(top: Manifest, below: Vec<Manifest>, arrivals: Vec<(u64, Arrival)>) -> Self {
        let mut copied = Self {
            top,
            below,
            size_bytes: 0,
            blobs_copied: 0,
            blobs_mounted: 0,
            blobs_skipped: 0,
            bytes_copied: 0,
            configs: HashMap::new(),
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
