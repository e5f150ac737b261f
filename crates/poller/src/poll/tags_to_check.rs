//! The tags that a poll checks: those that the upstream lists, and those with moves that were not published.
//!
//! An empty list deletes nothing, and a tag that is not listed counts as deleted only once a HEAD does not find it either.

use std::collections::{BTreeMap, HashSet};

use sluice_domain::Tag;
use sluice_domain::resources::Mirror;
use sluice_registry::Client;
use sluice_service::error_chain;

use super::known_tags::KnownTag;

/// Why a tag is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CheckReason {
    /// The upstream lists the tag and the mirror selects it, or it is an attachment of a mirrored image.
    Listed,
    /// The tag is known, and the upstream does not list it.
    Unlisted,
    /// A move of the tag was not published.
    PendingMove,
}

/// The tags that a poll checks.
#[derive(Debug, Default)]
pub(super) struct TagsToCheck {
    pub(super) checks: Vec<(Tag, CheckReason)>,
    /// The listed tags of attachments, whether or not the mirror has their images.
    pub(super) attachments: Vec<Tag>,
    /// How many tags the mirror selects.
    pub(super) selected: usize,
}

impl TagsToCheck {
    /// Lists the upstream's tags; fails with the reason, for people.
    pub(super) async fn fetch(
        mirror: &Mirror,
        client: &Client,
        known: &BTreeMap<Tag, KnownTag>,
    ) -> Result<Self, String> {
        let listed = client.list_tags(&mirror.from.repository).await;
        let listed = listed.map_err(|error| error_chain(&error))?;
        let selection =
            sluice_policy::select(&mirror.tags, &listed).map_err(|error| error.to_string())?;
        let attachments = listed.iter().filter(|tag| tag.attached_to().is_some());
        let attachments = attachments.cloned().collect();
        let listed: HashSet<Tag> = listed.into_iter().collect();
        let selected: HashSet<&Tag> = selection.tags.iter().collect();
        let mut checks = Vec::new();
        for (tag, known) in known {
            // An empty listing does not show that all tags were deleted.
            let is_unlisted = !listed.is_empty() && !listed.contains(tag) && known.digest.is_some();
            if is_unlisted {
                checks.push((tag.clone(), CheckReason::Unlisted));
            } else if !known.is_published && !selected.contains(tag) {
                checks.push((tag.clone(), CheckReason::PendingMove));
            }
        }
        let selected = selection.tags.len();
        let listed = selection.tags.into_iter();
        checks.extend(listed.map(|tag| (tag, CheckReason::Listed)));
        Ok(Self {
            checks,
            attachments,
            selected,
        })
    }

    /// Returns what is left to do if the listing failed: the moves that a process died before publishing.
    pub(super) fn of_pending_moves(known: &BTreeMap<Tag, KnownTag>) -> Self {
        let pending = known.iter().filter(|(_, known)| !known.is_published);
        Self {
            checks: pending
                .map(|(tag, _)| (tag.clone(), CheckReason::PendingMove))
                .collect(),
            ..Self::default()
        }
    }

    /// Adds the attachments of mirrored images to the checks.
    pub(super) fn add_attachments(&mut self, attachments: HashSet<Tag>) {
        self.checks.retain(|(tag, _)| !attachments.contains(tag));
        let checks = attachments.into_iter();
        self.checks
            .extend(checks.map(|tag| (tag, CheckReason::Listed)));
    }

    /// Returns the checks in the order of their tags, without those up to `after` that have no pending moves.
    pub(super) fn checks_after(
        mut self,
        after: &str,
        known: &BTreeMap<Tag, KnownTag>,
    ) -> Vec<(Tag, CheckReason)> {
        self.checks.retain_mut(|(tag, reason)| {
            if tag.as_str() > after {
                return true;
            }
            *reason = CheckReason::PendingMove;
            known.get(tag).is_some_and(|known| !known.is_published)
        });
        self.checks
            .sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        self.checks
    }
}
