//! Asking for manifests and writing them; every answer is checked before it is used.

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use sluice_domain::{Digest, Repository};

use crate::answers;
use crate::budget::Spending;
use crate::client::{Client, limited, what};
use crate::error::Error;
use crate::manifest::{Descriptor, ImageConfig, Manifest, ManifestHead, ManifestRef, digest_of};
use crate::patience::patiently;
use crate::rate::RateLimit;

/// The largest manifest, as Distribution has it.
const MAX_MANIFEST: usize = 4 << 20;
/// The largest image configuration that is read.
const MAX_CONFIG: usize = 4 << 20;

/// The same for HEAD and GET: with another one, another digest may come back.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

impl Client {
    /// Asks what a tag or digest is, without fetching it; not counted as a pull by Docker Hub.
    ///
    /// # Errors
    /// A registry that cannot be reached, refuses, or answers without a digest.
    pub async fn head(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Option<ManifestHead>, Error> {
        patiently(|| self.head_once(repository, reference)).await
    }

    async fn head_once(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Option<ManifestHead>, Error> {
        let what = what(repository, reference);
        let url = self.url(&format!("{repository}/manifests/{reference}"))?;
        let scope = [format!("repository:{repository}:pull")];
        let head = (Method::HEAD, ACCEPTED);
        let answer = self.read(head, "look up", &what, &scope, url).await?;
        if answer.status() == 200 {
            self.note_what_is_left(RateLimit::read(answer.headers()))
                .await;
        }
        if answer.status() == 404 {
            return Ok(None);
        }
        let answer = self.accept("look up", &what, answer, &[200]).await?;
        let digest = named_digest(&what, answer.headers())?
            .ok_or_else(|| Error::untrusted(&what, "the registry names no digest"))?;
        if let ManifestRef::Digest(asked) = reference
            && *asked != digest
        {
            return Err(Error::untrusted(
                what,
                "the registry names another digest than the one asked for",
            ));
        }
        Ok(Some(ManifestHead {
            digest,
            media_type: answers::media_type(answer.headers()),
        }))
    }

    /// Asks with a HEAD of a manifest, which is not counted, what is left of the account's pulls.
    pub(crate) async fn ask_what_is_left(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Option<RateLimit>, Error> {
        let what = what(repository, reference);
        let url = self.url(&format!("{repository}/manifests/{reference}"))?;
        let scope = [format!("repository:{repository}:pull")];
        let head = (Method::HEAD, ACCEPTED);
        let answer = self.read(head, "look up", &what, &scope, url).await?;
        if answer.status() == 404 {
            return Err(Error::NotFound { what });
        }
        let answer = self.accept("look up", &what, answer, &[200]).await;
        let answer = self.heeded(Spending::Pull, answer).await?;
        Ok(RateLimit::read(answer.headers()))
    }

    /// Fetches a manifest and checks its bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Untrusted`] for bytes that are not what was asked for, or a failing registry.
    pub async fn manifest(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Manifest, Error> {
        patiently(|| self.manifest_once(repository, reference)).await
    }

    async fn manifest_once(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Manifest, Error> {
        let what = what(repository, reference);
        let url = self.url(&format!("{repository}/manifests/{reference}"))?;
        let scope = [format!("repository:{repository}:pull")];
        let get = (Method::GET, ACCEPTED);
        let under_way = self.may_pull(repository, reference).await?;
        let answer = self.read(get, "fetch", &what, &scope, url).await?;
        if answer.status() == 404 {
            return Err(Error::NotFound { what });
        }
        let answer = self.accept("fetch", &what, answer, &[200]).await;
        let answer = self.heeded(Spending::Pull, answer).await?;
        drop(under_way);
        self.note_what_is_left(RateLimit::read(answer.headers()))
            .await;
        let media_type = answers::media_type(answer.headers());
        let named = named_digest(&what, answer.headers())?;
        let raw = limited(&what, answer, MAX_MANIFEST).await?;
        let manifest = Manifest::read(&what, &media_type, raw)?;
        if named.is_some_and(|named| named != manifest.digest) {
            return Err(Error::untrusted(
                what,
                "the bytes do not have the digest that the registry names",
            ));
        }
        if let ManifestRef::Digest(asked) = reference
            && *asked != manifest.digest
        {
            return Err(Error::untrusted(
                what,
                "the bytes do not have the digest that was asked for",
            ));
        }
        Ok(manifest)
    }

    /// Fetches a child and compares it with what its parent says of it.
    pub(crate) async fn child(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Manifest, Error> {
        let manifest = self
            .manifest(repository, &(&descriptor.digest).into())
            .await?;
        let size = u64::try_from(manifest.raw.len()).unwrap_or(u64::MAX);
        if size != descriptor.size || manifest.media_type != descriptor.media_type {
            let what = what(repository, &descriptor.digest);
            return Err(Error::untrusted(
                what,
                "size or media type differ from what the index says",
            ));
        }
        Ok(manifest)
    }

    /// Writes a manifest, byte for byte, under a tag or its digest.
    ///
    /// # Errors
    /// A registry that refuses or stores something else.
    pub async fn put_manifest(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
        manifest: &Manifest,
    ) -> Result<(), Error> {
        let what = what(repository, reference);
        let url = self.url(&format!("{repository}/manifests/{reference}"))?;
        let scope = [format!("repository:{repository}:pull,push")];
        let request = |http: &reqwest::Client| {
            http.put(url.clone())
                .header(CONTENT_TYPE, &manifest.media_type)
                .body(manifest.raw.clone())
        };
        let answer = self.send("write", &what, &scope, request).await?;
        let answer = self.accept("write", &what, answer, &[201]).await?;
        match named_digest(&what, answer.headers())? {
            Some(stored) if stored != manifest.digest => Err(Error::untrusted(
                what,
                "the registry stored other bytes than it was given",
            )),
            _ => Ok(()),
        }
    }

    /// Reads the configuration of an image.
    ///
    /// # Errors
    /// As [`Client::manifest`]; a configuration that is none.
    pub async fn config(
        &self,
        repository: &Repository,
        config: &Descriptor,
    ) -> Result<ImageConfig, Error> {
        let what = what(repository, &config.digest);
        let answer = self.blob(repository, config).await?;
        let raw = limited(&what, answer, MAX_CONFIG).await?;
        if digest_of(&raw) != config.digest {
            return Err(Error::untrusted(
                what,
                "the bytes do not have the digest that was asked for",
            ));
        }
        serde_json::from_slice(&raw)
            .map_err(|error| Error::untrusted(what, format!("it is no configuration: {error}")))
    }
}

fn named_digest(what: &str, headers: &HeaderMap) -> Result<Option<Digest>, Error> {
    answers::digest(headers).map_err(|reason| Error::untrusted(what, reason))
}
