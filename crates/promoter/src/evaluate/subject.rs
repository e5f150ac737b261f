//! The subject of an evaluation: a tag that names, or named, an image.

use sluice_domain::{Digest, Repository, ResourceName, Tag};
use sluice_events::wire::state::TagEntry;
use sluice_state::key;

/// A tag that names, or named, an image.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) repository: Repository,
    pub(crate) tag: Tag,
    pub(crate) digest: Digest,
    /// The entry of the tag, if it still names the digest.
    pub(crate) current: Option<TagEntry>,
}

impl Subject {
    /// Returns the key of a policy's decision on it.
    pub(crate) fn key(&self, policy: &ResourceName) -> String {
        key::decision(policy, &self.repository, &self.tag, &self.digest)
    }
}
