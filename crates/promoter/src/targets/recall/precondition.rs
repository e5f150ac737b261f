//! The precondition of a removed tag: the image is still refused there, and no other policy allows it.

use sluice_domain::{Tag, Target};
use sluice_events::wire::state::DecisionOutcome;
use sluice_state::{Error, Freshness, Precondition, State, key};

use crate::evaluate::evaluated_decision::Evaluation;
use crate::evaluate::policies::{self, Validity};
use crate::targets::endpoint::TargetEndpoint;

/// The precondition of a withdrawal: the decision still refuses what the tag names, and no other one allows it there.
pub(super) struct RemovalPrecondition<'a> {
    pub(super) state: &'a State,
    pub(super) evaluation: &'a Evaluation<'a>,
    pub(super) endpoint: &'a TargetEndpoint,
    pub(super) tag: &'a Tag,
}

impl Precondition for RemovalPrecondition<'_> {
    async fn freshness(&self) -> Result<Freshness, Error> {
        let (evaluation, target) = (self.evaluation, &self.endpoint.target);
        let is_current = is_still_refused(self.state, evaluation).await?
            && self.is_tag_of_image().await?
            && !is_allowed_by_other(self.state, evaluation, target, self.tag).await?;
        Ok(if is_current {
            Freshness::Current
        } else {
            Freshness::Superseded
        })
    }
}

impl RemovalPrecondition<'_> {
    /// Says whether the tag names the image, or did before its removal began.
    ///
    /// The registry counts before the entry: after a restore its tag may be newer than any entry, and other services write
    /// entries too.
    async fn is_tag_of_image(&self) -> Result<bool, Error> {
        let digest = &self.evaluation.decision.digest;
        let TargetEndpoint { registry, .. } = self.endpoint;
        let repository = self.endpoint.repository();
        match self.endpoint.head(self.tag).await? {
            Some(head) if head.digest.as_str() == digest => return Ok(true),
            Some(head) if !registry.is_tombstone(repository, &head.digest).await? => {
                return Ok(false);
            }
            _ => {}
        }
        // Another digest may have been promoted meanwhile. While the tag is claimed, its entry does not say yet what it
        // names.
        let key = key::target_tag(&self.endpoint.target, self.tag);
        let entry = self.state.tags.get(&key).await?;
        Ok(entry.is_some_and(|entry| entry.value.claim.is_some() || entry.value.digest == *digest))
    }
}

/// Says whether the stored decision still asks for this recall.
pub(super) async fn is_still_refused(
    state: &State,
    evaluation: &Evaluation<'_>,
) -> Result<bool, Error> {
    let Some(now) = state.decisions.get(&evaluation.key).await? else {
        return Ok(false);
    };
    if !evaluation.is_former {
        return Ok(now.value.outcome() == DecisionOutcome::Deny);
    }
    let (target, tag) = (&evaluation.decision.target, &evaluation.decision.target_tag);
    let mut former = now.value.former_targets.iter();
    Ok(former.any(|former| (&former.target, &former.target_tag) == (target, tag)))
}

/// Says whether another decision allows an image at a tag of a target: of a policy that exists, is enabled, has not been
/// changed since, and leads there. Only such a decision protects a tag, and no other tag.
pub(super) async fn is_allowed_by_other(
    state: &State,
    evaluation: &Evaluation<'_>,
    target: &Target,
    tag: &Tag,
) -> Result<bool, Error> {
    let about = key::decisions_about(&evaluation.subject.digest);
    let decisions = state.decisions.list(&about).await?;
    let (target, policies) = (target.stored(), policies::read(state).await?);
    Ok(decisions.iter().any(|entry| {
        let other = &entry.value;
        let is_own = entry.key == evaluation.key && !evaluation.is_former;
        let leads_there = other.target == target && other.target_tag == tag.as_str();
        // A decision whose policy was changed just now is made again, and that evaluation checks this one too.
        let is_pending = || {
            let is_allowed = other.outcome() == DecisionOutcome::Allow;
            is_allowed && matches!(policies.validity(other), Validity::Outdated(_))
        };
        !is_own && leads_there && (policies.allows(other) || is_pending())
    }))
}
