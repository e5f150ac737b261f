//! Manifests and indexes: parsed strictly, kept as the bytes that were served.

pub(crate) mod descriptor;
pub(crate) mod image_config;

use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use sluice_domain::{Digest, Tag};

use crate::content::strict_json;
use crate::error::Error;

use self::descriptor::{Descriptor, digest_of};

/// How deep the indexes of one image may be nested.
pub(crate) const MAX_DEPTH: usize = 3;
/// The most manifests of one image.
pub(crate) const MAX_MANIFESTS: usize = 1_024;
/// The most references in one document.
pub(crate) const MAX_REFERENCES: usize = 512;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A reference to a manifest in a repository.
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

/// What a HEAD returns of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// The digest.
    pub digest: Digest,
    /// The media type.
    pub media_type: String,
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
        /// The configuration.
        config: Descriptor,
        /// The layers.
        layers: Vec<Descriptor>,
    },
    /// An index of manifests.
    Index {
        /// The manifests.
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
    /// The parsed content.
    pub content: Content,
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

impl Manifest {
    /// Parses a document strictly.
    ///
    /// # Errors
    /// A document that is too large, of another type than declared, or readable as two kinds (CVE-2021-41190).
    pub fn parse(object: &str, media_type: &str, raw: Bytes) -> Result<Self, Error> {
        let refuse = |reason: &str| Error::untrusted(object, reason);
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
        strict_json::check(&strict_json::MANIFEST, &raw)
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

    /// Returns its blobs, foreign layers left out.
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

    /// Returns the manifests that it lists.
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
