//! A tag that a client of the registry pushed or deleted.

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, Repository, Tag};
use sluice_events::facts::{TagDeleted, TagPushed};

/// A tag that a client of the registry pushed or deleted.
#[derive(Debug)]
pub(crate) struct ObservedTag {
    pub(crate) repository: Repository,
    pub(crate) tag: Tag,
    /// The pushed digest; `None` for a deletion.
    pub(crate) digest: Option<Digest>,
    pub(crate) actor: String,
    pub(crate) at: DateTime<Utc>,
}

impl From<TagPushed> for ObservedTag {
    fn from(event: TagPushed) -> Self {
        Self {
            repository: event.repository,
            tag: event.tag,
            digest: Some(event.digest),
            actor: event.actor,
            at: event.at,
        }
    }
}

impl From<TagDeleted> for ObservedTag {
    fn from(event: TagDeleted) -> Self {
        Self {
            repository: event.repository,
            tag: event.tag,
            digest: None,
            actor: event.actor,
            at: event.at,
        }
    }
}
