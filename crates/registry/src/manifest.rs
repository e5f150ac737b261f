//! Manifests and indexes: read strictly, kept as the bytes that were served.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use sluice_domain::{Digest, Platform, Tag};

use crate::error::Error;
use crate::strict;

/// The most references in one document.
pub(crate) const MAX_REFERENCES: usize = 512;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

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
    /// The content itself, in base64; never used instead of fetching it.
    #[serde(default)]
    pub data: Option<String>,
    /// Notes, as that a manifest is an attestation.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
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
    /// Says whether it is the platform that builders give to attestations, for which nothing runs.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// Says whether it names nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.os.is_empty() && self.architecture.is_empty()
    }

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
    /// Says whether the content that comes along, if any, is what digest and size say.
    #[must_use]
    pub fn has_right_data(&self) -> bool {
        let Some(data) = &self.data else {
            return true;
        };
        let content = base64::engine::general_purpose::STANDARD.decode(data);
        content.is_ok_and(|content| {
            u64::try_from(content.len()) == Ok(self.size) && digest_of(&content) == self.digest
        })
    }

    /// Says whether the index calls this an attestation beside its runnable manifests, which anybody can write.
    #[must_use]
    pub fn is_called_attestation(&self) -> bool {
        let noted = |key: &str| {
            self.annotations
                .as_ref()
                .is_some_and(|notes| notes.contains_key(key))
        };
        noted("vnd.docker.reference.type")
            || self
                .platform
                .as_ref()
                .is_some_and(DescriptorPlatform::is_unknown)
    }

    /// Says whether the layer lies elsewhere by design and is not copied; one without an address does not.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        let foreign =
            self.media_type.contains("foreign") || self.media_type.contains("nondistributable");
        foreign && !self.urls.is_empty()
    }
}

/// What a manifest refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are images, and none is copied"
)]
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
    #[serde(default)]
    config: Option<RunConfig>,
    /// What the image's layers unpack to.
    #[serde(default)]
    pub rootfs: Option<RootFs>,
}

/// What the configuration of an image says of its layers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RootFs {
    /// How they are listed; always `layers`.
    #[serde(default)]
    pub r#type: String,
    /// The digests of the unpacked layers in their order, as they are written.
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct RunConfig {
    #[serde(default, rename = "Labels")]
    labels: Option<BTreeMap<String, String>>,
}

impl ImageConfig {
    /// Reads a configuration strictly: each key once and written as it should be, and nothing behind the document.
    ///
    /// # Errors
    /// Bytes that are none, or that can be read in two ways.
    pub fn read(what: &str, raw: &[u8]) -> Result<Self, Error> {
        let config = serde_json::from_slice(raw)
            .map_err(|error| Error::untrusted(what, format!("it is no configuration: {error}")))?;
        strict::read(&strict::CONFIG, raw).map_err(|error| {
            Error::untrusted(what, format!("it can be read in two ways: {error}"))
        })?;
        Ok(config)
    }

    /// Returns the labels, taken out.
    #[must_use]
    pub fn take_labels(&mut self) -> BTreeMap<String, String> {
        let config = self.config.as_mut();
        config
            .and_then(|config| config.labels.take())
            .unwrap_or_default()
    }
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
        strict::read(&strict::MANIFEST, &raw)
            .map_err(|error| refuse(&format!("it can be read in two ways: {error}")))?;
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
            // Artifacts without content, and some builders' empty images, leave the list of layers out.
            (false, Some(config), layers, None) => Content::Image {
                config,
                layers: layers.unwrap_or_default(),
            },
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

#[cfg(test)]
mod tests;
