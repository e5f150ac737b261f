//! Integrity checks: whether a repository has all manifests and blobs of an image.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use sluice_domain::{Digest, Repository, Tag};

use crate::client::Client;
use crate::content::manifest::{MAX_DEPTH, MAX_MANIFESTS, Manifest};
use crate::error::Error;
use crate::http::retry::with_retries;

/// Checks many images of one registry; what they share is checked once.
#[derive(Debug)]
pub struct IntegrityCheck<'a> {
    registry: &'a Client,
    present: Mutex<HashSet<(Repository, Digest)>>,
}

impl<'a> IntegrityCheck<'a> {
    /// Returns a check of a registry.
    #[must_use]
    pub fn new(registry: &'a Client) -> Self {
        Self {
            registry,
            present: Mutex::default(),
        }
    }

    /// Returns the first missing part of an image: the tag that should name the digest, a manifest or a blob.
    pub async fn first_missing(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<Option<String>, Error> {
        match self.registry.head(repository, &tag.into()).await? {
            None => return Ok(Some(format!("tag {tag}"))),
            Some(head) if head.digest != *digest => {
                return Ok(Some(format!("tag {tag}, which names {}", head.digest)));
            }
            Some(_) => {}
        }
        // The bounds are those of a copy, so that a registry cannot prolong the check without an end.
        let mut seen = HashSet::from([digest.clone()]);
        let mut level = vec![digest.clone()];
        for _ in 0..=MAX_DEPTH {
            let mut next = Vec::new();
            for manifest in level {
                if self.is_present(repository, &manifest) {
                    continue;
                }
                let Some(manifest) = self.fetch_manifest(repository, &manifest).await? else {
                    return Ok(Some(format!("manifest {manifest}")));
                };
                for blob in manifest.blobs() {
                    if self.is_blob_missing(repository, &blob.digest).await? {
                        return Ok(Some(format!("blob {}", blob.digest)));
                    }
                }
                let children = manifest.children().iter().map(|child| &child.digest);
                next.extend(
                    children
                        .filter(|child| seen.insert((*child).clone()))
                        .cloned(),
                );
                // An index is complete only with its children, so they are checked every time.
                if manifest.children().is_empty() {
                    self.record_present(repository, &manifest.digest);
                }
            }
            if next.is_empty() {
                return Ok(None);
            }
            if seen.len() > MAX_MANIFESTS {
                let reason = "it has more than 1024 manifests";
                return Err(Error::untrusted(digest, reason));
            }
            level = next;
        }
        Err(Error::untrusted(
            digest,
            "its indexes are nested deeper than 3",
        ))
    }

    async fn fetch_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Manifest>, Error> {
        match self
            .registry
            .fetch_manifest(repository, &digest.into())
            .await
        {
            Ok(manifest) => Ok(Some(manifest)),
            // Bytes with another digest count as missing.
            Err(Error::NotFound { .. } | Error::Untrusted { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn is_blob_missing(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<bool, Error> {
        if self.is_present(repository, digest) {
            return Ok(false);
        }
        let has = with_retries(|| self.registry.has_blob(repository, digest, "pull")).await?;
        if has {
            self.record_present(repository, digest);
        }
        Ok(!has)
    }

    fn is_present(&self, repository: &Repository, digest: &Digest) -> bool {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.contains(&(repository.clone(), digest.clone()))
    }

    fn record_present(&self, repository: &Repository, digest: &Digest) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.insert((repository.clone(), digest.clone()));
    }
}
