//! Whether a repository has all of an image: every manifest is read, and every blob asked for.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use sluice_domain::{Digest, Repository, Tag};

use crate::client::Client;
use crate::copy::{MAX_DEPTH, MAX_MANIFESTS};
use crate::error::Error;
use crate::manifest::Manifest;
use crate::retry::with_retries;

/// Looks at many images of one registry, and at what they share once.
#[derive(Debug)]
pub struct Inspection<'a> {
    registry: &'a Client,
    whole: Mutex<HashSet<(Repository, Digest)>>,
}

impl<'a> Inspection<'a> {
    /// Begins to look.
    #[must_use]
    pub fn of(registry: &'a Client) -> Self {
        Self {
            registry,
            whole: Mutex::default(),
        }
    }

    /// Says what is missing of a tag that should name this digest, the first thing that is; nothing if all is there.
    ///
    /// # Errors
    /// A failing registry, which says nothing of what is missing.
    pub async fn lacks(
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
        // Bounded as a copy is: whoever serves what nobody could have copied does not keep this going.
        let mut seen = HashSet::from([digest.clone()]);
        let mut level = vec![digest.clone()];
        for _ in 0..=MAX_DEPTH {
            let mut next = Vec::new();
            for manifest in level {
                if self.is_known(repository, &manifest) {
                    continue;
                }
                let Some(manifest) = self.manifest(repository, &manifest).await? else {
                    return Ok(Some(format!("manifest {manifest}")));
                };
                for blob in manifest.blobs() {
                    if self.lacks_blob(repository, &blob.digest).await? {
                        return Ok(Some(format!("blob {}", blob.digest)));
                    }
                }
                let children = manifest.children().iter().map(|child| &child.digest);
                next.extend(
                    children
                        .filter(|child| seen.insert((*child).clone()))
                        .cloned(),
                );
                // An index is whole only once its children were looked at, and they are looked at every time.
                if manifest.children().is_empty() {
                    self.know(repository, &manifest.digest);
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

    async fn manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Manifest>, Error> {
        match self.registry.manifest(repository, &digest.into()).await {
            Ok(manifest) => Ok(Some(manifest)),
            // Other bytes than those of the digest are as good as none.
            Err(Error::NotFound { .. } | Error::Untrusted { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn lacks_blob(&self, repository: &Repository, digest: &Digest) -> Result<bool, Error> {
        if self.is_known(repository, digest) {
            return Ok(false);
        }
        let has = with_retries(|| self.registry.has_blob(repository, digest, "pull")).await?;
        if has {
            self.know(repository, digest);
        }
        Ok(!has)
    }

    fn is_known(&self, repository: &Repository, digest: &Digest) -> bool {
        let whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.contains(&(repository.clone(), digest.clone()))
    }

    fn know(&self, repository: &Repository, digest: &Digest) {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.insert((repository.clone(), digest.clone()));
    }
}
