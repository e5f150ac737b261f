//! An image to copy: its source, its target and its platforms.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use sluice_domain::resources::PlatformFilter;
use sluice_domain::{Digest, RemoteRepository, Repository, Tag};
use sluice_registry::ManifestRef;

/// Where an image is copied to.
#[derive(Debug, Clone)]
pub enum Target {
    /// A repository of a registry.
    Registry(RemoteRepository),
    /// A repository that is not asked; the digests of its tags are recorded.
    Recorded(Repository, Arc<HashMap<Tag, Digest>>),
}

/// One image to copy.
#[derive(Debug, Clone)]
pub struct Image {
    /// The source repository.
    pub source: RemoteRepository,
    /// The tag or digest at the source.
    pub reference: ManifestRef,
    /// The target.
    pub target: Target,
    /// The tag at the target; without one, the digest.
    pub tag: Option<Tag>,
    /// The platforms to copy.
    pub platforms: PlatformFilter,
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.reference {
            ManifestRef::Tag(_) => ':',
            ManifestRef::Digest(_) => '@',
        };
        write!(f, "{}{separator}{}", self.source, self.reference)
    }
}
