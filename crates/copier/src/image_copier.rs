//! Copies one image, or estimates the cost: a HEAD at each end, and no more where the target is up to date.

use std::sync::Arc;

use sluice_domain::{Digest, RemoteRepository, Repository, Tag};
use sluice_registry::{
    Client, ConcurrencyLimits, CopyJob, CopyOptions, Destination, Error, Estimator, Manifest,
    ManifestRef,
};
use tokio::sync::Mutex;

use crate::clients::{Clients, Side};
use crate::image::{Image, Target};
use crate::outcome::{CopyOutcome, TransferStats, Work};
use crate::progress::Progress;

/// How many times a tag that moves during a copy is resolved again.
const MAX_MOVES: u32 = 3;

/// The clients, limits and progress of all copies of a session.
#[derive(Debug)]
pub(crate) struct ImageCopier {
    pub(crate) clients: Clients,
    pub(crate) progress: Arc<dyn Progress>,
    pub(crate) limits: Option<ConcurrencyLimits>,
    /// Estimates the cost instead of copying.
    pub(crate) estimator: Option<Mutex<Estimator>>,
}

/// A manifest to copy with everything below it.
pub(crate) struct ManifestCopy<'a> {
    /// The name in the progress.
    pub(crate) name: String,
    pub(crate) source: (&'a Client, &'a Repository),
    pub(crate) destination: Destination<'a>,
    pub(crate) digest: &'a Digest,
    /// The tag at the destination.
    pub(crate) tag: Option<Tag>,
    /// The manifest, where it was fetched already or differs from that of the source.
    pub(crate) manifest: Option<Manifest>,
    pub(crate) max_bytes: Option<u64>,
}

impl ImageCopier {
    /// Tells whether nothing is written.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.estimator.is_some()
    }

    /// Copies an image, or estimates that; follows a tag that moves meanwhile.
    pub(crate) async fn copy_image(
        &self,
        source: &Client,
        image: &Image,
    ) -> anyhow::Result<CopyOutcome> {
        let (digest, before) = tokio::join!(resolve(source, image), self.current_digest(image));
        let (mut digest, before) = (digest?, before?);
        for _ in 0..MAX_MOVES {
            let copied = self.copy_digest(source, image, &digest, before.clone());
            let error = match copied.await {
                Err(error) if is_not_found(&error) => error,
                ended => return ended,
            };
            // The tag may have moved, and its previous manifest may be deleted.
            let resolved = resolve(source, image).await?;
            if resolved == digest {
                return Err(error);
            }
            digest = resolved;
        }
        self.copy_digest(source, image, &digest, before).await
    }

    async fn copy_digest(
        &self,
        source: &Client,
        image: &Image,
        digest: &Digest,
        before: Option<Digest>,
    ) -> anyhow::Result<CopyOutcome> {
        if let Some(current) = &before
            && self.is_up_to_date(image, digest, current).await?
        {
            return Ok(CopyOutcome::new(current.clone(), before, Work::Unchanged));
        }
        let filtered = if image.platforms.is_all() {
            None
        } else {
            let index =
                source.fetch_filtered_manifest(&image.source.repository, digest, &image.platforms);
            Some(index.await?)
        };
        let digest = filtered.as_ref().map_or(digest, |index| &index.digest);
        let digest = digest.clone();
        if before.as_ref() == Some(&digest) {
            return Ok(CopyOutcome::new(digest, before, Work::Unchanged));
        }
        let client = match &image.target {
            Target::Registry(target) => Some(self.clients.client(Side::Destination, &target.host)?),
            Target::Recorded(..) => None,
        };
        let (Target::Registry(RemoteRepository { repository, .. })
        | Target::Recorded(repository, _)) = &image.target;
        let copy = ManifestCopy {
            name: image.to_string(),
            source: (source, &image.source.repository),
            destination: Destination {
                registry: client.as_ref(),
                repository,
            },
            digest: &digest,
            // The tag is written last, so it never points to an incomplete image.
            tag: image.tag.clone(),
            manifest: filtered,
            max_bytes: None,
        };
        let work = self.copy(copy).await?;
        Ok(CopyOutcome::new(digest, before, work))
    }

    /// Copies a manifest, or estimates the cost.
    pub(crate) async fn copy(&self, copy: ManifestCopy<'_>) -> anyhow::Result<Work> {
        if let Some(estimator) = &self.estimator {
            let mut estimator = estimator.lock().await;
            if let Some(manifest) = &copy.manifest {
                estimator.add_manifest(manifest);
            }
            let cost = estimator.estimate_copy(copy.source, copy.digest, copy.destination);
            return Ok(Work::Planned(cost.await?));
        }
        let Some(target) = copy.destination.registry else {
            anyhow::bail!("`{}` has no registry to be copied to", copy.name);
        };
        let progress = self.progress.image(copy.name);
        let job = CopyJob {
            source: copy.source.0,
            source_repository: copy.source.1,
            digest: copy.digest,
            target,
            target_repository: copy.destination.repository,
            siblings: &[],
        };
        let options = CopyOptions {
            listener: Some(progress.clone()),
            limits: self.limits.clone(),
            tag: copy.tag,
            root: copy.manifest,
            max_blob_bytes: copy.max_bytes,
            ..CopyOptions::default()
        };
        let copied = job.run_with(&options).await?;
        progress.complete();
        Ok(Work::Copied(TransferStats::from(&copied)))
    }

    /// Tells whether the target has a digest, or with a platform filter the index that is filtered from it.
    async fn is_up_to_date(
        &self,
        image: &Image,
        digest: &Digest,
        current: &Digest,
    ) -> anyhow::Result<bool> {
        let (Target::Registry(target), false) = (&image.target, image.platforms.is_all()) else {
            return Ok(current == digest);
        };
        let client = self.clients.client(Side::Destination, &target.host)?;
        if current == digest {
            // A single image must be for one of the platforms.
            let filtered =
                client.fetch_filtered_manifest(&target.repository, digest, &image.platforms);
            return Ok(filtered.await?.digest == *digest);
        }
        let manifest = client
            .fetch_manifest(&target.repository, &current.into())
            .await?;
        Ok(manifest.is_filtered_from(digest, &image.platforms))
    }

    /// Returns the digest at the target.
    async fn current_digest(&self, image: &Image) -> anyhow::Result<Option<Digest>> {
        match &image.target {
            Target::Recorded(_, digests) => {
                Ok(image.tag.as_ref().and_then(|tag| digests.get(tag)).cloned())
            }
            Target::Registry(target) => {
                let client = self.clients.client(Side::Destination, &target.host)?;
                let reference = image
                    .tag
                    .as_ref()
                    .map_or_else(|| image.reference.clone(), ManifestRef::from);
                let head = client.head(&target.repository, &reference).await?;
                Ok(head.map(|head| head.digest))
            }
        }
    }
}

/// Returns the digest of an image at its source.
async fn resolve(source: &Client, image: &Image) -> anyhow::Result<Digest> {
    match &image.reference {
        ManifestRef::Digest(digest) => Ok(digest.clone()),
        ManifestRef::Tag(_) => {
            let head = source.resolve(&image.source.repository, &image.reference);
            let head = head.await?.ok_or_else(|| Error::NotFound {
                object: image.to_string(),
            })?;
            Ok(head.digest)
        }
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(Error::is_not_found)
}
