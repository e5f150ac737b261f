//! Deletes a tag without its siblings, or a manifest.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use reqwest::Response;
use serde::Deserialize;
use sluice_domain::{Digest, Repository, Tag};
use sluice_service::crash;

use crate::client::{Client, DELETED, object_name};
use crate::content::manifest::{Content, Manifest, ManifestRef, OCI_INDEX};
use crate::error::Error;

/// The annotation of a tombstone: an empty index that a tag is pointed to only to be deleted.
const TOMBSTONE: &str = "dev.sluice.tombstone";

impl Client {
    /// Deletes a tag, and no other.
    ///
    /// Distribution 3 deletes by tag. 2.8 deletes only digests, and with a digest every tag that points to it; there the
    /// tag is first pointed to a tombstone that no other tag points to. `announce` gets its digest beforehand, so that
    /// the notifications that it causes can be recognised. If digests cannot be deleted either, nothing is written, or
    /// the tag would be left pointing to the tombstone.
    pub async fn delete_tag<E, F>(
        &self,
        repository: &Repository,
        tag: &Tag,
        announce: impl FnOnce(Digest) -> F,
    ) -> Result<Result<(), E>, Error>
    where
        F: Future<Output = Result<(), E>>,
    {
        let object = object_name(repository, tag);
        let digests_only = &self.shared.deletes_digests_only;
        if !digests_only.load(Ordering::Relaxed) {
            let response = self.delete(&object, repository, &tag.into()).await?;
            if !matches!(response.status().as_u16(), 400 | 405 | 501) {
                self.expect_status("delete", &object, response, &DELETED)
                    .await?;
                return Ok(Ok(()));
            }
        }
        if self.head(repository, &tag.into()).await?.is_none() {
            return Ok(Ok(()));
        }
        let tombstone = tombstone(&object)?;
        if !digests_only.load(Ordering::Relaxed) {
            // The tombstone was not pushed yet: this only checks whether digests can be deleted.
            let reference = (&tombstone.digest).into();
            let response = self.delete(&object, repository, &reference).await?;
            self.expect_status("delete", &object, response, &DELETED)
                .await?;
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

    /// Returns whether a manifest is a tombstone, which an interrupted deletion leaves behind.
    pub async fn is_tombstone(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<bool, Error> {
        match self.fetch_manifest(repository, &digest.into()).await {
            Ok(manifest) => Ok(is_tombstone_manifest(&manifest)),
            Err(Error::NotFound { .. } | Error::Untrusted { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes a manifest, and on Distribution every tag that points to it; a missing one is no error.
    pub async fn delete_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<(), Error> {
        let object = object_name(repository, digest);
        let response = self.delete(&object, repository, &digest.into()).await?;
        self.expect_status("delete", &object, response, &DELETED)
            .await
            .map(drop)
    }

    async fn delete(
        &self,
        object: &str,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Response, Error> {
        let scope = [format!("repository:{repository}:delete")];
        let url = self.url(&format!("{repository}/manifests/{reference}"))?;
        self.send("delete", object, &scope, |http| http.delete(url.clone()))
            .await
    }
}

/// Makes a tombstone: an index that needs no blob and has a unique digest.
fn tombstone(object: &str) -> Result<Manifest, Error> {
    let simulated = sluice_domain::clock::simulated_chance();
    let nonce = simulated.map_or_else(uuid::Uuid::new_v4, uuid::Uuid::from_u128);
    let body = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[],"annotations":{{"{TOMBSTONE}":"{nonce}"}}}}"#
    );
    Manifest::parse(object, OCI_INDEX, Bytes::from(body))
}

fn is_tombstone_manifest(manifest: &Manifest) -> bool {
    #[derive(Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    let empty = matches!(&manifest.content, Content::Index { children } if children.is_empty());
    empty
        && serde_json::from_slice::<Annotated>(&manifest.raw)
            .is_ok_and(|index| index.annotations.contains_key(TOMBSTONE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_index_with_the_mark_is_a_tombstone() {
        let index = |body: &str| {
            let body = Bytes::from(body.to_owned());
            Manifest::parse("test", OCI_INDEX, body).unwrap()
        };
        assert!(is_tombstone_manifest(&tombstone("test").unwrap()));
        let digest = format!("sha256:{}", "0a".repeat(32));
        for body in [
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#),
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":2}}],"annotations":{{"{TOMBSTONE}":"x"}}}}"#
            ),
        ] {
            assert!(!is_tombstone_manifest(&index(&body)), "{body}");
        }
    }
}
