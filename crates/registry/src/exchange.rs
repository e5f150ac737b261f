//! Asking for manifests and writing them; every answer is checked before it is used.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, StatusCode};
use sluice_domain::{Digest, Repository};

use crate::answers;
use crate::budget::Spending;
use crate::client::{Client, STORED, limited, what};
use crate::error::Error;
use crate::manifest::{Descriptor, ImageConfig, Manifest, ManifestHead, ManifestRef, digest_of};
use crate::rate::RateLimit;
use crate::retry::with_retries;

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
    /// It is fetched only where the registry refuses HEAD, or does not name the digest of a tag.
    ///
    /// # Errors
    /// A registry that cannot be reached or refuses.
    pub async fn head(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Option<ManifestHead>, Error> {
        with_retries(|| self.head_once(repository, reference)).await
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
            let heads = &self.shared.common.answers_heads;
            heads.store(true, Ordering::Relaxed);
            self.note_what_is_left(RateLimit::read(answer.headers()))
                .await;
        }
        if answer.status() == 404 {
            return Ok(None);
        }
        if refuses_head(answer.status()) {
            return self.head_of_document(repository, reference).await;
        }
        let answer = self.accept("look up", &what, answer, &[200]).await?;
        let digest = match (named_digest(&what, answer.headers())?, reference) {
            (Some(named), ManifestRef::Digest(asked)) if named != *asked => {
                return Err(Error::untrusted(
                    what,
                    "the registry names another digest than the one asked for",
                ));
            }
            (Some(named), _) => named,
            (None, ManifestRef::Digest(asked)) => asked.clone(),
            (None, ManifestRef::Tag(_)) => {
                return self.head_of_document(repository, reference).await;
            }
        };
        Ok(Some(ManifestHead {
            digest,
            media_type: answers::media_type(answer.headers()),
        }))
    }

    /// Asks what a tag is where images come from: a registry that was never seen to answer a HEAD is asked with GET too
    /// before the tag counts as missing.
    ///
    /// # Errors
    /// As [`Client::head`].
    pub async fn resolve(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Option<ManifestHead>, Error> {
        let head = self.head(repository, reference).await?;
        if head.is_some() || self.shared.common.answers_heads.load(Ordering::Relaxed) {
            return Ok(head);
        }
        with_retries(|| self.head_of_document(repository, reference)).await
    }

    /// Fetches a manifest to know what it is.
    async fn head_of_document(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Option<ManifestHead>, Error> {
        match self.document_once(repository, reference).await {
            Ok(document) => Ok(Some(ManifestHead {
                digest: digest_of(&document.raw),
                media_type: document.media_type,
            })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
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
        let told = RateLimit::read(answer.headers());
        if refuses_head(answer.status()) {
            return Ok(told);
        }
        let answer = self.accept("look up", &what, answer, &[200]).await;
        self.heeded(Spending::Pull, answer).await?;
        Ok(told)
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
        with_retries(|| self.manifest_once(repository, reference)).await
    }

    async fn manifest_once(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Manifest, Error> {
        let document = self.document_once(repository, reference).await?;
        document.read()
    }

    /// Fetches a manifest as bytes and checks their digest; whether they can be read is not looked at.
    ///
    /// # Errors
    /// As [`Client::manifest`].
    pub async fn document(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Document, Error> {
        with_retries(|| self.document_once(repository, reference)).await
    }

    async fn document_once(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Document, Error> {
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
        let digest = digest_of(&raw);
        if named.is_some_and(|named| named != digest) {
            return Err(Error::untrusted(
                what,
                "the bytes do not have the digest that the registry names",
            ));
        }
        if let ManifestRef::Digest(asked) = reference
            && *asked != digest
        {
            return Err(Error::untrusted(
                what,
                "the bytes do not have the digest that was asked for",
            ));
        }
        Ok(Document {
            what,
            media_type,
            raw,
        })
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
        let answer = self.accept("write", &what, answer, &STORED).await?;
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
        let raw = self.config_bytes(repository, config).await?;
        ImageConfig::read(&what(repository, &config.digest), &raw)
    }

    /// Fetches the configuration of an image and checks digest and size.
    ///
    /// # Errors
    /// As [`Client::manifest`].
    pub async fn config_bytes(
        &self,
        repository: &Repository,
        config: &Descriptor,
    ) -> Result<Bytes, Error> {
        let what = what(repository, &config.digest);
        let answer = self.blob(repository, config).await?;
        let raw = limited(&what, answer, MAX_CONFIG).await?;
        if digest_of(&raw) != config.digest {
            return Err(Error::untrusted(
                what,
                "the bytes do not have the digest that was asked for",
            ));
        }
        Ok(raw)
    }
}

/// Says whether it is the method that is refused, as some registries and caches refuse HEAD.
fn refuses_head(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 405 | 501)
}

/// A manifest as it was served: its digest was checked, and nothing else.
#[derive(Debug, Clone)]
pub struct Document {
    what: String,
    media_type: String,
    raw: Bytes,
}

impl From<&Manifest> for Document {
    fn from(manifest: &Manifest) -> Self {
        Self {
            what: manifest.digest.to_string(),
            media_type: manifest.media_type.clone(),
            raw: manifest.raw.clone(),
        }
    }
}

impl Document {
    /// Returns the bytes.
    #[must_use]
    pub const fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Returns the media type that the registry gives it.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Reads it strictly.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn read(self) -> Result<Manifest, Error> {
        Manifest::read(&self.what, &self.media_type, self.raw)
    }
}

fn named_digest(what: &str, headers: &HeaderMap) -> Result<Option<Digest>, Error> {
    answers::digest(headers).map_err(|reason| Error::untrusted(what, reason))
}
