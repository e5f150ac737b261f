//! Descriptors: references from one document to another, or to a blob.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use sluice_domain::{Digest, Platform};

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
    /// The URLs of a foreign layer; never fetched.
    #[serde(default)]
    pub urls: Vec<String>,
    /// The content itself, in base64; never used instead of fetching it.
    #[serde(default)]
    pub data: Option<String>,
    /// Annotations, as that a manifest is an attestation.
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
    /// Returns whether it is `unknown/unknown`, the platform that builders give to attestations.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// Returns whether it names neither operating system nor architecture.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.os.is_empty() && self.architecture.is_empty()
    }

    /// Returns the platform, if it names one that can run an image.
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
    /// Returns whether the embedded content, if any, has its digest and size.
    #[must_use]
    pub fn has_valid_data(&self) -> bool {
        let Some(data) = &self.data else {
            return true;
        };
        let content = base64::engine::general_purpose::STANDARD.decode(data);
        content.is_ok_and(|content| {
            u64::try_from(content.len()) == Ok(self.size) && digest_of(&content) == self.digest
        })
    }

    /// Returns whether the index marks this as an attestation, which proves nothing.
    #[must_use]
    pub fn is_marked_attestation(&self) -> bool {
        let has_annotation = |key: &str| {
            self.annotations
                .as_ref()
                .is_some_and(|annotations| annotations.contains_key(key))
        };
        has_annotation("vnd.docker.reference.type")
            || self
                .platform
                .as_ref()
                .is_some_and(DescriptorPlatform::is_unknown)
    }

    /// Returns whether this is a foreign layer, which is not copied; a layer without URLs is none.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        let foreign =
            self.media_type.contains("foreign") || self.media_type.contains("nondistributable");
        foreign && !self.urls.is_empty()
    }
}

/// Computes the digest of bytes.
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
