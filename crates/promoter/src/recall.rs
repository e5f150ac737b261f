//! What follows from a refusal, and for an image that was promoted before: a flag, or its withdrawal.

use std::collections::BTreeSet;

use sluice_domain::resources::Recall;
use sluice_domain::{Class, Classify as _, Tag, Target};
use sluice_events::commands::JudgeImage;
use sluice_events::facts::{ImageFlagged, ImageWithdrawn};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome, Promotion, TagEntry};
use sluice_state::{Standing, State, TagChange, Truth, key};

use crate::decide::{is_known_to_fail, why};
use crate::handler::{Case, Error, Promoter};
use crate::place::{Place, is_settled};
use crate::promote::{occurrence, provenance};
use crate::sweep::Sweep;
use crate::told::Told;

/// The source of truth of a withdrawal: the decision still refuses what the tag names.
struct Refused<'a> {
    state: &'a State,
    case: &'a Case<'a>,
    place: &'a Place,
    tag: &'a Tag,
}

impl Truth for Refused<'_> {
    async fn standing(&self) -> Result<Standing, sluice_state::Error> {
        let now = self.state.decisions.get(&self.case.key).await?;
        let still_refused = now.is_some_and(|now| now.value.outcome() == DecisionOutcome::Deny);
        let entry = self
            .state
            .tags
            .get(&key::target_tag(&self.place.target, self.tag))
            .await?;
        // Somebody may have promoted another digest meanwhile, which must stay. While the tag is claimed, its entry
        // does not say yet what it names.
        let still_named = entry.is_some_and(|entry| {
            entry.value.claim.is_some() || entry.value.digest == self.case.decision.digest
        });
        // What the registry's tag names otherwise, no decision of this image speaks of: after a restore it may be newer.
        let head = self.place.head(self.tag).await?;
        let other = match head {
            Some(head) if head.digest.as_str() != self.case.decision.digest => {
                let Place { registry, .. } = self.place;
                let repository = self.place.repository();
                !registry.is_tombstone(repository, &head.digest).await?
            }
            _ => false,
        };
        Ok(if still_refused && still_named && !other {
            Standing::Current
        } else {
            Standing::Superseded
        })
    }
}

impl Promoter {
    /// Tells a refusal, and takes back what was promoted before as far as the policy asks for it.
    pub(crate) async fn deny(&self, case: &Case<'_>) -> Result<Told, Error> {
        let mut told = Told::default();
        if !case.decision.announced {
            self.tell_refusal(case, &mut told)?;
        }
        self.end_claim(case).await?;
        if !case.decision.flagged.is_empty() && self.is_half(case).await? {
            let (target, _) = case.aim()?;
            self.state.unless_paused().await?;
            // What it shares with another image went with that while it was on its way.
            match self.copy(case, &self.place(target).await?).await {
                Ok(_) => {}
                // Its source is gone too, and half of a refused image is of no use to anybody.
                Err(error) if error.is_not_found() => {
                    self.withdraw(case, &mut told).await?;
                    return Ok(told);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let recall = case.policy.spec.recall;
        let asked_for = match recall {
            Recall::Flag => case.decision.flagged.is_empty(),
            Recall::Withdraw => true,
            Recall::Ignore => false,
        };
        if asked_for && case.decision.promoted_at.is_some() && is_known_to_fail(&case.decision) {
            let others = self.others(case).await?;
            let allowed = |other: &Decision| other.outcome() == DecisionOutcome::Allow;
            // Another policy that still allows the image in the same target keeps it there.
            if !others.iter().any(allowed) {
                if recall == Recall::Flag {
                    self.flag(case, &mut told).await?;
                } else {
                    self.withdraw(case, &mut told).await?;
                }
                ask_again(case, &others, &mut told);
                return Ok(told);
            }
        }
        if case.decision.promoted_at.is_none() && self.is_left(case).await? {
            self.clear_what_is_left(case, &mut told).await?;
        }
        if !case.decision.announced {
            told.record(self.record(case, |_| {}));
        }
        Ok(told)
    }

    /// Clears it, as far as a remote registry lets anybody delete: nobody is told of what was never promoted.
    pub(crate) async fn clear_what_is_left(
        &self,
        case: &Case<'_>,
        told: &mut Told,
    ) -> Result<(), Error> {
        let (target, _) = case.aim()?;
        match self.clear(case, told).await {
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
    pub(crate) async fn is_left(&self, case: &Case<'_>) -> Result<bool, Error> {
        let Ok((target, _)) = case.aim() else {
            return Ok(false);
        };
        if target.local().is_none() && !case.decision.was_allowed {
            return Ok(false);
        }
        let place = self.place(target).await?;
        for manifest in case.manifests {
            if place.head(manifest).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Says whether an image is in its target without all that it lists.
    ///
    /// Where it is not there itself there is nothing to mend; a registry that lost its disk says so of everything.
    async fn is_half(&self, case: &Case<'_>) -> Result<bool, Error> {
        let (target, _) = case.aim()?;
        let place = self.place(target).await?;
        if place.head(&case.subject.digest).await?.is_none() {
            return Ok(false);
        }
        for manifest in case.manifests {
            if place.head(manifest).await?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the other decisions by which this image stands in the same target.
    async fn others(&self, case: &Case<'_>) -> Result<Vec<Decision>, Error> {
        let about = key::decisions_about(&case.subject.digest);
        let decisions = self.state.decisions.list(&about).await?;
        Ok(decisions
            .into_iter()
            .filter(|entry| entry.key != case.key)
            .map(|entry| entry.value)
            .filter(|other| other.target == case.decision.target && other.promoted_at.is_some())
            .collect())
    }

    async fn flag(&self, case: &Case<'_>, told: &mut Told) -> Result<(), Error> {
        let (target, tag) = case.aim()?;
        // Refused between the decision that allowed it and the copy, it never stood there.
        if !self.stands(case, &target, &tag).await? {
            told.record(self.record(case, |decision| decision.promoted_at = None));
            return Ok(());
        }
        self.tell_flag(case, (target, tag), why(&case.decision), told);
        Ok(())
    }

    /// Says whether an image that is to be flagged stands in its target.
    ///
    /// Of a remote one the entry says it, so that a flag does not wait for a registry that is away.
    async fn stands(&self, case: &Case<'_>, target: &Target, tag: &Tag) -> Result<bool, Error> {
        if target.local().is_none() {
            let entry = self.state.tags.get(&key::target_tag(target, tag)).await?;
            if entry.is_some_and(|entry| is_settled(&entry.value, &case.decision)) {
                return Ok(true);
            }
        }
        let place = self.place(target.clone()).await?;
        Ok(place.head(&case.subject.digest).await?.is_some())
    }

    fn tell_flag(
        &self,
        case: &Case<'_>,
        (target, tag): (Target, Tag),
        reason: String,
        told: &mut Told,
    ) {
        tracing::warn!(image.repository = %target, image.tag = %tag, reason, "flagged");
        told.fact(
            ImageFlagged {
                policy: case.policy.spec.name.clone(),
                repository: target.repository,
                tag,
                digest: case.subject.digest.clone(),
                reason: reason.clone(),
                registry: target.registry,
            },
            &occurrence(&case.decision),
        );
        told.record(self.record(case, |decision| decision.flagged = reason));
    }

    /// Flags an image that a remote registry does not let go, which is tried again when it is judged again.
    fn cannot_withdraw(
        &self,
        case: &Case<'_>,
        error: &Error,
        told: &mut Told,
    ) -> Result<(), Error> {
        let (target, tag) = case.aim()?;
        let reason = format!("{}; it cannot be withdrawn: {error}", why(&case.decision));
        if case.decision.flagged.is_empty() {
            self.tell_flag(case, (target, tag), reason, told);
        } else {
            tracing::warn!(image.repository = %target, image.tag = %tag, reason, "not withdrawn");
            told.record(self.record(case, |_| {}));
        }
        Ok(())
    }

    /// Takes an image back, and tells it.
    async fn withdraw(&self, case: &Case<'_>, told: &mut Told) -> Result<(), Error> {
        let (target, _) = case.aim()?;
        let brought = match self.clear(case, told).await {
            Err(error) if target.local().is_none() && is_refused_deletion(&error) => {
                return self.cannot_withdraw(case, &error, told);
            }
            brought => brought?,
        };
        let Some(brought) = brought else {
            return Ok(());
        };
        let reason = why(&case.decision);
        for tag in brought {
            tracing::warn!(image.repository = %target, image.tag = %tag, reason, "withdrawn");
            told.fact(
                ImageWithdrawn {
                    policy: case.policy.spec.name.clone(),
                    repository: target.repository.clone(),
                    tag,
                    digest: case.subject.digest.clone(),
                    reason: reason.clone(),
                    registry: target.registry.clone(),
                },
                &occurrence(&case.decision),
            );
        }
        told.record(self.record(case, |decision| {
            decision.promoted_at = None;
            decision.flagged = String::new();
        }));
        Ok(())
    }

    /// Removes the tags that this decision brought, then by digest what nothing else there reaches.
    ///
    /// Returns the tags, or nothing if the decision is another one by now.
    pub(crate) async fn clear(
        &self,
        case: &Case<'_>,
        told: &mut Told,
    ) -> Result<Option<BTreeSet<Tag>>, Error> {
        self.state.unless_paused().await?;
        let (target, tag) = case.aim()?;
        let ours = key::tags_of_target(&target);
        let place = self.place(target).await?;
        // A template with the time may have brought more than one tag; the last is told even when it is gone already.
        let mut brought = BTreeSet::from([tag]);
        for entry in self.state.tags.list(&ours).await? {
            let is_ours = is_brought_by(&entry.value, case) || is_withdrawn_by(&entry.value, case);
            if is_ours && let Ok(tag) = entry.value.tag.parse() {
                brought.insert(tag);
            }
        }
        for tag in &brought {
            let truth = Refused {
                state: &self.state,
                case,
                place: &place,
                tag,
            };
            let key = key::target_tag(&place.target, tag);
            let entry = self.state.tags.get(&key).await?;
            if let Some(entry) = entry
                && (is_brought_by(&entry.value, case)
                    || is_begun(&entry.value, case, &place, tag).await?)
            {
                let change = TagChange {
                    repository: place.repository(),
                    tag,
                    wanted: None,
                    provenance: provenance(case),
                    truth: &truth,
                };
                place.tags.apply(&change).await?;
            }
        }
        // A decision that changed meanwhile has its own message, which mends what was removed.
        let now = self.state.decisions.get(&case.key).await?;
        if now.is_none_or(|now| now.value.outcome() != DecisionOutcome::Deny) {
            return Ok(None);
        }
        match self.sweep(&Sweep::of(case, &place), told).await {
            // The tags are gone; what a remote registry does not list or delete by digest is left to whoever owns it.
            Err(Error::Registry(error))
                if place.is_remote() && error.class() == Class::Permanent =>
            {
                tracing::warn!(image.repository = %place.target, image.digest = case.decision.digest, %error, "its manifests are left in the remote registry");
            }
            swept => swept?,
        }
        Ok(Some(brought))
    }
}

/// Says whether a promotion of this image began to write a tag, and did not come to its end.
async fn is_begun(
    entry: &TagEntry,
    case: &Case<'_>,
    place: &Place,
    tag: &Tag,
) -> Result<bool, Error> {
    let claim = entry.claim.as_ref();
    if claim.is_none_or(|claim| claim.digest != case.decision.digest) {
        return Ok(false);
    }
    let head = place.head(tag).await?;
    Ok(head.is_some_and(|head| head.digest == case.subject.digest))
}

/// Says whether a registry refuses for good to delete something, as many that are not ours do.
fn is_refused_deletion(error: &Error) -> bool {
    let (Error::Registry(refused) | Error::State(sluice_state::Error::Registry(refused))) = error
    else {
        return false;
    };
    let deletion =
        matches!(refused, sluice_registry::Error::Refused { action, .. } if *action == "delete");
    deletion && refused.class() == Class::Permanent
}

/// Has the policies look again whose own recall this decision may have held up.
fn ask_again(case: &Case<'_>, others: &[Decision], told: &mut Told) {
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
            told.command(command, id);
        }
    }
}

/// Says whether a tag names its digest because of this decision.
fn is_brought_by(entry: &TagEntry, case: &Case<'_>) -> bool {
    entry.digest == case.decision.digest && changed_by(entry, case).is_some()
}

/// Says whether a tag was removed by this withdrawal, which was interrupted before it was told.
///
/// One that was told before was decided before the image was promoted again.
fn is_withdrawn_by(entry: &TagEntry, case: &Case<'_>) -> bool {
    let time = |wire: Option<_>| time_from_wire(wire.as_ref());
    let promoted_at = time(case.decision.promoted_at);
    entry.digest.is_empty()
        && entry.previous == case.decision.digest
        && changed_by(entry, case).is_some_and(|from| time(from.decided_at) > promoted_at)
}

/// Returns the promotion or withdrawal that changed a tag last, if it was by this policy for this source.
fn changed_by<'a>(entry: &'a TagEntry, case: &Case<'_>) -> Option<&'a Promotion> {
    let decision = &case.decision;
    entry.promoted_from.as_ref().filter(|from| {
        from.policy == decision.policy
            && from.repository == decision.repository
            && from.tag == decision.tag
    })
}
