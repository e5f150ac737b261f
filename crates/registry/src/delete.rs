//! Removing a tag without touching its siblings.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use sluice_domain::{Digest, Repository, Tag};

use crate::client::{Client, what};
use crate::error::Error;
use crate::manifest::Manifest;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Client {
    /// Removes a tag, and only it.
    ///
    /// Distribution 3 deletes by tag. 2.8 deletes only digests, and with one every tag that points to it; there the
    /// tag is first pointed to an empty index that nothing else points to. `announce` gets that digest beforehand,
    /// so that the notifications it causes can be told apart.
    ///
    /// # Errors
    /// A failing registry, or one that does not allow deletion.
    pub async fn delete_tag<E, F>(
        &self,
        repository: &Repository,
        tag: &Tag,
        announce: impl FnOnce(Digest) -> F,
    ) -> Result<Result<(), E>, Error>
    where
        F: Future<Output = Result<(), E>>,
    {
        let what = what(repository, tag);
        let scope = [format!("repository:{repository}:delete")];
        let url = self.url(&format!("{repository}/manifests/{tag}"))?;
        if !self.shared.digests_only.load(Ordering::Relaxed) {
            let answer = self
                .send("delete", &what, &scope, |http| http.delete(url.clone()))
                .await?;
            if answer.status() != 400 {
                self.accept("delete", &what, answer, &[202, 404]).await?;
                return Ok(Ok(()));
            }
            self.shared.digests_only.store(true, Ordering::Relaxed);
        }
        if self.head(repository, &tag.into()).await?.is_none() {
            return Ok(Ok(()));
        }
        let tombstone = tombstone(&what)?;
        if let Err(error) = announce(tombstone.digest.clone()).await {
            return Ok(Err(error));
        }
        self.put_manifest(repository, &tag.into(), &tombstone)
            .await?;
        self.delete_manifest(repository, &tombstone.digest).await?;
        Ok(Ok(()))
    }

    /// Removes a manifest, and on Distribution every tag that points to it; one that is gone is no error.
    ///
    /// # Errors
    /// A failing registry, or one that does not allow deletion.
    pub async fn delete_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<(), Error> {
        let what = what(repository, digest);
        let scope = [format!("repository:{repository}:delete")];
        let url = self.url(&format!("{repository}/manifests/{digest}"))?;
        let answer = self
            .send("delete", &what, &scope, |http| http.delete(url.clone()))
            .await?;
        self.accept("delete", &what, answer, &[202, 404])
            .await
            .map(drop)
    }
}

/// An index that needs no blob and has a digest of its own.
fn tombstone(what: &str) -> Result<Manifest, Error> {
    let nonce = uuid::Uuid::new_v4();
    let body = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[],"annotations":{{"dev.sluice.tombstone":"{nonce}"}}}}"#
    );
    Manifest::read(what, OCI_INDEX, Bytes::from(body))
}
