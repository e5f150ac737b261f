//! Manifests and indexes: read strictly, kept as the bytes that were served.

use std::fmt;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use sluice_domain::{Digest, Platform, Repository, Tag};

use crate::client::{Client, limited, what};
use crate::error::Error;

/// The largest manifest, as Distribution has it.
const MAX_MANIFEST: usize = 4 << 20;
/// The largest image configuration that is read.
const MAX_CONFIG: usize = 4 << 20;
/// The most references in one document.
const MAX_REFERENCES: usize = 512;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The same for HEAD and GET: with another one, another digest may come back.
pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// How a manifest is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestRef {
    /// By tag.
    Tag(Tag),
    /// By digest.
    Digest(Digest),
}

impl fmt::Display for ManifestRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl From<&Tag> for ManifestRef {
    fn from(tag: &Tag) -> Self {
        Self::Tag(tag.clone())
    }
}

impl From<&Digest> for ManifestRef {
    fn from(digest: &Digest) -> Self {
        Self::Digest(digest.clone())
    }
}

/// What a HEAD tells of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
}

/// A reference from one document to another, or to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of what it points to.
    pub media_type: String,
    /// The digest.
    pub digest: Digest,
    /// The size in bytes.
    pub size: u64,
    /// The platform of a manifest in an index.
    #[serde(default)]
    pub platform: Option<DescriptorPlatform>,
    /// Where a foreign layer lies; never fetched.
    #[serde(default)]
    pub urls: Vec<String>,
    /// Notes, as that a manifest is an attestation.
    #[serde(default)]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// A platform as an index or an image configuration writes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DescriptorPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl DescriptorPlatform {
    /// Returns the platform, if it names one that something can run on.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        let text = format!("{}/{}", self.os, self.architecture);
        let text = self
            .variant
            .as_ref()
            .filter(|v| !v.is_empty())
            .map_or(text.clone(), |v| format!("{text}/{v}"));
        text.parse()
            .ok()
            .filter(|platform: &Platform| platform.os != "unknown")
    }
}

impl Descriptor {
    /// Says whether this is an attestation beside the runnable manifests of an index.
    #[must_use]
    pub fn is_attestation(&self) -> bool {
        let noted = |key: &str| {
            self.annotations
                .as_ref()
                .is_some_and(|notes| notes.contains_key(key))
        };
        noted("vnd.docker.reference.type")
            || self
                .platform
                .as_ref()
                .is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
    }

    /// Says whether the layer lies elsewhere by design and is not copied.
    pub(crate) fn is_foreign(&self) -> bool {
        self.media_type.contains("foreign") || self.media_type.contains("nondistributable")
    }
}

/// What a manifest refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// One image.
    Image {
        /// Its configuration.
        config: Descriptor,
        /// Its layers.
        layers: Vec<Descriptor>,
    },
    /// Several manifests.
    Index {
        /// Them.
        children: Vec<Descriptor>,
    },
}

/// A manifest as it was served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The digest of the bytes.
    pub digest: Digest,
    /// The media type.
    pub media_type: String,
    /// The bytes.
    pub raw: Bytes,
    /// What they refer to.
    pub content: Content,
}

/// What is read of an image's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ImageConfig {
    /// When the image was built.
    #[serde(default)]
    pub created: Option<DateTime<Utc>>,
    /// The platform.
    #[serde(flatten)]
    pub platform: DescriptorPlatform,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
    blobs: Option<serde::de::IgnoredAny>,
}

/// Returns the digest of some bytes.
#[must_use]
#[expect(
    clippy::missing_panics_doc,
    clippy::expect_used,
    reason = "64 hexadecimal digits are always a digest"
)]
pub fn digest_of(bytes: &[u8]) -> Digest {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
        .parse()
        .expect("a computed digest is well formed")
}

impl Manifest {
    /// Reads a document strictly.
    ///
    /// # Errors
    /// A document that is too large, of another type than declared, or readable as two kinds (CVE-2021-41190).
    pub fn read(what: &str, media_type: &str, raw: Bytes) -> Result<Self, Error> {
        let refuse = |reason: &str| Error::untrusted(what, reason);
        let is_index = match media_type {
            OCI_INDEX | DOCKER_LIST => true,
            OCI_MANIFEST | DOCKER_MANIFEST => false,
            other => {
                return Err(refuse(&format!(
                    "media type `{}` is not supported",
                    other.escape_default()
                )));
            }
        };
        let probe: Probe = serde_json::from_slice(&raw)
            .map_err(|error| refuse(&format!("it is no manifest: {error}")))?;
        if probe.schema_version != 2 || probe.fs_layers.is_some() || probe.blobs.is_some() {
            return Err(refuse("only schema version 2 is supported"));
        }
        if probe
            .media_type
            .as_deref()
            .is_some_and(|inner| inner != media_type)
        {
            return Err(refuse("its `mediaType` differs from its Content-Type"));
        }
        let content = match (is_index, probe.config, probe.layers, probe.manifests) {
            (true, None, None, Some(children)) => Content::Index { children },
            (false, Some(config), Some(layers), None) => Content::Image { config, layers },
            _ => {
                return Err(refuse(
                    "it is neither clearly an image nor clearly an index",
                ));
            }
        };
        let manifest = Self {
            digest: digest_of(&raw),
            media_type: media_type.to_owned(),
            raw,
            content,
        };
        if manifest.references() > MAX_REFERENCES {
            return Err(refuse("it has more than 512 references"));
        }
        Ok(manifest)
    }

    fn references(&self) -> usize {
        match &self.content {
            Content::Image { layers, .. } => layers.len() + 1,
            Content::Index { children } => children.len(),
        }
    }

    /// Returns the blobs that belong to it, foreign layers left out.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, layers) = match &self.content {
            Content::Image { config, layers } => (Some(config), layers.as_slice()),
            Content::Index { .. } => (None, [].as_slice()),
        };
        config
            .into_iter()
            .chain(layers)
            .filter(|blob| !blob.is_foreign())
    }

    /// Returns the manifests that belong to it.
    #[must_use]
    pub fn children(&self) -> &[Descriptor] {
        match &self.content {
            Content::Image { .. } => &[],
            Content::Index { children } => children,
        }
    }
}

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
        let what = what(repository, reference);
        let url = self.url(&format!("{repository}/manifests/{reference}"))?;
        let scope = [format!("repository:{repository}:pull")];
        let request = |http: &reqwest::Client| http.head(url.clone()).header(ACCEPT, ACCEPTED);
        let answer = self.send("look up", &what, &scope, request).await?;
        if answer.status() == 404 {
            return Ok(None);
        }
        let answer = self.accept("look up", &what, answer, &[200]).await?;
        let digest = header_digest(&what, answer.headers())?
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
            media_type: content_type(answer.headers()),
        }))
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
        let what = what(repository, reference);
        let url = self.url(&format!("{repository}/manifests/{reference}"))?;
        let scope = [format!("repository:{repository}:pull")];
        let request = |http: &reqwest::Client| http.get(url.clone()).header(ACCEPT, ACCEPTED);
        let answer = self.send("fetch", &what, &scope, request).await?;
        if answer.status() == 404 {
            return Err(Error::NotFound { what });
        }
        let answer = self.accept("fetch", &what, answer, &[200]).await?;
        let media_type = content_type(answer.headers());
        let named = header_digest(&what, answer.headers())?;
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
        match header_digest(&what, answer.headers())? {
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

fn content_type(headers: &HeaderMap) -> String {
    let text = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_owned()
}

fn header_digest(what: &str, headers: &HeaderMap) -> Result<Option<Digest>, Error> {
    let Some(value) = headers.get("docker-content-digest") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    text.parse().map(Some).map_err(|_| {
        Error::untrusted(
            what,
            "the registry names something that is no sha256 digest",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(name: &str) -> String {
        format!(
            r#"{{"mediaType":"{name}","digest":"sha256:{}","size":2}}"#,
            "0".repeat(64)
        )
    }

    #[test]
    fn ambiguous_and_old_documents_are_refused() {
        let image = descriptor(OCI_MANIFEST);
        for (media_type, body) in [
            (
                OCI_INDEX,
                format!(r#"{{"schemaVersion":2,"manifests":[],"config":{image}}}"#),
            ),
            (
                OCI_MANIFEST,
                format!(r#"{{"schemaVersion":2,"config":{image},"layers":[],"manifests":[]}}"#),
            ),
            (
                OCI_MANIFEST,
                format!(
                    r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","config":{image},"layers":[]}}"#
                ),
            ),
            (
                OCI_MANIFEST,
                r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
            ),
            (
                "application/json",
                format!(r#"{{"schemaVersion":2,"config":{image},"layers":[]}}"#),
            ),
            (
                OCI_INDEX,
                r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#.to_owned(),
            ),
        ] {
            assert!(
                Manifest::read("x", media_type, body.clone().into()).is_err(),
                "{body}"
            );
        }
        let good = format!(r#"{{"schemaVersion":2,"config":{image},"layers":[]}}"#);
        assert_eq!(
            Manifest::read("x", OCI_MANIFEST, good.into())
                .unwrap()
                .blobs()
                .count(),
            1
        );
    }
}
