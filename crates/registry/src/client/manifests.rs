//! Manifests and image configurations: HEAD, fetch and push; every response is checked before it is used.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, StatusCode};
use sluice_domain::resources::PlatformFilter;
use sluice_domain::{Digest, Repository};

use crate::client::{Client, Read, STORED, object_name};
use crate::content::manifest::descriptor::{Descriptor, digest_of};
use crate::content::manifest::image_config::ImageConfig;
use crate::content::manifest::{Content, Manifest, ManifestHead, ManifestRef};
use crate::error::Error;
use crate::http::rate_limit::RateLimit;
use crate::http::rate_limit::budget::{Permit, RateLimitProbe, RequestKind};
use crate::http::response::body::read_body;
use crate::http::response::{parse_digest, parse_media_type};
use crate::http::retry::with_retries;

/// The largest manifest, as in Distribution.
const MAX_MANIFEST: usize = 4 << 20;
/// The largest image configuration that is read.
const MAX_CONFIG: usize = 4 << 20;
/// The media types that are accepted: the same for HEAD and GET, or the digests of the two could differ.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";
const OTHER_DIGEST: &str = "the bytes do not have the digest that was asked for";

const HEAD: Read = Read {
    method: Method::HEAD,
    accept: ACCEPTED,
    action: "look up",
    offset: 0,
};
const GET: Read = Read {
    method: Method::GET,
    accept: ACCEPTED,
    action: "fetch",
    offset: 0,
};

impl Client {
    /// Returns digest and media type of a tag or digest with a HEAD, which Docker Hub does not count as a pull.
    ///
    /// The manifest is fetched only if the registry refuses HEAD, or does not name the digest of a tag.
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
        let object = object_name(repository, reference);
        let url = self.url(&format!("{repository}/manifests/{reference}"))?;
        let scope = [format!("repository:{repository}:pull")];
        let response = self.read(&HEAD, &object, &scope, url).await?;
        if response.status() == 200 {
            let answers_heads = &self.shared.state.answers_heads;
            answers_heads.store(true, Ordering::Relaxed);
            let budget = &self.shared.connection.budget;
            let limit = RateLimit::read(response.headers());
            budget.record_limit(limit).await;
        }
        if response.status() == 404 {
            return Ok(None);
        }
        if refuses_head(response.status()) {
            return self.head_by_get(repository, reference).await;
        }
        let response = self
            .expect_status(HEAD.action, &object, response, &[200])
            .await?;
        let digest = match (named_digest(&object, response.headers())?, reference) {
            (Some(named), ManifestRef::Digest(asked)) if named != *asked => {
                return Err(Error::untrusted(
                    object,
                    "the registry names another digest than the one asked for",
                ));
            }
            (Some(named), _) => named,
            (None, ManifestRef::Digest(asked)) => asked.clone(),
            (None, ManifestRef::Tag(_)) => {
                return self.head_by_get(repository, reference).await;
            }
        };
        Ok(Some(ManifestHead {
            digest,
            media_type: parse_media_type(response.headers()),
        }))
    }

    /// Resolves a tag upstream: as [`Client::head`], but a 404 of a registry that was never seen to answer a HEAD
    /// is confirmed with a GET.
    pub async fn resolve(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Option<ManifestHead>, Error> {
        let head = self.head(repository, reference).await?;
        if head.is_some() || self.shared.state.answers_heads.load(Ordering::Relaxed) {
            return Ok(head);
        }
        with_retries(|| self.head_by_get(repository, reference)).await
    }

    /// Fetches a manifest for its digest and media type.
    async fn head_by_get(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Option<ManifestHead>, Error> {
        match self.fetch_once(repository, reference).await {
            Ok(manifest) => Ok(Some(ManifestHead {
                digest: digest_of(&manifest.raw),
                media_type: manifest.media_type,
            })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reserves a pull of a manifest; if the rate limit is not known, a HEAD asks for it first.
    async fn reserve_pull(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Permit, Error> {
        let budget = &self.shared.connection.budget;
        let mut probe = None;
        loop {
            match budget.reserve(RequestKind::Pull, probe).await? {
                Permit::ProbeFirst(revision) => {
                    let limit = self.probe_rate_limit(repository, reference).await?;
                    probe = Some(RateLimitProbe { revision, limit });
                }
                granted @ Permit::Granted(_) => return Ok(granted),
            }
        }
    }

    /// Asks for the rate limit with a HEAD of a manifest, which is not counted.
    async fn probe_rate_limit(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Option<RateLimit>, Error> {
        let object = object_name(repository, reference);
        let url = self.url(&format!("{repository}/manifests/{reference}"))?;
        let scope = [format!("repository:{repository}:pull")];
        let response = self.read(&HEAD, &object, &scope, url).await?;
        if response.status() == 404 {
            return Err(Error::NotFound { object });
        }
        let limit = RateLimit::read(response.headers());
        if refuses_head(response.status()) {
            return Ok(limit);
        }
        let response = self
            .expect_status(HEAD.action, &object, response, &[200])
            .await;
        let budget = &self.shared.connection.budget;
        budget.record_refusal(RequestKind::Pull, response).await?;
        Ok(limit)
    }

    /// Fetches a manifest and checks its bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Untrusted`] for bytes that do not have the digest or are no valid manifest.
    pub async fn fetch_manifest(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Manifest, Error> {
        let fetch = || async { self.fetch_once(repository, reference).await?.parse() };
        with_retries(fetch).await
    }

    /// Fetches a manifest as bytes and checks their digest, but not their content.
    ///
    /// # Errors
    /// As [`Client::fetch_manifest`].
    pub async fn fetch_raw_manifest(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<RawManifest, Error> {
        with_retries(|| self.fetch_once(repository, reference)).await
    }

    async fn fetch_once(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<RawManifest, Error> {
        let object = object_name(repository, reference);
        let url = self.url(&format!("{repository}/manifests/{reference}"))?;
        let scope = [format!("repository:{repository}:pull")];
        let budget = &self.shared.connection.budget;
        let in_flight = self.reserve_pull(repository, reference).await?;
        let response = self.read(&GET, &object, &scope, url).await?;
        if response.status() == 404 {
            return Err(Error::NotFound { object });
        }
        let response = self
            .expect_status(GET.action, &object, response, &[200])
            .await;
        let response = budget.record_refusal(RequestKind::Pull, response).await?;
        drop(in_flight);
        let limit = RateLimit::read(response.headers());
        budget.record_limit(limit).await;
        let media_type = parse_media_type(response.headers());
        let named = named_digest(&object, response.headers())?;
        let raw = read_body(&object, response, MAX_MANIFEST).await?;
        let digest = digest_of(&raw);
        if named.is_some_and(|named| named != digest) {
            return Err(Error::untrusted(
                object,
                "the bytes do not have the digest that the registry names",
            ));
        }
        if let ManifestRef::Digest(asked) = reference
            && *asked != digest
        {
            return Err(Error::untrusted(object, OTHER_DIGEST));
        }
        Ok(RawManifest {
            object,
            media_type,
            raw,
        })
    }

    /// Fetches a manifest that an index lists, and compares it with its descriptor.
    pub(crate) async fn fetch_child(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Manifest, Error> {
        let reference = (&descriptor.digest).into();
        let manifest = self.fetch_manifest(repository, &reference).await?;
        let size = u64::try_from(manifest.raw.len()).unwrap_or(u64::MAX);
        if size != descriptor.size || manifest.media_type != descriptor.media_type {
            return Err(Error::untrusted(
                object_name(repository, &descriptor.digest),
                "size or media type differ from what the index says",
            ));
        }
        Ok(manifest)
    }

    /// Fetches the manifest to copy for a platform filter: the filtered index, or the image if its platform passes.
    ///
    /// # Errors
    /// [`Error::NoPlatform`] if no platform passes.
    pub async fn fetch_filtered_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
        filter: &PlatformFilter,
    ) -> Result<Manifest, Error> {
        let manifest = self.fetch_manifest(repository, &digest.into()).await?;
        let Content::Image { config, .. } = &manifest.content else {
            return manifest.filter_platforms(filter);
        };
        let config = self.fetch_config(repository, config).await?;
        match config.platform.platform() {
            Some(platform) if filter.want(&platform) => Ok(manifest),
            Some(platform) => Err(manifest.no_platform(filter, platform.to_string())),
            None => Err(manifest.no_platform(filter, String::new())),
        }
    }

    /// Pushes a manifest, byte for byte, under a tag or its digest.
    pub async fn put_manifest(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
        manifest: &Manifest,
    ) -> Result<(), Error> {
        let object = object_name(repository, reference);
        let url = self.url(&format!("{repository}/manifests/{reference}"))?;
        let scope = [format!("repository:{repository}:pull,push")];
        let request = |http: &reqwest::Client| {
            http.put(url.clone())
                .header(CONTENT_TYPE, &manifest.media_type)
                .body(manifest.raw.clone())
        };
        let response = self.send("write", &object, &scope, request).await?;
        let response = self
            .expect_status("write", &object, response, &STORED)
            .await?;
        match named_digest(&object, response.headers())? {
            Some(stored) if stored != manifest.digest => Err(Error::untrusted(
                object,
                "the registry stored other bytes than it was given",
            )),
            _ => Ok(()),
        }
    }

    /// Fetches and parses the configuration of an image.
    pub async fn fetch_config(
        &self,
        repository: &Repository,
        config: &Descriptor,
    ) -> Result<ImageConfig, Error> {
        let raw = self.fetch_config_bytes(repository, config).await?;
        ImageConfig::parse(&object_name(repository, &config.digest), &raw)
    }

    /// Fetches the configuration of an image and checks its digest.
    pub async fn fetch_config_bytes(
        &self,
        repository: &Repository,
        config: &Descriptor,
    ) -> Result<Bytes, Error> {
        let object = object_name(repository, &config.digest);
        let response = self.open_blob(repository, config).await?;
        let raw = read_body(&object, response, MAX_CONFIG).await?;
        if digest_of(&raw) != config.digest {
            return Err(Error::untrusted(object, OTHER_DIGEST));
        }
        Ok(raw)
    }
}

/// Returns whether the method was refused, as some registries and caches refuse HEAD.
fn refuses_head(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 405 | 501)
}

/// A manifest as it was served: its digest was checked, and its content was not.
#[derive(Debug, Clone)]
pub struct RawManifest {
    object: String,
    media_type: String,
    raw: Bytes,
}

impl From<&Manifest> for RawManifest {
    fn from(manifest: &Manifest) -> Self {
        Self {
            object: manifest.digest.to_string(),
            media_type: manifest.media_type.clone(),
            raw: manifest.raw.clone(),
        }
    }
}

impl RawManifest {
    /// Returns the bytes.
    #[must_use]
    pub const fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Returns the media type of the response.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Parses it strictly.
    ///
    /// # Errors
    /// As [`Manifest::parse`].
    pub fn parse(self) -> Result<Manifest, Error> {
        Manifest::parse(&self.object, &self.media_type, self.raw)
    }
}

fn named_digest(object: &str, headers: &HeaderMap) -> Result<Option<Digest>, Error> {
    parse_digest(headers).map_err(|reason| Error::untrusted(object, reason))
}
