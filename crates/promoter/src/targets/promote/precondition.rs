//! The precondition of a promoted tag: the image is still allowed there, and its source still names it.

use sluice_domain::Tag;
use sluice_events::time_from_wire;
use sluice_events::wire::state::DecisionOutcome;
use sluice_registry::Client;
use sluice_state::{Freshness, Precondition, State, key};

use crate::evaluate::decision::{decided_at, key_of_holder};
use crate::evaluate::evaluated_decision::Evaluation;
use crate::evaluate::policies;
use crate::evaluate::scanned_image::are_unchanged;
use crate::targets::endpoint::TargetEndpoint;

/// The precondition of a promoted tag: the decision, the source's tag, and the promotion that the target tag is of.
pub(super) struct PromotionPrecondition<'a> {
    /// The state.
    pub(super) state: &'a State,
    /// The internal registry.
    pub(super) registry: &'a Client,
    pub(super) evaluation: &'a Evaluation<'a>,
    pub(super) endpoint: &'a TargetEndpoint,
    pub(super) target_tag: &'a Tag,
}

impl Precondition for PromotionPrecondition<'_> {
    async fn freshness(&self) -> Result<Freshness, sluice_state::Error> {
        let is_current = self.is_wanted().await? && self.is_evaluation_current().await?;
        Ok(freshness(is_current))
    }

    /// The source's tag was checked in the registry right before; a later move is an event of its own.
    async fn freshness_after(&self) -> Result<Freshness, sluice_state::Error> {
        let is_current = self.is_wanted_by_state().await? && self.is_evaluation_current().await?;
        Ok(freshness(is_current))
    }
}

const fn freshness(is_current: bool) -> Freshness {
    if is_current {
        Freshness::Current
    } else {
        Freshness::Superseded
    }
}

impl PromotionPrecondition<'_> {
    /// Says whether the policy and the verdicts are still those of the evaluation.
    async fn is_evaluation_current(&self) -> Result<bool, sluice_state::Error> {
        let Evaluation {
            image, decision, ..
        } = self.evaluation;
        Ok(policies::is_unchanged(self.state, decision).await?
            && are_unchanged(self.state, &image.verdicts).await?)
    }

    /// Says whether the image belongs at its target tag, by the state and by the tag of its source in the registry.
    pub(super) async fn is_wanted(&self) -> Result<bool, sluice_state::Error> {
        Ok(self.is_wanted_by_state().await? && self.is_source_tagged().await?)
    }

    /// Says whether the image belongs at its target tag, without checking the tag of its source in the registry.
    pub(super) async fn is_wanted_by_state(&self) -> Result<bool, sluice_state::Error> {
        let Evaluation {
            subject, decision, ..
        } = self.evaluation;
        let now = self.state.decisions.get(&self.evaluation.key).await?;
        let still_allowed = now.is_some_and(|now| {
            now.value.outcome() == DecisionOutcome::Allow
                && now.value.target == decision.target
                && now.value.target_tag == decision.target_tag
        });
        let source = key::tag(&subject.repository, &subject.tag);
        let source = self.state.tags.get(&source).await?;
        let still_named =
            source.is_some_and(|source| source.value.digest == subject.digest.as_str());
        Ok(still_allowed
            && still_named
            && !self.is_taken().await?
            && !self.is_kept_since_restore().await?)
    }

    /// Says whether the source's tag names the image in the registry: after a restore its entry may be older than that.
    async fn is_source_tagged(&self) -> Result<bool, sluice_state::Error> {
        let subject = self.evaluation.subject;
        let head = self
            .registry
            .head(&subject.repository, &(&subject.tag).into())
            .await?;
        Ok(head.is_some_and(|head| head.digest == subject.digest))
    }

    /// Says whether the target's tag names an image that the first audit after a restore found there.
    ///
    /// It may be newer than the restored state, so only a promotion that was decided since replaces it.
    async fn is_kept_since_restore(&self) -> Result<bool, sluice_state::Error> {
        // Tags that others move in a remote target are not stored; a repeated evaluation leaves them as they are.
        let Some(target) = self.endpoint.target.local() else {
            return Ok(false);
        };
        let key = key::unauthorised(target, self.target_tag);
        let Some(found) = self.state.unauthorised.get(&key).await? else {
            return Ok(false);
        };
        let found = found.value;
        let before = time_from_wire(self.evaluation.decision.promoted_at.as_ref())
            < time_from_wire(found.found_at.as_ref());
        if !found.kept || !before || found.digest == self.evaluation.decision.digest {
            return Ok(false);
        }
        let head = self.endpoint.head(self.target_tag).await?;
        Ok(head.is_some_and(|head| head.digest.as_str() == found.digest))
    }

    /// Says whether a newer decision, of another source or policy, has the target's tag.
    ///
    /// The tag's entry names the promotion that was settled last, and stays so while the tag is claimed. If the decision
    /// of that promotion still allows what the tag names and is newer than this one, this one is too late. A newer
    /// one that is not settled yet finds this one settled, or its claim, and follows it. So the newest decision has
    /// the tag in the end, in whatever order they are carried out. One whose own source has moved on does not count,
    /// however new it is: clocks differ, and a tag may be moved back to what it named before.
    async fn is_taken(&self) -> Result<bool, sluice_state::Error> {
        let entry = self
            .state
            .tags
            .get(&key::target_tag(&self.endpoint.target, self.target_tag))
            .await?;
        let Some(entry) = entry else {
            return Ok(false);
        };
        let Some(holder) = key_of_holder(&entry.value).filter(|key| *key != self.evaluation.key)
        else {
            return Ok(false);
        };
        let Some(other) = self.state.decisions.get(&holder).await? else {
            return Ok(false);
        };
        let other = other.value;
        let newer = (decided_at(&other), &holder)
            > (decided_at(&self.evaluation.decision), &self.evaluation.key);
        let holds = newer
            && other.digest != self.evaluation.decision.digest
            && other.outcome() == DecisionOutcome::Allow
            && other.target == self.evaluation.decision.target
            && other.target_tag == self.target_tag.as_str();
        if !holds {
            return Ok(false);
        }
        let (Ok(repository), Ok(tag)) = (other.repository.parse(), other.tag.parse()) else {
            return Ok(false);
        };
        let source = self.state.tags.get(&key::tag(&repository, &tag)).await?;
        Ok(source.is_some_and(|source| source.value.digest == other.digest))
    }
}
