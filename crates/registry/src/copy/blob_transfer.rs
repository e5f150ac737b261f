//! Copies one blob into a repository in the cheapest way that works: found, mounted or transferred.

use std::sync::Arc;

use sluice_domain::{Digest, Repository};
use sluice_service::crash;
use url::Url;

use crate::client::Client;
use crate::client::registry_state::blob_locations::BlobLocationCache;
use crate::content::manifest::descriptor::Descriptor;
use crate::copy::blob_download::BlobDownload;
use crate::copy::blob_upload::Upload;
use crate::copy::concurrency_limits::ConcurrencyLimits;
use crate::copy::config_cache::ConfigCache;
use crate::copy::progress::{BlobOutcome, Progress, ProgressListener};
use crate::error::Error;
use crate::http::retry::with_retries;

/// How many repositories that may have a blob are checked.
const MAX_SIBLINGS: usize = 4;
/// From how many cached locations of a blob a mount is tried.
const MAX_HOLDERS: usize = 2;
/// From this size on the transfer of a blob costs more than the checks of siblings.
const MIN_SIBLING_SIZE: u64 = 256 << 10;

/// The copy of one blob: source, destination and how.
pub(crate) struct BlobTransfer<'a> {
    pub(crate) source: &'a Client,
    pub(crate) source_repository: &'a Repository,
    pub(crate) target: &'a Client,
    pub(crate) target_repository: &'a Repository,
    pub(crate) siblings: &'a [Repository],
    pub(crate) listener: Option<&'a Arc<dyn ProgressListener>>,
    pub(crate) limits: &'a ConcurrencyLimits,
    /// The cache for the configurations that are transferred.
    pub(crate) configs: &'a ConfigCache,
    /// Checks each blob at the registry, although it is cached or its manifest exists.
    pub(crate) verify_blobs: bool,
}

/// The state of a blob in the target before a transfer.
enum TargetState {
    Present(BlobOutcome),
    Upload(Url),
}

impl BlobTransfer<'_> {
    /// Ensures that the target has a blob; one that exists costs at most one request.
    pub(crate) async fn ensure_blob(&self, blob: &Descriptor) -> Result<BlobOutcome, Error> {
        let outcome = with_retries(|| self.ensure_once(blob)).await?;
        crash::point("copy.blob_arrived");
        Ok(outcome)
    }

    fn locations(&self) -> &BlobLocationCache {
        &self.target.shared.state.blob_locations
    }

    /// Records that the target has a blob.
    pub(crate) fn record_location(&self, digest: &Digest) {
        self.locations()
            .insert(self.target.account(), self.target_repository, digest);
    }

    /// Removes the record that the target has a blob.
    pub(crate) fn forget_location(&self, digest: &Digest) {
        self.locations()
            .remove(self.target.account(), self.target_repository, digest);
    }

    fn is_cached(&self, digest: &Digest) -> bool {
        let account = self.target.account();
        let locations = self.locations();
        !self.verify_blobs && locations.is_fresh(account, self.target_repository, digest)
    }

    async fn ensure_once(&self, blob: &Descriptor) -> Result<BlobOutcome, Error> {
        let digest = &blob.digest;
        if self.is_cached(digest) {
            return Ok(BlobOutcome::Skipped);
        }
        let locks = &self.target.shared.state.blob_locks;
        // If the registry mounts blobs, one transfer serves all its repositories.
        let only = (!self.locations().mounts()).then_some(self.target_repository);
        let _lock = locks.lock(only, digest).await;
        if self.is_cached(digest) {
            return Ok(BlobOutcome::Skipped);
        }
        let state = {
            let _connection = self.limits.connections(1).await;
            self.try_without_transfer(blob).await?
        };
        let outcome = match state {
            TargetState::Present(outcome) => outcome,
            TargetState::Upload(at) => {
                crash::point("copy.upload_begun");
                if let Err(error) = self.transfer(blob, at.clone()).await {
                    self.target
                        .cancel_upload(self.target_repository, digest, &at)
                        .await;
                    return Err(error);
                }
                BlobOutcome::Copied
            }
        };
        self.record_location(digest);
        if outcome == BlobOutcome::Copied && self.locations().record_upload() {
            self.test_own_mount(digest).await;
        }
        Ok(outcome)
    }

    /// Tests whether the registry mounts a blob within the repository that has it.
    async fn test_own_mount(&self, digest: &Digest) {
        let (repository, locations) = (self.target_repository, self.locations());
        let _connection = self.limits.connections(1).await;
        match self.mount(digest, repository).await {
            Some(Upload::Mounted) => locations.record_own_mount(true),
            Some(Upload::At(at)) => {
                locations.record_own_mount(false);
                self.target.cancel_upload(repository, digest, &at).await;
            }
            None => locations.record_own_mount_failure(),
        }
    }

    /// Finds or mounts a blob, or else starts its upload.
    async fn try_without_transfer(&self, blob: &Descriptor) -> Result<TargetState, Error> {
        let digest = &blob.digest;
        let checks_siblings = blob.size >= MIN_SIBLING_SIZE && !self.siblings.is_empty();
        let mounts = self.locations().mounts();
        let mut open = None;
        // A mount that works shows that the blob exists too.
        if mounts && !self.verify_blobs {
            open = self.mount_cached(digest).await;
            if matches!(open, Some(Upload::Mounted)) {
                return Ok(TargetState::Present(BlobOutcome::Mounted));
            }
        }
        // So does one within the repository; siblings are tried only after a check of the target.
        let locations = self.locations();
        let own = locations.mounts_own() && !checks_siblings;
        if own && open.is_none() && !self.verify_blobs {
            match self.mount(digest, self.target_repository).await {
                Some(Upload::Mounted) => return Ok(TargetState::Present(BlobOutcome::Skipped)),
                Some(Upload::At(at)) => return Ok(TargetState::Upload(at)),
                None => locations.record_own_mount_failure(),
            }
        }
        if self.target_has(digest).await? {
            if let Some(Upload::At(at)) = &open {
                self.target
                    .cancel_upload(self.target_repository, digest, at)
                    .await;
            }
            return Ok(TargetState::Present(BlobOutcome::Skipped));
        }
        if open.is_none() && (!mounts || self.verify_blobs) {
            open = self.mount_cached(digest).await;
        }
        if open.is_none() && checks_siblings {
            open = self.mount_sibling(digest).await;
        }
        let upload = match open {
            Some(upload) => upload,
            None => {
                self.target
                    .start_upload(self.target_repository, digest, None)
                    .await?
            }
        };
        Ok(match upload {
            Upload::Mounted => TargetState::Present(BlobOutcome::Mounted),
            Upload::At(at) => TargetState::Upload(at),
        })
    }

    async fn target_has(&self, digest: &Digest) -> Result<bool, Error> {
        let has_blob = self
            .target
            .has_blob(self.target_repository, digest, "pull,push");
        match has_blob.await {
            // After a full disk a registry may have damaged metadata of a blob; another upload repairs it.
            Err(error) if error.is_unreachable() => {
                tracing::debug!(image.digest = %digest, %error, "check of the blob failed; copying it");
                Ok(false)
            }
            other => other,
        }
    }

    /// Mounts from a repository that has the blob, by the cache or as the source.
    async fn mount_cached(&self, digest: &Digest) -> Option<Upload> {
        let (locations, account) = (self.locations(), self.target.account());
        let mut holders = locations.holders(account, self.target_repository, digest);
        holders.truncate(MAX_HOLDERS);
        // An image that exists in the same registry has its blobs.
        if self.source.is_same_registry(self.target)
            && self.source_repository != self.target_repository
        {
            holders.retain(|holder| holder != self.source_repository);
            holders.insert(0, self.source_repository.clone());
        }
        for holder in &holders {
            let upload = self.mount(digest, holder).await;
            locations.record_mount(matches!(upload, Some(Upload::Mounted)));
            match upload {
                Some(Upload::Mounted) => return upload,
                Some(Upload::At(_)) => {
                    locations.remove(account, holder, digest);
                    return upload;
                }
                None => locations.remove(account, holder, digest),
            }
        }
        None
    }

    /// Mounts from the first sibling that has the blob; the last one is not checked before, since a mount that fails starts
    /// an upload anyway.
    async fn mount_sibling(&self, digest: &Digest) -> Option<Upload> {
        let others = self
            .siblings
            .iter()
            .filter(|sibling| *sibling != self.target_repository);
        let siblings: Vec<&Repository> = others.take(MAX_SIBLINGS).collect();
        for (position, sibling) in siblings.iter().enumerate() {
            if position + 1 < siblings.len() {
                match self.target.has_blob(sibling, digest, "pull").await {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error) => {
                        tracing::debug!(image.repository = %sibling, image.digest = %digest, %error, "sibling not checked");
                        continue;
                    }
                }
            }
            let upload = self.mount(digest, sibling).await;
            if upload.is_some() {
                return upload;
            }
        }
        None
    }

    /// Requests a mount; an error only means that there is none.
    async fn mount(&self, digest: &Digest, from: &Repository) -> Option<Upload> {
        let upload = self
            .target
            .start_upload(self.target_repository, digest, Some(from));
        match upload.await {
            Ok(upload) => {
                if matches!(upload, Upload::Mounted) {
                    let account = self.target.account();
                    self.locations().insert(account, from, digest);
                }
                Some(upload)
            }
            Err(error) => {
                tracing::debug!(image.repository = %from, image.digest = %digest, %error, "not mounted");
                None
            }
        }
    }

    async fn transfer(&self, blob: &Descriptor, at: Url) -> Result<(), Error> {
        let _bytes = self.limits.bytes(blob.size).await;
        let _connections = self.limits.connections(2).await;
        let (digest, size) = (&blob.digest, blob.size);
        if let Some(listener) = self.listener {
            listener.on_progress(&Progress::BlobStarted { digest, size });
        }
        let from = (self.source, self.source_repository);
        let listener = self.listener.cloned();
        let mut download = BlobDownload::open(from, blob, Some(self.target), listener).await?;
        let config = self
            .configs
            .is_expected(blob)
            .then(|| download.keep_config());
        self.target
            .upload_blob(self.target_repository, blob, at, download)
            .await?;
        if let Some(config) = config {
            self.configs.insert(digest, &config);
        }
        Ok(())
    }
}
