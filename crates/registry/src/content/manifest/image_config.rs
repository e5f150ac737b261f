//! The configuration of an image.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::content::manifest::descriptor::DescriptorPlatform;
use crate::content::strict_json;
use crate::error::Error;

/// The configuration of an image, as far as it is used.
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
    /// The digests of the unpacked layers.
    #[serde(default)]
    pub rootfs: Option<RootFs>,
}

/// The unpacked layers of an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RootFs {
    /// The type of the list; always `layers`.
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
    /// Parses a configuration strictly: each key once and in its exact form, and no bytes after the document.
    ///
    /// # Errors
    /// Bytes that are no configuration, or that can be read in two ways.
    pub fn parse(object: &str, raw: &[u8]) -> Result<Self, Error> {
        let config = serde_json::from_slice(raw).map_err(|error| {
            Error::untrusted(object, format!("it is no configuration: {error}"))
        })?;
        strict_json::check(&strict_json::CONFIG, raw).map_err(|error| {
            Error::untrusted(object, format!("it can be read in two ways: {error}"))
        })?;
        Ok(config)
    }

    /// Takes the labels.
    #[must_use]
    pub fn take_labels(&mut self) -> BTreeMap<String, String> {
        let config = self.config.as_mut();
        config
            .and_then(|config| config.labels.take())
            .unwrap_or_default()
    }
}
