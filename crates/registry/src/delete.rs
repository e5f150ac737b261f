//! Removing a tag without touching its siblings.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use reqwest::Response;
use serde::Deserialize;
use sluice_domain::{Digest, Repository, Tag};
use sluice_service::crash;

use crate::client::{Client, REMOVED, what};
use crate::error::Error;
use crate::manifest::{Content, Manifest, ManifestRef};

/// The annotation of a manifest that only serves to remove a tag.
const MARK: &str = "dev.sluice.tombstone";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Client {
    /// Removes a tag, and only it.
    ///
    /// Distribution 3 deletes by tag. 2.8 deletes only digests, and with one every tag that points to it; there the
    /// tag is first pointed to an empty index that nothing else points to. `announce` gets that digest beforehand,
    /// so that the notifications it causes can be told apart. Where digests cannot be deleted either, nothing is
    /// written, or the tag would be left pointing to the empty index.
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
        let digests_only = &self.shared.digests_only;
        if !digests_only.load(Ordering::Relaxed) {
            let answer = self.delete(&what, repository, &tag.into()).await?;
            if !matches!(answer.status().as_u16(), 400 | 405 | 501) {
                self.accept("delete", &what, answer, &REMOVED).await?;
                return Ok(Ok(()));
            }
        }
        if self.head(repository, &tag.into()).await?.is_none() {
            return Ok(Ok(()));
        }
        let tombstone = tombstone(&what)?;
        if !digests_only.load(Ordering::Relaxed) {
            // It is not there yet: this only asks whether it could be deleted.
            let reference = (&tombstone.digest).into();
            let answer = self.delete(&what, repository, &reference).await?;
            self.accept("delete", &what, answer, &REMOVED).await?;
            digests_only.store(true, Ordering::Relaxed);
        }
        if let Err(error) = announce(tombstone.digest.clone()).await {
            return Ok(Err(error));
        }
        self.put_manifest(repository, &tag.into(), &tombstone)
            .await?;
        crash::point("registry.tombstone_put");
        self.delete_manifest(repository, &tombstone.digest).await?;
        Ok(Ok(()))
    }

    /// Says whether a manifest is one that a tag was pointed to only to be removed, as a removal that was interrupted leaves it.
    ///
    /// # Errors
    /// A failing registry.
    pub async fn is_tombstone(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<bool, Error> {
        match self.manifest(repository, &digest.into()).await {
            Ok(manifest) => Ok(marks_tombstone(&manifest)),
            Err(Error::NotFound { .. } | Error::Untrusted { .. }) => Ok(false),
            Err(error) => Err(error),
        }
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
        let answer = self.delete(&what, repository, &digest.into()).await?;
        self.accept("delete", &what, answer, &REMOVED)
            .await
            .map(drop)
    }

    async fn delete(
        &self,
        what: &str,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Response, Error> {
        let scope = [format!("repository:{repository}:delete")];
        let url = self.url(&format!("{repository}/manifests/{reference}"))?;
        self.send("delete", what, &scope, |http| http.delete(url.clone()))
            .await
    }
}

/// An index that needs no blob and has a digest of its own.
fn tombstone(what: &str) -> Result<Manifest, Error> {
    let simulated = sluice_domain::clock::simulated_chance();
    let nonce = simulated.map_or_else(uuid::Uuid::new_v4, uuid::Uuid::from_u128);
    let body = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[],"annotations":{{"{MARK}":"{nonce}"}}}}"#
    );
    Manifest::read(what, OCI_INDEX, Bytes::from(body))
}

fn marks_tombstone(manifest: &Manifest) -> bool {
    #[derive(Deserialize)]
    struct Marked {
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    let empty = matches!(&manifest.content, Content::Index { children } if children.is_empty());
    empty
        && serde_json::from_slice::<Marked>(&manifest.raw)
            .is_ok_and(|index| index.annotations.contains_key(MARK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_index_with_the_mark_is_a_tombstone() {
        let index = |body: &str| {
            let body = Bytes::from(body.to_owned());
            Manifest::read("test", OCI_INDEX, body).unwrap()
        };
        assert!(marks_tombstone(&tombstone("test").unwrap()));
        let digest = format!("sha256:{}", "0a".repeat(32));
        for body in [
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#),
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":2}}],"annotations":{{"{MARK}":"x"}}}}"#
            ),
        ] {
            assert!(!marks_tombstone(&index(&body)), "{body}");
        }
    }
}
