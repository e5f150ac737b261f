//! Targets to which a policy led before it was changed: what stands there is recalled unless another policy leads there.

use sluice_domain::resources::Recall;
use sluice_domain::{Tag, Target};
use sluice_events::wire::state::{Decision, FormerTarget};
use sluice_state::key;

use crate::handler::{Error, Evaluated, Promoter};
use crate::pending_events::PendingEvents;
use crate::recall::{is_refused_deletion, publish_flag, publish_withdrawal};

/// What became of an image in a former target.
enum Recalled {
    /// It stays there as it is.
    Stays,
    /// It is flagged.
    Flagged(String),
    /// It is not there any more, or not because of this decision.
    Over,
}

impl Promoter {
    /// Recalls an image from every target to which its policy leads no more.
    pub(crate) async fn recall_from_former_targets(
        &self,
        case: &Evaluated<'_>,
        pending_events: &mut PendingEvents,
    ) -> Result<(), Error> {
        for former in &case.decision.former_targets {
            let there = case.at_former(former);
            let place = former.clone();
            let stands = self.stands_at_former(case, &there).await?;
            match self
                .recall_from_former(&there, stands, pending_events)
                .await?
            {
                Recalled::Stays => {}
                Recalled::Flagged(reason) => {
                    pending_events.record(self.change(case, move |decision| {
                        let mut known = decision.former_targets.iter_mut();
                        if let Some(known) = known.find(|known| is_same(known, &place)) {
                            known.flagged = reason;
                        }
                    }));
                }
                Recalled::Over => pending_events.record(self.change(case, move |decision| {
                    decision
                        .former_targets
                        .retain(|known| !is_same(known, &place));
                })),
            }
        }
        Ok(())
    }

    async fn recall_from_former(
        &self,
        case: &Evaluated<'_>,
        stands: bool,
        pending_events: &mut PendingEvents,
    ) -> Result<Recalled, Error> {
        let (target, tag) = case.target()?;
        if !stands || self.is_allowed_at(case, &target, &tag).await? {
            return Ok(Recalled::Over);
        }
        let reason = format!("policy `{}` leads there no more", case.name);
        let is_flagged = !case.decision.flagged.is_empty();
        match case.recall {
            Recall::Ignore => Ok(Recalled::Stays),
            Recall::Flag if is_flagged => Ok(Recalled::Stays),
            Recall::Flag => Ok(flag(case, (target, tag), reason, pending_events)),
            Recall::Withdraw => match self.clear(case, pending_events).await {
                Err(error) if target.local().is_none() && is_refused_deletion(&error) => {
                    if is_flagged {
                        return Ok(Recalled::Stays);
                    }
                    let reason = format!("{reason}; it cannot be withdrawn: {error}");
                    Ok(flag(case, (target, tag), reason, pending_events))
                }
                Err(error) => Err(error),
                Ok(None) => Ok(Recalled::Stays),
                Ok(Some(tags)) => {
                    publish_withdrawal(case, &target, tags, &reason, pending_events);
                    Ok(Recalled::Over)
                }
            },
        }
    }

    /// Says whether an image is at a former target: under the tag, or by digest where nothing else of its policy is.
    async fn stands_at_former(
        &self,
        case: &Evaluated<'_>,
        there: &Evaluated<'_>,
    ) -> Result<bool, Error> {
        let (target, tag) = there.target()?;
        if there.decision.target != case.decision.target {
            return self.stands(there, &target, &tag).await;
        }
        let endpoint = self.endpoint(target).await?;
        let Some(head) = endpoint.head(&tag).await? else {
            return Ok(false);
        };
        if head.digest == there.subject.digest {
            return Ok(true);
        }
        // A removal of it that was interrupted is to be finished, and is not over.
        let key = key::target_tag(&endpoint.target, &tag);
        let entry = self.state.tags.get(&key).await?;
        Ok(
            entry.is_some_and(|entry| entry.value.digest == there.decision.digest)
                && endpoint
                    .registry
                    .is_tombstone(endpoint.repository(), &head.digest)
                    .await?,
        )
    }
}

fn flag(
    case: &Evaluated<'_>,
    (target, tag): (Target, Tag),
    reason: String,
    pending_events: &mut PendingEvents,
) -> Recalled {
    publish_flag(case, (target, tag), &reason, pending_events);
    Recalled::Flagged(reason)
}

impl<'a> Evaluated<'a> {
    /// Returns the same image at a former target.
    fn at_former(&self, former: &FormerTarget) -> Self {
        Self {
            policy: self.policy,
            name: self.name.clone(),
            recall: self.recall,
            subject: self.subject,
            known: self.known,
            key: self.key.clone(),
            decision: Decision {
                target: former.target.clone(),
                target_tag: former.target_tag.clone(),
                promoted_at: former.promoted_at,
                flagged: former.flagged.clone(),
                ..self.decision.clone()
            },
            revision: self.revision,
            is_former: true,
        }
    }
}

fn is_same(one: &FormerTarget, other: &FormerTarget) -> bool {
    (&one.target, &one.target_tag) == (&other.target, &other.target_tag)
}
