//! The evaluation of one image under one tag: by a policy, or because its policy decides no more; then it is stored.

use sluice_bus::Cause;
use sluice_domain::{Digest, Repository, Tag, Target, now};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome, ImageEntry};
use sluice_service::crash;
use sluice_state::{Entry, key};

use crate::decide::{decide, ended, is_ended, refuse_new_place, stands};
use crate::facts::{ScannedImage, Subject, first_seen};
use crate::handler::{Error, Evaluated, Promoter};
use crate::policies::{Policies, Policy, Validity};
use crate::restore_guard::keep_held;

/// An image under a tag, with what was decided on it before.
pub(crate) struct Stored {
    pub(crate) subject: Subject,
    pub(crate) decisions: Vec<Entry<Decision>>,
}

impl Stored {
    fn of(&self, key: &str) -> Option<&Entry<Decision>> {
        self.decisions.iter().find(|entry| entry.key == key)
    }
}

impl Promoter {
    /// Returns what an image consists of, read from a repository that has it: of its source, or of a target.
    pub(crate) async fn described(
        &self,
        digest: &Digest,
        stored: &[Stored],
    ) -> Result<Option<ImageEntry>, Error> {
        let mut places: Vec<Repository> = Vec::new();
        places.extend(stored.iter().map(|one| one.subject.repository.clone()));
        for entry in stored.iter().flat_map(|one| &one.decisions) {
            let former = entry.value.former_targets.iter();
            let targets = former.map(|former| &former.target);
            let targets = targets.chain([&entry.value.target]);
            places.extend(targets.filter_map(|target| target.parse().ok()));
        }
        self.image(digest, places).await
    }

    /// Judges by one policy and stores the decision, before anything follows from it.
    pub(crate) async fn judge<'a>(
        &self,
        policy: &'a Policy,
        stored: &'a Stored,
        known: &'a ScannedImage,
        cause: &Cause,
    ) -> Result<Option<Evaluated<'a>>, Error> {
        let subject = &stored.subject;
        let repository = &subject.repository;
        let key = subject.key(policy);
        let stored = stored.of(&key);
        let before = stored.map(|entry| &entry.value);
        let promoted_at = before.and_then(|before| time_from_wire(before.promoted_at.as_ref()));
        let first_seen_at = first_seen(&self.state, subject, promoted_at).await?;
        let candidate = known.candidate(subject, first_seen_at, now());
        let mut decision = decide(policy, &candidate, known.inputs(), before, None);
        if let Some(kept) = self.kept_instead(&decision, &subject.digest).await? {
            decision = decide(policy, &candidate, known.inputs(), before, Some(&kept));
        }
        keep_held(&mut decision, before, known.scanned_at);
        if before.is_some_and(|before| before.policy_revision > policy.revision) {
            return Err(Error::Outdated {
                policy: policy.spec.name.to_string(),
            });
        }
        if decision.target == repository.as_str() {
            tracing::debug!(policy = %policy.spec.name, "a policy does not promote a repository into itself");
            return Ok(None);
        }
        let case = |decision, revision| Evaluated {
            policy: Some(policy),
            name: policy.spec.name.clone(),
            recall: policy.spec.recall,
            subject,
            known,
            key: key.clone(),
            decision,
            revision,
            is_former: false,
        };
        if subject.current.is_none() && !for_the_promoted(&mut decision, before) {
            if let Some(stored) = stored {
                let was = case(stored.value.clone(), stored.revision);
                self.clean_up(&was, cause).await?;
            }
            return Ok(None);
        }
        let revision = self.store(&key, &decision, stored).await?;
        Ok(Some(case(decision, revision)))
    }

    /// Ends a stored decision whose policy decides on the image no more; nothing if nothing follows from that.
    pub(crate) async fn end<'a>(
        &self,
        policies: &'a Policies,
        subject: &'a Subject,
        stored: &Entry<Decision>,
        known: &'a ScannedImage,
    ) -> Result<Option<Evaluated<'a>>, Error> {
        let before = &stored.value;
        let why = match policies.validity(before) {
            Validity::Unreadable => return Ok(None),
            Validity::Ended { reason, .. } => reason,
            Validity::Current | Validity::Outdated(_) => {
                format!(
                    "policy `{}` promotes nothing that it brought itself",
                    before.policy
                )
            }
        };
        let Ok(name) = before.policy.parse() else {
            return Ok(None);
        };
        if !stands(before) && (before.announced || !is_ended(before)) {
            return Ok(None);
        }
        let mut decision = ended(before, &why, now());
        if !before.announced && before.outcome() == DecisionOutcome::Allow {
            // It may have been decided and not carried out; then nothing of it stands, and what is left is cleared.
            if !self.is_tagged(before, &subject.digest).await? {
                decision.promoted_at = None;
                decision.flagged.clear();
            }
        }
        let revision = self.store(&stored.key, &decision, Some(stored)).await?;
        Ok(Some(Evaluated {
            policy: None,
            name,
            recall: policies.recall(before),
            subject,
            known,
            key: stored.key.clone(),
            decision,
            revision,
            is_former: false,
        }))
    }

    /// Says whether the tag of a decision's target names the image.
    async fn is_tagged(&self, decision: &Decision, digest: &Digest) -> Result<bool, Error> {
        let place = (
            Target::from_stored(&decision.target),
            decision.target_tag.parse::<Tag>(),
        );
        let (Ok(target), Ok(tag)) = place else {
            return Ok(false);
        };
        let Some(repository) = target.local() else {
            // What a remote registry has is not waited for.
            let entry = self.state.tags.get(&key::target_tag(&target, &tag)).await?;
            return Ok(entry.is_some_and(|entry| entry.value.digest == decision.digest));
        };
        let head = self.registry.head(repository, &(&tag).into()).await?;
        Ok(head.is_some_and(|head| head.digest == *digest))
    }

    /// Stores a decision unless it is stored just so, and returns its revision.
    async fn store(
        &self,
        key: &str,
        decision: &Decision,
        stored: Option<&Entry<Decision>>,
    ) -> Result<u64, Error> {
        if let Some(stored) = stored.filter(|stored| stored.value == *decision) {
            return Ok(stored.revision);
        }
        let revision = stored.map(|stored| stored.revision);
        let written = self.state.decisions.write(key, decision, revision).await?;
        crash::point("promoter.decided");
        tracing::info!(
            policy = decision.policy,
            image.repository = decision.repository,
            image.tag = decision.tag,
            image.digest = decision.digest,
            outcome = outcome_name(decision.outcome()),
            "decided"
        );
        Ok(written)
    }

    /// Returns what the place of an image that is allowed keeps instead of it, if its repository is immutable.
    async fn kept_instead(
        &self,
        decision: &Decision,
        digest: &Digest,
    ) -> Result<Option<Digest>, Error> {
        let place = (
            Target::from_stored(&decision.target),
            decision.target_tag.parse(),
        );
        let (DecisionOutcome::Allow, (Ok(target), Ok(tag))) = (decision.outcome(), place) else {
            return Ok(None);
        };
        if target.registry.is_some() {
            return Ok(None);
        }
        Ok(self
            .tags
            .immutable_digest(&target.repository, &tag, digest)
            .await?)
    }
}

/// Says what a decision is good for when the source's tag has moved on, but the image may stand in a target.
///
/// It can take the image back, or lift a flag; it promotes nothing, and what cannot be told now changes nothing, unless the
/// policy was changed.
fn for_the_promoted(decision: &mut Decision, before: Option<&Decision>) -> bool {
    let Some(before) = before.filter(|before| stands(before)) else {
        return false;
    };
    match decision.outcome() {
        DecisionOutcome::Deny => {}
        DecisionOutcome::Allow => {
            let place =
                |decision: &Decision| (decision.target.clone(), decision.target_tag.clone());
            if place(decision) == place(before) && before.promoted_at.is_some() {
                decision.announced |= before.outcome() != DecisionOutcome::Allow;
            } else {
                refuse_new_place(decision, before);
            }
        }
        _ if decision.policy_revision == before.policy_revision => decision.clone_from(before),
        _ => {}
    }
    true
}

/// Returns the name of an outcome in logs.
const fn outcome_name(outcome: DecisionOutcome) -> &'static str {
    match outcome {
        DecisionOutcome::Allow => "allowed",
        DecisionOutcome::Deny => "denied",
        DecisionOutcome::Wait => "waiting",
        DecisionOutcome::Undetermined => "undetermined",
        DecisionOutcome::Unspecified => "unknown",
    }
}
