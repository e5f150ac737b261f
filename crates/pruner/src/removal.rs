//! Removes one tag, if everything is still as it was planned.

use std::collections::BTreeMap;

use sluice_domain::{Digest, Repository, ResourceName, Tag};
use sluice_events::wire::state::{Decision, DecisionOutcome, Pruning, TagEntry};
use sluice_registry::Client;
use sluice_state::{
    Applied, Entry, Error, Freshness, Precondition, Provenance, Snapshot, State, TagChange,
    TagWriter, key,
};

use crate::prune::NAME;

/// A tag that is to be removed.
#[derive(Debug)]
pub(crate) struct Removal<'a> {
    pub(crate) state: &'a State,
    pub(crate) registry: &'a Client,
    pub(crate) catalog: &'a Snapshot,
    pub(crate) repository: &'a Repository,
    pub(crate) tag: &'a Tag,
    /// What it named when the plan was made.
    pub(crate) digest: &'a Digest,
}

impl Precondition for Removal<'_> {
    /// The entry and the registry must still name the planned digest, and nothing may wait for it.
    ///
    /// Where the tag itself is gone already, only the entry is left to be settled.
    async fn freshness(&self) -> Result<Freshness, Error> {
        let entry = self
            .state
            .tags
            .get(&key::tag(self.repository, self.tag))
            .await?;
        let Some(entry) = entry.filter(|entry| entry.value.digest == self.digest.as_str()) else {
            return Ok(Freshness::Superseded);
        };
        let is_current = match self.at(&entry.value).await? {
            At::Gone => true,
            At::Other => false,
            At::Planned => !self.soaks().await?,
        };
        Ok(if is_current {
            Freshness::Current
        } else {
            Freshness::Superseded
        })
    }
}

/// What the registry has at a tag.
enum At {
    /// What was planned to go.
    Planned,
    /// Nothing, or what a removal that was interrupted put there.
    Gone,
    /// Something else.
    Other,
}

impl Removal<'_> {
    /// Says whether a removal that was begun got so far that the tag is gone already.
    pub(crate) async fn is_gone(&self, entry: &TagEntry) -> Result<bool, Error> {
        Ok(matches!(self.at(entry).await?, At::Gone))
    }

    async fn at(&self, entry: &TagEntry) -> Result<At, Error> {
        let head = self
            .registry
            .head(self.repository, &self.tag.into())
            .await?;
        let Some(head) = head else {
            return Ok(At::Gone);
        };
        if head.digest == *self.digest {
            return Ok(At::Planned);
        }
        let begun = entry.pruning.is_some();
        if begun
            && self
                .registry
                .is_tombstone(self.repository, &head.digest)
                .await?
        {
            return Ok(At::Gone);
        }
        Ok(At::Other)
    }

    async fn soaks(&self) -> Result<bool, Error> {
        let decisions = self
            .state
            .decisions
            .collect(&key::decisions_on(self.repository, self.tag), waiting)
            .await?;
        let image = (self.tag.to_string(), self.digest.to_string());
        Ok(soaking(self.catalog, self.repository, decisions.values()).contains_key(&image))
    }

    /// Says whether the tag is gone now, and by this removal.
    pub(crate) async fn carry_out(
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
                by: NAME.to_owned(),
                // Kept, so that a late delivery of the same move does not bring the tag back.
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
        Ok(tags.prune(&change, &pruning).await? != Applied::Superseded)
    }
}

/// Returns what waits for its soak time: tag and digest, with the policy that lets it wait.
pub(crate) fn soaking<'a>(
    catalog: &Snapshot,
    repository: &Repository,
    waiting: impl Iterator<Item = &'a Decision>,
) -> BTreeMap<(String, String), ResourceName> {
    waiting
        .filter_map(|decision| {
            // A policy that is gone or off waits for nothing.
            let policy = catalog
                .policies_from(repository)
                .find(|policy| policy.name.as_str() == decision.policy)?;
            let image = (decision.tag.clone(), decision.digest.clone());
            Some((image, policy.name.clone()))
        })
        .collect()
}

/// Takes a decision that waits for its soak time.
pub(crate) fn waiting(entry: Entry<Decision>) -> Option<Decision> {
    let waits = entry.value.outcome() == DecisionOutcome::Wait;
    waits.then_some(entry.value)
}
