//! A tag in a repository, and how a person names it.

use std::str::FromStr;

use sluice_domain::split_registry;
use sluice_domain::{Tag, Target};
use sluice_registry::ImageReference;

/// A tag in a repository, which may be one of a remote registry.
pub(super) type Location = (Target, Tag);

/// The image to explain.
#[derive(Debug, Clone)]
pub(super) struct ExplainedImage {
    pub(super) target: Target,
    pub(super) tag: Option<Tag>,
}

impl FromStr for ExplainedImage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (registry, image) = match split_registry(text) {
            Some((host, image)) => {
                let host = host.parse().map_err(|error| format!("{error}"))?;
                (Some(host), image)
            }
            None => (None, text),
        };
        let image: ImageReference = image.parse()?;
        Ok(Self {
            target: Target {
                registry,
                repository: image.repository,
            },
            tag: image.tag,
        })
    }
}
