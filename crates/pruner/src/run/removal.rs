//! The removal of one tag, which is carried out only if nothing changed since the plan was made.

use std::collections::BTreeMap;

use sluice_domain::{Digest, Repository, ResourceName, Tag};
use sluice_events::wire::state::{Decision, DecisionOutcome, Pruning, TagEntry};
use sluice_registry::Client;
use sluice_state::{
    Entry, Error, Freshness, Precondition, Provenance, Snapshot, State, TagChange,
    TagChangeOutcome, TagWriter, key,
};

use crate::settings::STAGE;

/// A tag that is to be removed.
#[derive(Debug)]
pub(super) struct TagRemoval<'a> {
    pub(super) state: &'a State,
    pub(super) registry: &'a Client,
    pub(super) catalog: &'a Snapshot,
    pub(super) repository: &'a Repository,
    pub(super) tag: &'a Tag,
    /// The digest of the tag when the plan was made.
    pub(super) digest: &'a Digest,
}

impl Precondition for TagRemoval<'_> {
    /// The entry and the registry must still name the planned digest, and no promotion may wait for its soak time.
    ///
    /// Where the tag was removed already, only its entry is to be updated.
    async fn freshness(&self) -> Result<Freshness, Error> {
        let entry = self
            .state
            .tags
            .get(&key::tag(self.repository, self.tag))
            .await?;
        let Some(entry) = entry.filter(|entry| entry.value.digest == self.digest.as_str()) else {
            return Ok(Freshness::Superseded);
        };
        let is_current = match self.tag_state(&entry.value).await? {
            TagState::Removed => true,
            TagState::Changed => false,
            TagState::Unchanged => !self.is_soaking().await?,
        };
        Ok(if is_current {
            Freshness::Current
        } else {
            Freshness::Superseded
        })
    }
}

/// What a tag names in the registry.
enum TagState {
    /// The planned digest.
    Unchanged,
    /// Nothing, or the tombstone of an interrupted removal.
    Removed,
    /// Another digest.
    Changed,
}

impl TagRemoval<'_> {
    /// Says whether an interrupted removal has removed the tag already.
    pub(super) async fn is_tag_removed(&self, entry: &TagEntry) -> Result<bool, Error> {
        Ok(matches!(self.tag_state(entry).await?, TagState::Removed))
    }

    async fn tag_state(&self, entry: &TagEntry) -> Result<TagState, Error> {
        let head = self
            .registry
            .head(self.repository, &self.tag.into())
            .await?;
        let Some(head) = head else {
            return Ok(TagState::Removed);
        };
        if head.digest == *self.digest {
            return Ok(TagState::Unchanged);
        }
        let is_begun = entry.pruning.is_some();
        if is_begun
            && self
                .registry
                .is_tombstone(self.repository, &head.digest)
                .await?
        {
            return Ok(TagState::Removed);
        }
        Ok(TagState::Changed)
    }

    /// Says whether a promotion of the image waits for its soak time.
    async fn is_soaking(&self) -> Result<bool, Error> {
        let decisions = self
            .state
            .decisions
            .collect(
                &key::decisions_on(self.repository, self.tag),
                waiting_decision,
            )
            .await?;
        let image = (self.tag.to_string(), self.digest.to_string());
        Ok(soaking_images(self.catalog, self.repository, decisions.values()).contains_key(&image))
    }

    /// Removes the tag; says whether that was done.
    pub(super) async fn carry_out(
        &self,
        tags: &TagWriter,
        entry: &TagEntry,
        run: &str,
        reason: &str,
    ) -> Result<bool, Error> {
        let change = TagChange {
            repository: self.repository,
            tag: self.tag,
            wanted: None,
            provenance: Provenance {
                by: STAGE.to_owned(),
                // Kept, so that a late delivery of the same move does not restore the tag.
                mirror: entry.mirror.clone(),
                move_number: entry.move_number,
                ..Provenance::default()
            },
            precondition: self,
        };
        let pruning = Pruning {
            run: run.to_owned(),
            digest: self.digest.to_string(),
            reason: reason.to_owned(),
        };
        Ok(tags.prune(&change, &pruning).await? != TagChangeOutcome::Superseded)
    }
}

/// Returns the images that wait for their soak time: tag and digest, with the policy.
pub(super) fn soaking_images<'a>(
    catalog: &Snapshot,
    repository: &Repository,
    waiting: impl Iterator<Item = &'a Decision>,
) -> BTreeMap<(String, String), ResourceName> {
    waiting
        .filter_map(|decision| {
            // A policy that was deleted or disabled does not count.
            let policy = catalog
                .policies_from(repository)
                .find(|policy| policy.name.as_str() == decision.policy)?;
            let image = (decision.tag.clone(), decision.digest.clone());
            Some((image, policy.name.clone()))
        })
        .collect()
}

/// Returns a decision if it waits for its soak time.
pub(super) fn waiting_decision(entry: Entry<Decision>) -> Option<Decision> {
    let waits = entry.value.outcome() == DecisionOutcome::Wait;
    waits.then_some(entry.value)
}
