//! When an image has to leave a tag of a target: its decision refuses it, and no policy allows it there.

use sluice_domain::{Tag, Target};
use sluice_events::wire::state::DecisionOutcome;
use sluice_state::{Freshness, Precondition, State, key};

use crate::handler::{Error, Evaluated, Promoter};
use crate::policies::{self, Validity};
use crate::target_endpoint::TargetEndpoint;

/// The source of truth of a withdrawal: the decision still refuses what the tag names, and no other one allows it there.
pub(crate) struct Refused<'a> {
    pub(crate) promoter: &'a Promoter,
    pub(crate) case: &'a Evaluated<'a>,
    pub(crate) endpoint: &'a TargetEndpoint,
    pub(crate) tag: &'a Tag,
}

impl Precondition for Refused<'_> {
    async fn freshness(&self) -> Result<Freshness, sluice_state::Error> {
        let state = &self.promoter.state;
        let digest = &self.case.decision.digest;
        let stands = self.case.is_refused_now(state).await?
            && self.is_named(digest).await?
            && !self
                .promoter
                .is_allowed_at(self.case, &self.endpoint.target, self.tag)
                .await?;
        Ok(if stands {
            Freshness::Current
        } else {
            Freshness::Superseded
        })
    }
}

impl Refused<'_> {
    /// Says whether the tag names the image, or did before its removal began.
    ///
    /// What the registry says counts: after a restore its tag may be newer than any entry, and who writes entries is not
    /// the promoter alone.
    async fn is_named(&self, digest: &str) -> Result<bool, sluice_state::Error> {
        let TargetEndpoint { registry, .. } = self.endpoint;
        let repository = self.endpoint.repository();
        match self.endpoint.head(self.tag).await? {
            Some(head) if head.digest.as_str() == digest => return Ok(true),
            Some(head) if !registry.is_tombstone(repository, &head.digest).await? => {
                return Ok(false);
            }
            _ => {}
        }
        // Somebody may have promoted another digest meanwhile. While the tag is claimed, its entry does not say yet what
        // it names.
        let key = key::target_tag(&self.endpoint.target, self.tag);
        let entry = self.promoter.state.tags.get(&key).await?;
        Ok(entry.is_some_and(|entry| entry.value.claim.is_some() || entry.value.digest == digest))
    }
}

impl Evaluated<'_> {
    /// Says whether the stored decision still asks for this recall.
    pub(crate) async fn is_refused_now(&self, state: &State) -> Result<bool, sluice_state::Error> {
        let Some(now) = state.decisions.get(&self.key).await? else {
            return Ok(false);
        };
        if !self.is_former {
            return Ok(now.value.outcome() == DecisionOutcome::Deny);
        }
        let (target, tag) = (&self.decision.target, &self.decision.target_tag);
        let mut former = now.value.former_targets.iter();
        Ok(former.any(|former| (&former.target, &former.target_tag) == (target, tag)))
    }
}

impl Promoter {
    /// Says whether some other decision allows an image at a tag of a target: of a policy that exists, is on, has not
    /// been changed since, and leads there. Only that protects a tag, and it protects no other one.
    pub(crate) async fn is_allowed_at(
        &self,
        case: &Evaluated<'_>,
        target: &Target,
        tag: &Tag,
    ) -> Result<bool, sluice_state::Error> {
        let about = key::decisions_about(&case.subject.digest);
        let decisions = self.state.decisions.list(&about).await?;
        let (target, policies) = (target.stored(), policies::read(&self.state).await?);
        Ok(decisions.iter().any(|entry| {
            let other = &entry.value;
            let is_own = entry.key == case.key && !case.is_former;
            let leads_there = other.target == target && other.target_tag == tag.as_str();
            // One whose policy was changed this moment is evaluated again, and then looks at this one too.
            let is_pending = || {
                let is_allowed = other.outcome() == DecisionOutcome::Allow;
                is_allowed && matches!(policies.validity(other), Validity::Outdated(_))
            };
            !is_own && leads_there && (policies.allows(other) || is_pending())
        }))
    }
}

/// Says whether a tag of the registry names an image.
pub(crate) async fn is_named_there(
    case: &Evaluated<'_>,
    endpoint: &TargetEndpoint,
    tag: &Tag,
) -> Result<bool, Error> {
    let head = endpoint.head(tag).await?;
    Ok(head.is_some_and(|head| head.digest == case.subject.digest))
}
