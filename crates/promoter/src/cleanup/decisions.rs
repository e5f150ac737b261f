//! Decisions on images that are not at their tag any more and stand in no target.

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, Repository, Tag, Target};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome};
use sluice_state::key;

use super::Part;
use crate::decide::stands;
use crate::handler::{Error, Promoter};

impl Promoter {
    pub(super) async fn forget_decisions(
        &self,
        after: u64,
        before: DateTime<Utc>,
    ) -> Result<Part, Error> {
        let (decisions, mut part) = (&self.state.decisions, Part::after(after));
        while let Some(page) = part.page(decisions, ">").await? {
            for entry in page {
                let is_certain = self.is_decided_in_vain(&entry.value, before).await?;
                part.settle(decisions, &entry, is_certain).await?;
            }
        }
        Ok(part)
    }

    /// Says whether nothing follows from a decision any more, whatever happens to its tag.
    async fn is_decided_in_vain(
        &self,
        decision: &Decision,
        before: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let is_old = time_from_wire(decision.decided_at.as_ref()).is_some_and(|at| at < before);
        let is_open = !decision.announced
            || decision.wait_until.is_some()
            || decision.outcome() == DecisionOutcome::Wait;
        if !is_old || is_open || stands(decision) {
            return Ok(false);
        }
        let (Ok(repository), Ok(tag), Ok(digest)) = (
            decision.repository.parse::<Repository>(),
            decision.tag.parse::<Tag>(),
            decision.digest.parse::<Digest>(),
        ) else {
            return Ok(false);
        };
        if self.is_at_its_tag(&repository, &tag, &digest).await? {
            return Ok(false);
        }
        let Ok(target) = Target::from_stored(&decision.target) else {
            // It led nowhere.
            return Ok(decision.target.is_empty());
        };
        if let Ok(target_tag) = decision.target_tag.parse::<Tag>() {
            let held = self
                .state
                .tags
                .get(&key::target_tag(&target, &target_tag))
                .await?;
            let names = |named: &str| named == digest.as_str();
            let is_named = held.is_some_and(|held| {
                names(&held.value.digest)
                    || held.value.claim.is_some_and(|claim| names(&claim.digest))
            });
            if is_named {
                return Ok(false);
            }
        }
        // What was allowed may have left something there, and only this decision knows of what.
        Ok(match target.local() {
            _ if !decision.was_allowed => true,
            Some(target) => {
                let head = self.registry.head(target, &(&digest).into()).await;
                head.map_err(super::waited_for)?.is_none()
            }
            None => false,
        })
    }

    /// Says whether a tag names an image, by its entry, by the registry or by what is upstream.
    async fn is_at_its_tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let names = |named: &str| named == digest.as_str();
        let held = self.state.tags.get(&key::tag(repository, tag)).await?;
        let is_held = held.is_some_and(|held| {
            let claimed = held.value.claim.as_ref();
            names(&held.value.digest) || claimed.is_some_and(|claim| names(&claim.digest))
        });
        if is_held || self.names(repository, tag).await?.as_ref() == Some(digest) {
            return Ok(true);
        }
        for entry in self.upstream_of(repository, tag).await? {
            let upstream = entry.value;
            let is_current = !upstream.gone && names(&upstream.digest);
            if is_current
                || upstream
                    .pending
                    .iter()
                    .any(|pending| names(&pending.digest))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
