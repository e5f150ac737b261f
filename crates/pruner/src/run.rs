//! One run of retention, as its steps share it.

use std::collections::BTreeMap;

use sluice_bus::Cause;
use sluice_domain::{Repository, ResourceName, Tag};
use sluice_events::facts::PrunedTag;
use sluice_events::wire::state::TagEntry;
use sluice_state::Snapshot;

/// One run of retention in one repository.
pub(crate) struct Run<'a> {
    pub(crate) catalog: &'a Snapshot,
    pub(crate) repository: &'a Repository,
    pub(crate) policy: Option<&'a ResourceName>,
    pub(crate) held: &'a BTreeMap<Tag, TagEntry>,
    pub(crate) cause: &'a Cause,
}

impl Run<'_> {
    /// Returns what this very run deleted before it was interrupted: it was not told yet.
    pub(crate) fn deleted_before(&self) -> Vec<PrunedTag> {
        self.held
            .iter()
            .filter(|(_, entry)| entry.digest.is_empty())
            .filter_map(|(tag, entry)| {
                let pruning = entry
                    .pruning
                    .as_ref()
                    .filter(|pruning| pruning.run == self.cause.occurrence)?;
                Some(PrunedTag {
                    tag: tag.clone(),
                    digest: pruning.digest.parse().ok()?,
                    reason: pruning.reason.clone(),
                })
            })
            .collect()
    }
}
