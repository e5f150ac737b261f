//! What follows from a refusal, and for an image that was promoted before: a flag, or its withdrawal.

use std::collections::BTreeSet;

use sluice_domain::resources::Recall;
use sluice_domain::{Class, Classify as _, Tag, Target};
use sluice_events::commands::JudgeImage;
use sluice_events::facts::{ImageFlagged, ImageWithdrawn};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, Promotion, TagEntry};
use sluice_registry::TopWrite;
use sluice_state::{TagChange, key};

use crate::decide::{is_known_to_fail, no_longer_passes, why, why_unknown};
use crate::handler::{Error, Evaluated, Promoter};
use crate::pending_events::PendingEvents;
use crate::promote::{LOOK_AGAIN, occurrence, provenance};
use crate::refused::{Refused, is_named_there};
use crate::sweep::Sweep;
use crate::target_endpoint::is_settled;

impl Promoter {
    /// Tells a refusal, and takes back what was promoted before as far as the policy asks for it.
    pub(crate) async fn deny(&self, case: &Evaluated<'_>) -> Result<PendingEvents, Error> {
        let mut pending_events = PendingEvents::default();
        if !case.decision.announced {
            self.tell_refusal(case, &mut pending_events)?;
        }
        self.end_claim(case).await?;
        if !case.decision.flagged.is_empty() && self.is_half(case).await? {
            let (target, _) = case.target()?;
            self.state.ensure_not_paused().await?;
            // What it shares with another image went with that while it was on its way.
            match self
                .copy(case, &self.endpoint(target).await?, TopWrite::Copy)
                .await
            {
                // Whoever withdrew the image meanwhile stored a decision before, and does not look again at what was
                // brought after that.
                Ok(_) if self.is_stored(case).await? => {}
                Ok(_) => {
                    return Err(Error::Overtaken {
                        until: sluice_domain::now() + LOOK_AGAIN,
                    });
                }
                // Its source is gone too, and half of a refused image is of no use to anybody.
                Err(error) if error.is_not_found() => {
                    self.withdraw(case, &mut pending_events).await?;
                    return Ok(pending_events);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if case.decision.promoted_at.is_some() && no_longer_passes(&case.decision) {
            let others = self.others(case).await?;
            let (target, tag) = case.target()?;
            let mut is_news = !case.decision.announced;
            let is_flagged = !case.decision.flagged.is_empty();
            if self.is_allowed_at(case, &target, &tag).await? {
                self.leave_to_others(case, &mut pending_events);
            } else if case.recall == Recall::Withdraw && is_known_to_fail(&case.decision) {
                self.withdraw(case, &mut pending_events).await?;
                is_news = true;
            } else if case.recall != Recall::Ignore && !is_flagged {
                self.flag(case, &mut pending_events).await?;
                is_news = true;
            } else if case.policy.is_none() && !self.stands(case, &target, &tag).await? {
                // Somebody else's withdrawal has taken it.
                self.forget(case, &mut pending_events);
            }
            if is_news {
                ask_again(case, &others, &mut pending_events);
            }
        }
        if case.decision.promoted_at.is_none() && self.is_left(case).await? {
            self.clear_what_is_left(case, &mut pending_events).await?;
        }
        if !case.decision.announced {
            pending_events.record(self.record(case, |_| {}));
        }
        Ok(pending_events)
    }

    /// Says whether a decision is stored as it was when this case was made of it.
    async fn is_stored(&self, case: &Evaluated<'_>) -> Result<bool, Error> {
        let now = self.state.decisions.get(&case.key).await?;
        Ok(now.is_some_and(|now| now.revision == case.revision))
    }

    /// Clears it, as far as a remote registry lets anybody delete: nobody is told of what was never promoted.
    pub(crate) async fn clear_what_is_left(
        &self,
        case: &Evaluated<'_>,
        pending_events: &mut PendingEvents,
    ) -> Result<(), Error> {
        let (target, _) = case.target()?;
        match self.clear(case, pending_events).await {
            Err(error) if target.local().is_none() && is_refused_deletion(&error) => {
                tracing::warn!(image.repository = %target, image.digest = case.decision.digest, %error, "what is left of a refused image stays there");
                Ok(())
            }
            cleared => cleared.map(drop),
        }
    }

    /// Says whether something is in the target of an image that nothing brought there for good.
    ///
    /// A promotion that was carried out while the image was withdrawn cleans up behind itself; one that died does so
    /// when its message comes again, and finds the refusal.
    pub(crate) async fn is_left(&self, case: &Evaluated<'_>) -> Result<bool, Error> {
        let Ok((target, _)) = case.target() else {
            return Ok(false);
        };
        if target.local().is_none() && !case.decision.was_allowed {
            return Ok(false);
        }
        let endpoint = self.endpoint(target).await?;
        for manifest in case.manifests() {
            if endpoint.head(manifest).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Says whether an image is in its target without all that it lists.
    ///
    /// Where it is not there itself there is nothing to mend; a registry that lost its disk says so of everything.
    async fn is_half(&self, case: &Evaluated<'_>) -> Result<bool, Error> {
        let (target, _) = case.target()?;
        let endpoint = self.endpoint(target).await?;
        if endpoint.head(&case.subject.digest).await?.is_none() {
            return Ok(false);
        }
        for manifest in case.manifests() {
            if endpoint.head(manifest).await?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the other decisions by which this image stands in the same target.
    async fn others(&self, case: &Evaluated<'_>) -> Result<Vec<Decision>, Error> {
        let about = key::decisions_about(&case.subject.digest);
        let decisions = self.state.decisions.list(&about).await?;
        Ok(decisions
            .into_iter()
            .filter(|entry| entry.key != case.key)
            .map(|entry| entry.value)
            .filter(|other| other.target == case.decision.target && other.promoted_at.is_some())
            .collect())
    }

    /// Ends a recall because another policy allows the image in the same place; of a policy that is gone, nothing is kept.
    fn leave_to_others(&self, case: &Evaluated<'_>, pending_events: &mut PendingEvents) {
        if case.policy.is_none() {
            self.forget(case, pending_events);
        } else if !case.decision.flagged.is_empty() {
            pending_events.record(self.record(case, |decision| decision.flagged.clear()));
        }
    }

    /// Records that an image does not stand in its target because of this decision.
    fn forget(&self, case: &Evaluated<'_>, pending_events: &mut PendingEvents) {
        pending_events.record(self.record(case, |decision| {
            decision.promoted_at = None;
            decision.flagged.clear();
        }));
    }

    /// Flags an image about which nothing can be told by its policy, which was changed since it allowed the image.
    pub(crate) async fn flag_unknown(
        &self,
        case: &Evaluated<'_>,
        pending_events: &mut PendingEvents,
    ) -> Result<(), Error> {
        let (target, tag) = case.target()?;
        let is_done = case.recall == Recall::Ignore || !case.decision.flagged.is_empty();
        if is_done || self.is_allowed_at(case, &target, &tag).await? {
            return Ok(());
        }
        self.flag(case, pending_events).await
    }

    async fn flag(
        &self,
        case: &Evaluated<'_>,
        pending_events: &mut PendingEvents,
    ) -> Result<(), Error> {
        let (target, tag) = case.target()?;
        // Refused between the decision that allowed it and the copy, it never stood there.
        if !self.stands(case, &target, &tag).await? {
            self.forget(case, pending_events);
            return Ok(());
        }
        let reason = if is_known_to_fail(&case.decision) {
            why(&case.decision)
        } else {
            why_unknown(&case.decision)
        };
        self.tell_flag(case, (target, tag), reason, pending_events);
        Ok(())
    }

    /// Says whether an image that is to be flagged stands in its target.
    ///
    /// Of a remote one the entry says it, so that a flag does not wait for a registry that is away.
    pub(crate) async fn stands(
        &self,
        case: &Evaluated<'_>,
        target: &Target,
        tag: &Tag,
    ) -> Result<bool, Error> {
        if target.local().is_none() {
            let entry = self.state.tags.get(&key::target_tag(target, tag)).await?;
            if entry.is_some_and(|entry| is_settled(&entry.value, &case.decision)) {
                return Ok(true);
            }
        }
        let endpoint = self.endpoint(target.clone()).await?;
        Ok(endpoint.head(&case.subject.digest).await?.is_some())
    }

    fn tell_flag(
        &self,
        case: &Evaluated<'_>,
        place: (Target, Tag),
        reason: String,
        pending_events: &mut PendingEvents,
    ) {
        publish_flag(case, place, &reason, pending_events);
        pending_events.record(self.record(case, |decision| decision.flagged = reason));
    }

    /// Flags an image that a remote registry does not let go, which is tried again when it is judged again.
    fn cannot_withdraw(
        &self,
        case: &Evaluated<'_>,
        error: &Error,
        pending_events: &mut PendingEvents,
    ) -> Result<(), Error> {
        let (target, tag) = case.target()?;
        let reason = format!("{}; it cannot be withdrawn: {error}", why(&case.decision));
        if case.decision.flagged.is_empty() {
            self.tell_flag(case, (target, tag), reason, pending_events);
        } else {
            tracing::warn!(image.repository = %target, image.tag = %tag, reason, "not withdrawn");
            pending_events.record(self.record(case, |_| {}));
        }
        Ok(())
    }

    /// Takes an image back, and tells it.
    async fn withdraw(
        &self,
        case: &Evaluated<'_>,
        pending_events: &mut PendingEvents,
    ) -> Result<(), Error> {
        let (target, _) = case.target()?;
        let brought = match self.clear(case, pending_events).await {
            Err(error) if target.local().is_none() && is_refused_deletion(&error) => {
                return self.cannot_withdraw(case, &error, pending_events);
            }
            brought => brought?,
        };
        let Some(brought) = brought else {
            return Ok(());
        };
        let reason = why(&case.decision);
        publish_withdrawal(case, &target, brought, &reason, pending_events);
        self.forget(case, pending_events);
        Ok(())
    }

    /// Removes the tags that this decision brought, then by digest what nothing else there reaches.
    ///
    /// Returns the tags, or nothing if the decision is another one by now.
    pub(crate) async fn clear(
        &self,
        case: &Evaluated<'_>,
        pending_events: &mut PendingEvents,
    ) -> Result<Option<BTreeSet<Tag>>, Error> {
        self.state.ensure_not_paused().await?;
        let (target, tag) = case.target()?;
        let ours = key::tags_of_target(&target);
        let endpoint = self.endpoint(target).await?;
        // A template with the time may have brought more than one tag; the last is told even when it is gone already.
        let mut brought = BTreeSet::from([tag.clone()]);
        let entries = self.state.tags.list(&ours).await?;
        for entry in entries.iter().filter(|_| !case.is_former) {
            let is_ours = is_brought_by(&entry.value, case) || is_withdrawn_by(&entry.value, case);
            if is_ours && let Ok(tag) = entry.value.tag.parse() {
                brought.insert(tag);
            }
        }
        for at in &brought {
            let precondition = Refused {
                promoter: self,
                case,
                endpoint: &endpoint,
                tag: at,
            };
            let key = key::target_tag(&endpoint.target, at);
            let entry = self.state.tags.get(&key).await?.map(|entry| entry.value);
            // Of its own place the decision says that the image was brought there, whatever the entry says by now.
            let is_own = *at == tag && case.decision.promoted_at.is_some() && !endpoint.is_remote();
            let is_begun = entry
                .as_ref()
                .and_then(|entry| entry.claim.as_ref())
                .is_some_and(|claim| claim.digest == case.decision.digest);
            let is_brought = entry.is_some_and(|entry| is_brought_by(&entry, case));
            if is_brought || (is_own || is_begun) && is_named_there(case, &endpoint, at).await? {
                let change = TagChange {
                    repository: endpoint.repository(),
                    tag: at,
                    wanted: None,
                    provenance: provenance(case),
                    precondition: &precondition,
                };
                endpoint.tags.apply(&change).await?;
            }
        }
        // A decision that changed meanwhile has its own message, which mends what was removed.
        if !case.is_refused_now(&self.state).await? {
            return Ok(None);
        }
        match self
            .sweep(&Sweep::of(case, &endpoint), pending_events)
            .await
        {
            // The tags are gone; what a remote registry does not list or delete by digest is left to whoever owns it.
            Err(Error::Registry(error))
                if endpoint.is_remote() && error.class() == Class::Permanent =>
            {
                tracing::warn!(image.repository = %endpoint.target, image.digest = case.decision.digest, %error, "its manifests are left in the remote registry");
            }
            swept => swept?,
        }
        Ok(Some(brought))
    }
}

/// Adds that an image was flagged at a tag of a target.
pub(crate) fn publish_flag(
    case: &Evaluated<'_>,
    (target, tag): (Target, Tag),
    reason: &str,
    pending_events: &mut PendingEvents,
) {
    tracing::warn!(image.repository = %target, image.tag = %tag, reason, "flagged");
    pending_events.fact(
        ImageFlagged {
            policy: case.name.clone(),
            repository: target.repository,
            tag,
            digest: case.subject.digest.clone(),
            reason: reason.to_owned(),
            registry: target.registry,
        },
        &occurrence(&case.decision),
    );
}

/// Adds that an image was withdrawn from tags of a target.
pub(crate) fn publish_withdrawal(
    case: &Evaluated<'_>,
    target: &Target,
    tags: BTreeSet<Tag>,
    reason: &str,
    pending_events: &mut PendingEvents,
) {
    for tag in tags {
        tracing::warn!(image.repository = %target, image.tag = %tag, reason, "withdrawn");
        pending_events.fact(
            ImageWithdrawn {
                policy: case.name.clone(),
                repository: target.repository.clone(),
                tag,
                digest: case.subject.digest.clone(),
                reason: reason.to_owned(),
                registry: target.registry.clone(),
            },
            &occurrence(&case.decision),
        );
    }
}

/// Says whether a registry refuses for good to delete something, as many that are not ours do.
pub(crate) fn is_refused_deletion(error: &Error) -> bool {
    let (Error::Registry(refused) | Error::State(sluice_state::Error::Registry(refused))) = error
    else {
        return false;
    };
    let deletion =
        matches!(refused, sluice_registry::Error::Refused { action, .. } if *action == "delete");
    deletion && refused.class() == Class::Permanent
}

/// Has the policies look again whose own recall this decision may have held up.
fn ask_again(case: &Evaluated<'_>, others: &[Decision], pending_events: &mut PendingEvents) {
    for other in others {
        if let (Ok(repository), Ok(tag)) = (other.repository.parse(), other.tag.parse()) {
            let id = format!(
                "judge/recall/{}/{repository}/{tag}/{}/{}",
                other.policy,
                case.key,
                occurrence(&case.decision)
            );
            let command = JudgeImage {
                repository,
                tag,
                digest: case.subject.digest.clone(),
            };
            pending_events.command(command, id);
        }
    }
}

/// Says whether a tag names its digest because of this decision.
fn is_brought_by(entry: &TagEntry, case: &Evaluated<'_>) -> bool {
    entry.digest == case.decision.digest && changed_by(entry, case).is_some()
}

/// Says whether a tag was removed by this withdrawal, which was interrupted before it was told.
///
/// One that was told before was decided before the image was promoted again.
fn is_withdrawn_by(entry: &TagEntry, case: &Evaluated<'_>) -> bool {
    let time = |wire: Option<_>| time_from_wire(wire.as_ref());
    let promoted_at = time(case.decision.promoted_at);
    entry.digest.is_empty()
        && entry.previous == case.decision.digest
        && changed_by(entry, case).is_some_and(|from| time(from.decided_at) > promoted_at)
}

/// Returns the promotion or withdrawal that changed a tag last, if it was by this policy for this source.
fn changed_by<'a>(entry: &'a TagEntry, case: &Evaluated<'_>) -> Option<&'a Promotion> {
    let decision = &case.decision;
    entry.promoted_from.as_ref().filter(|from| {
        from.policy == decision.policy
            && from.repository == decision.repository
            && from.tag == decision.tag
    })
}
