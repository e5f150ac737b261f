//! Brings one blob into a repository in the cheapest way that works.

use std::sync::Arc;

use sluice_domain::{Digest, Repository};
use sluice_service::crash;
use url::Url;

use crate::blob::Upload;
use crate::client::Client;
use crate::configs::Configs;
use crate::error::Error;
use crate::fetch::Fetch;
use crate::limits::Limits;
use crate::manifest::Descriptor;
use crate::progress::{Arrival, Progress, Watch};
use crate::retry::with_retries;

/// How many repositories that may have a blob are asked for it.
const MOST_SIBLINGS: usize = 4;
/// How many repositories that are known to have a blob are tried.
const MOST_HOLDERS: usize = 2;
/// From how many bytes on a blob costs more than to ask siblings for it.
const WORTH_ASKING: u64 = 256 << 10;

/// The copy of one blob: source, destination and how.
pub(crate) struct BlobTransfer<'a> {
    pub(crate) source: &'a Client,
    pub(crate) source_repository: &'a Repository,
    pub(crate) target: &'a Client,
    pub(crate) target_repository: &'a Repository,
    pub(crate) siblings: &'a [Repository],
    pub(crate) watch: Option<&'a Arc<dyn Watch>>,
    pub(crate) limits: &'a Limits,
    /// Where configurations are kept that are transferred.
    pub(crate) configs: &'a Configs,
    /// Asks the registry, whatever is known.
    pub(crate) thorough: bool,
}

/// How far it is without a transfer.
enum Reached {
    There(Arrival),
    Upload(Url),
}

impl BlobTransfer<'_> {
    /// Brings a blob; what is there already costs at most a look.
    pub(crate) async fn bring(&self, blob: &Descriptor) -> Result<Arrival, Error> {
        let arrival = with_retries(|| self.bring_once(blob)).await?;
        crash::point("copy.blob_arrived");
        Ok(arrival)
    }

    /// Remembers that the target has a blob.
    pub(crate) fn note(&self, digest: &Digest) {
        let known = &self.target.shared.common.known;
        known.note(self.target.account(), self.target_repository, digest);
    }

    /// Forgets what is remembered of a blob in the target.
    pub(crate) fn forget(&self, digest: &Digest) {
        let known = &self.target.shared.common.known;
        known.forget(self.target.account(), self.target_repository, digest);
    }

    fn is_known(&self, digest: &Digest) -> bool {
        let known = &self.target.shared.common.known;
        !self.thorough && known.is_fresh(self.target.account(), self.target_repository, digest)
    }

    async fn bring_once(&self, blob: &Descriptor) -> Result<Arrival, Error> {
        let digest = &blob.digest;
        if self.is_known(digest) {
            return Ok(Arrival::Skipped);
        }
        let common = &self.target.shared.common;
        // Where blobs can be mounted, one transfer serves all repositories.
        let only = (!common.known.mounts()).then_some(self.target_repository);
        let _turn = common.turns.turn(only, digest).await;
        if self.is_known(digest) {
            return Ok(Arrival::Skipped);
        }
        let reached = {
            let _connection = self.limits.connections(1).await;
            self.reach(blob).await?
        };
        let arrival = match reached {
            Reached::There(arrival) => arrival,
            Reached::Upload(at) => {
                crash::point("copy.upload_begun");
                if let Err(error) = self.transfer(blob, at.clone()).await {
                    self.target
                        .give_up(self.target_repository, digest, &at)
                        .await;
                    return Err(error);
                }
                Arrival::Copied
            }
        };
        self.note(digest);
        if arrival == Arrival::Copied && common.known.uploaded() {
            self.try_own(digest).await;
        }
        Ok(arrival)
    }

    /// Finds out whether the registry mounts a blob from the repository where it is.
    async fn try_own(&self, digest: &Digest) {
        let (repository, known) = (self.target_repository, &self.target.shared.common.known);
        let _connection = self.limits.connections(1).await;
        match self.mount(digest, repository).await {
            Some(Upload::Mounted) => known.mounted_own(true),
            Some(Upload::At(at)) => {
                known.mounted_own(false);
                self.target.give_up(repository, digest, &at).await;
            }
            None => known.not_mounted_own(),
        }
    }

    /// Goes as far as it can without sending the blob.
    async fn reach(&self, blob: &Descriptor) -> Result<Reached, Error> {
        let digest = &blob.digest;
        let asks_siblings = blob.size >= WORTH_ASKING && !self.siblings.is_empty();
        let mounts = self.target.shared.common.known.mounts();
        let mut open = None;
        // A mount that works answers too whether the blob is there.
        if mounts && !self.thorough {
            open = self.mount_known(digest).await;
            if matches!(open, Some(Upload::Mounted)) {
                return Ok(Reached::There(Arrival::Mounted));
            }
        }
        // So does one from the repository itself, where it works; others that may have the blob are asked after a look.
        let known = &self.target.shared.common.known;
        let own = known.mounts_own() && !asks_siblings;
        if own && open.is_none() && !self.thorough {
            match self.mount(digest, self.target_repository).await {
                Some(Upload::Mounted) => return Ok(Reached::There(Arrival::Skipped)),
                Some(Upload::At(at)) => return Ok(Reached::Upload(at)),
                None => known.not_mounted_own(),
            }
        }
        if self.is_there(digest).await? {
            if let Some(Upload::At(at)) = &open {
                self.target
                    .give_up(self.target_repository, digest, at)
                    .await;
            }
            return Ok(Reached::There(Arrival::Skipped));
        }
        if open.is_none() && (!mounts || self.thorough) {
            open = self.mount_known(digest).await;
        }
        if open.is_none() && asks_siblings {
            open = self.mount_sibling(digest).await;
        }
        let upload = match open {
            Some(upload) => upload,
            None => {
                self.target
                    .start(self.target_repository, digest, None)
                    .await?
            }
        };
        Ok(match upload {
            Upload::Mounted => Reached::There(Arrival::Mounted),
            Upload::At(at) => Reached::Upload(at),
        })
    }

    async fn is_there(&self, digest: &Digest) -> Result<bool, Error> {
        let look = self
            .target
            .has_blob(self.target_repository, digest, "pull,push");
        match look.await {
            // A registry whose disk was full may have kept half of what it knows of a blob; bringing it again mends that.
            Err(error) if error.is_unreachable() => {
                tracing::debug!(image.digest = %digest, %error, "brought whether it is there or not");
                Ok(false)
            }
            other => other,
        }
    }

    /// Mounts from a repository that has the blob, as far as is known.
    async fn mount_known(&self, digest: &Digest) -> Option<Upload> {
        let (known, account) = (&self.target.shared.common.known, self.target.account());
        let mut holders = known.holders(account, self.target_repository, digest);
        holders.truncate(MOST_HOLDERS);
        // An image that is there has its blobs.
        if self.source.is_at(self.target) && self.source_repository != self.target_repository {
            holders.retain(|holder| holder != self.source_repository);
            holders.insert(0, self.source_repository.clone());
        }
        for holder in &holders {
            let upload = self.mount(digest, holder).await;
            known.mounted(matches!(upload, Some(Upload::Mounted)));
            match upload {
                Some(Upload::Mounted) => return upload,
                Some(Upload::At(_)) => {
                    known.forget(account, holder, digest);
                    return upload;
                }
                None => known.forget(account, holder, digest),
            }
        }
        None
    }

    /// Mounts from the first sibling that has the blob; the last one is not asked beforehand, as a mount that does not
    /// work is as good as a new upload.
    async fn mount_sibling(&self, digest: &Digest) -> Option<Upload> {
        let others = self
            .siblings
            .iter()
            .filter(|sibling| *sibling != self.target_repository);
        let siblings: Vec<&Repository> = others.take(MOST_SIBLINGS).collect();
        for (position, sibling) in siblings.iter().enumerate() {
            if position + 1 < siblings.len() {
                match self.target.has_blob(sibling, digest, "pull").await {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error) => {
                        tracing::debug!(image.repository = %sibling, image.digest = %digest, %error, "not looked up");
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

    /// Asks to mount; a repository that cannot be read or used stops nothing.
    async fn mount(&self, digest: &Digest, from: &Repository) -> Option<Upload> {
        let upload = self
            .target
            .start(self.target_repository, digest, Some(from));
        match upload.await {
            Ok(upload) => {
                if matches!(upload, Upload::Mounted) {
                    let known = &self.target.shared.common.known;
                    known.note(self.target.account(), from, digest);
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
        if let Some(watch) = self.watch {
            watch.note(&Progress::Begun { digest, size });
        }
        let from = (self.source, self.source_repository);
        let mut fetch = Fetch::open(from, blob, Some(self.target), self.watch.cloned()).await?;
        let kept = self.configs.is_wanted(blob).then(|| fetch.keep());
        self.target
            .upload(self.target_repository, blob, at, fetch)
            .await?;
        if let Some(kept) = kept {
            self.configs.insert(digest, &kept);
        }
        Ok(())
    }
}
