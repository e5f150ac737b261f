//! What follows from a decision for an image that is not in its target: copy, tag, tell; or wait; or leave it open.

use chrono::{SecondsFormat, TimeDelta};
use sluice_domain::{Digest, Tag};
use sluice_events::commands::JudgeImage;
use sluice_events::facts::{ImagePromoted, ImagePromotionDenied, Reason};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome, Promotion, TagEntry};
use sluice_registry::{Client, CopyJob, CopyOptions, Manifest, TopWrite};
use sluice_service::crash;
use sluice_state::{Applied, Freshness, Precondition, Provenance, State, TagChange, key};

use crate::decide::decided_at;
use crate::facts::are_unchanged;
use crate::handler::{Error, Evaluated, Promoter};
use crate::pending_events::PendingEvents;
use crate::policies;
use crate::sweep::Sweep;
use crate::target_endpoint::{TargetEndpoint, is_settled, tell_stranger};

/// When an image that was refused while it was promoted is looked at again.
pub(crate) const LOOK_AGAIN: TimeDelta = TimeDelta::seconds(2);

/// The source of truth of a promoted tag: the decision, the source's tag, and who promoted into the target last.
struct Allowed<'a> {
    state: &'a State,
    registry: &'a Client,
    case: &'a Evaluated<'a>,
    endpoint: &'a TargetEndpoint,
    target_tag: &'a Tag,
}

impl Precondition for Allowed<'_> {
    async fn freshness(&self) -> Result<Freshness, sluice_state::Error> {
        let stands = self.is_wanted().await? && self.is_as_it_was_judged().await?;
        Ok(freshness(stands))
    }

    /// The source's tag was asked right before; what moves it later is an event of its own.
    async fn freshness_after(&self) -> Result<Freshness, sluice_state::Error> {
        let stands = self.is_wanted_by_entries().await? && self.is_as_it_was_judged().await?;
        Ok(freshness(stands))
    }
}

const fn freshness(stands: bool) -> Freshness {
    if stands {
        Freshness::Current
    } else {
        Freshness::Superseded
    }
}

impl Allowed<'_> {
    /// Says whether the policy and the verdicts are those by which the image was allowed.
    async fn is_as_it_was_judged(&self) -> Result<bool, sluice_state::Error> {
        let Evaluated {
            known, decision, ..
        } = self.case;
        Ok(policies::is_unchanged(self.state, decision).await?
            && are_unchanged(self.state, &known.verdicts).await?)
    }

    /// Says whether the image is to be in its place, as far as decisions and registry say.
    async fn is_wanted(&self) -> Result<bool, sluice_state::Error> {
        Ok(self.is_wanted_by_entries().await? && self.is_there().await?)
    }

    /// Says the same without asking for the source's tag.
    async fn is_wanted_by_entries(&self) -> Result<bool, sluice_state::Error> {
        let Evaluated {
            subject, decision, ..
        } = self.case;
        let now = self.state.decisions.get(&self.case.key).await?;
        let still_allowed = now.is_some_and(|now| {
            now.value.outcome() == DecisionOutcome::Allow
                && now.value.target == decision.target
                && now.value.target_tag == decision.target_tag
        });
        let source = key::tag(&subject.repository, &subject.tag);
        let source = self.state.tags.get(&source).await?;
        let still_named =
            source.is_some_and(|source| source.value.digest == subject.digest.as_str());
        Ok(still_allowed && still_named && !self.is_taken().await? && !self.is_kept().await?)
    }

    /// Says whether the registry's own source tag names the image: after a restore the entry may be older than that.
    async fn is_there(&self) -> Result<bool, sluice_state::Error> {
        let subject = self.case.subject;
        let head = self
            .registry
            .head(&subject.repository, &(&subject.tag).into())
            .await?;
        Ok(head.is_some_and(|head| head.digest == subject.digest))
    }

    /// Says whether the target's tag names something that the first look after a restore found there.
    ///
    /// It may be newer than everything that the state knew then; only what was decided since comes over it.
    async fn is_kept(&self) -> Result<bool, sluice_state::Error> {
        // In a remote target what others put there is not remembered, and left alone by whoever judges the same again.
        let Some(target) = self.endpoint.target.local() else {
            return Ok(false);
        };
        let key = key::unauthorised(target, self.target_tag);
        let Some(found) = self.state.unauthorised.get(&key).await? else {
            return Ok(false);
        };
        let found = found.value;
        let before = time_from_wire(self.case.decision.promoted_at.as_ref())
            < time_from_wire(found.found_at.as_ref());
        if !found.kept || !before || found.digest == self.case.decision.digest {
            return Ok(false);
        }
        let head = self.endpoint.head(self.target_tag).await?;
        Ok(head.is_some_and(|head| head.digest.as_str() == found.digest))
    }

    /// Says whether a newer decision, of another source or policy, has the target's tag.
    ///
    /// The tag's entry names the promotion that was settled last, and stays so while the tag is claimed. If the decision
    /// of that promotion still allows what the tag names and is newer than this one, this one comes too late. A newer
    /// one that is not settled yet finds this one settled, or its claim, and comes after it. So the newest decision has
    /// the tag in the end, in whatever order they are carried out. One whose own source has moved on does not count,
    /// however new it is: clocks differ, and a tag may come back to what it named before.
    async fn is_taken(&self) -> Result<bool, sluice_state::Error> {
        let entry = self
            .state
            .tags
            .get(&key::target_tag(&self.endpoint.target, self.target_tag))
            .await?;
        let Some(entry) = entry else {
            return Ok(false);
        };
        let Some(holder) = key_of_holder(&entry.value).filter(|key| *key != self.case.key) else {
            return Ok(false);
        };
        let Some(other) = self.state.decisions.get(&holder).await? else {
            return Ok(false);
        };
        let other = other.value;
        let newer =
            (decided_at(&other), &holder) > (decided_at(&self.case.decision), &self.case.key);
        let holds = newer
            && other.digest != self.case.decision.digest
            && other.outcome() == DecisionOutcome::Allow
            && other.target == self.case.decision.target
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

/// Returns the key of the decision by which a tag names its digest.
pub(crate) fn key_of_holder(entry: &TagEntry) -> Option<String> {
    let from = entry.promoted_from.as_ref()?;
    Some(key::decision(
        &from.policy.parse().ok()?,
        &from.repository.parse().ok()?,
        &from.tag.parse().ok()?,
        &entry.digest.parse().ok()?,
    ))
}

/// Returns where an image came from, as a tag's entry keeps it.
pub(crate) fn provenance(case: &Evaluated<'_>) -> Provenance {
    Provenance {
        by: "promoter".to_owned(),
        promotion: Some(Promotion {
            policy: case.decision.policy.clone(),
            repository: case.decision.repository.clone(),
            tag: case.decision.tag.clone(),
            decided_at: case.decision.decided_at,
        }),
        ..Provenance::default()
    }
}

/// What tells the facts of one decision from those of the next; the same whatever message leads to them.
pub(crate) fn occurrence(decision: &Decision) -> String {
    decided_at(decision).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

impl Promoter {
    /// Brings an allowed image to its place, or mends it there, and tells it once.
    pub(crate) async fn promote(&self, case: &Evaluated<'_>) -> Result<PendingEvents, Error> {
        let (target, target_tag) = case.target()?;
        let endpoint = self.endpoint(target).await?;
        let precondition = Allowed {
            state: &self.state,
            registry: &self.registry,
            case,
            endpoint: &endpoint,
            target_tag: &target_tag,
        };
        // The source's tag is asked for right before anything is written.
        if !precondition.is_wanted_by_entries().await? {
            return self.too_late(case).await;
        }
        let mut pending_events = PendingEvents::default();
        if let Some(found) = self.stranger(case, &endpoint, &target_tag).await? {
            let (decision, target) = (&case.decision, &endpoint.target);
            if let Some(note) =
                tell_stranger(decision, target, &target_tag, &found, &mut pending_events)
            {
                pending_events.record(self.record(case, |decision| decision.note = note));
            }
            return Ok(pending_events);
        }
        let mut previous = self.previous(case, &endpoint, &target_tag).await?;
        if !self.is_in_place(case, &endpoint, &target_tag).await? {
            self.state.ensure_not_paused().await?;
            match self.bring(case, &precondition).await {
                Ok(Applied::Done { previous: before }) => previous = before.or(previous),
                Ok(Applied::Superseded) => return self.superseded(case, &precondition).await,
                // Somebody else's image came to this immutable place first; the next judgement says so.
                Ok(Applied::Refused { .. }) => {
                    return Err(Error::Overtaken {
                        until: sluice_domain::now() + LOOK_AGAIN,
                    });
                }
                // A source that moved on may be gone by now; and whoever took the image back meanwhile may have done this
                // message too, so that nobody would look again at what was brought until here.
                Err(error) => {
                    return if precondition.is_wanted().await? {
                        Err(error)
                    } else {
                        self.too_late(case).await
                    };
                }
            }
            tracing::info!(
                policy = case.decision.policy, image.repository = %endpoint.target, image.tag = %target_tag,
                image.digest = case.decision.digest, "promoted"
            );
        }
        self.attach(case, &endpoint, &precondition).await?;
        if case.decision.announced {
            if !case.decision.note.is_empty() {
                pending_events.record(self.record(case, |decision| decision.note.clear()));
            }
            return Ok(pending_events);
        }
        let occurrence = occurrence(&case.decision);
        pending_events.fact(
            ImagePromoted {
                policy: case.name.clone(),
                source: case.subject.repository.clone(),
                source_tag: case.subject.tag.clone(),
                target: endpoint.repository().clone(),
                target_tag: target_tag.clone(),
                digest: case.subject.digest.clone(),
                decided_at: decided_at(&case.decision),
                previous,
                registry: endpoint.target.registry.clone(),
            },
            &occurrence,
        );
        self.chain(case, &endpoint, target_tag, &mut pending_events)
            .await?;
        pending_events.record(self.record(case, |_| {}));
        Ok(pending_events)
    }

    /// Copies the image, then points the tag to it.
    async fn bring(
        &self,
        case: &Evaluated<'_>,
        precondition: &Allowed<'_>,
    ) -> Result<Applied, Error> {
        // From before anything is there until nothing is left nobody else may write there.
        if let Some(target) = precondition.endpoint.target.local()
            && !self.catalog.current().targets.contains(target)
        {
            self.state.record_target(target).await?;
        }
        // In a remote registry others may remove what no tag names, so there the image is whole before its tag.
        let top_write = match precondition.endpoint.target.local() {
            Some(_) => TopWrite::Caller,
            None => TopWrite::Copy,
        };
        let top = self.copy(case, precondition.endpoint, top_write).await?;
        crash::point("promoter.copied");
        let change = TagChange {
            repository: precondition.endpoint.repository(),
            tag: precondition.target_tag,
            wanted: Some(&top),
            provenance: provenance(case),
            precondition,
        };
        let tags = &precondition.endpoint.tags;
        match tags.apply(&change).await {
            Err(sluice_state::Error::Registry(error)) if error.is_missing_part() => {
                tracing::debug!(%error, "the target lacks what it was seen to have");
                self.copy(case, precondition.endpoint, TopWrite::Copy)
                    .await?;
                Ok(tags.apply(&change).await?)
            }
            applied => Ok(applied?),
        }
    }

    /// Asks for a judgement of the promoted image where the target is a source of further policies.
    async fn chain(
        &self,
        case: &Evaluated<'_>,
        endpoint: &TargetEndpoint,
        target_tag: Tag,
        pending_events: &mut PendingEvents,
    ) -> Result<(), Error> {
        let Some(target) = endpoint.target.local() else {
            return Ok(());
        };
        let policies = policies::read(&self.state).await?;
        let further =
            |policy: &policies::Policy| policy.spec.name != case.name && policy.judges(target);
        if policies.iter().any(further) {
            let id = format!("judge/chain/{}/{}", case.key, occurrence(&case.decision));
            let command = JudgeImage {
                repository: target.clone(),
                tag: target_tag,
                digest: case.subject.digest.clone(),
            };
            pending_events.command(command, id);
        }
        Ok(())
    }

    /// Leaves nothing behind of a promotion that is not wanted any more, or has it judged again: its policy or a verdict
    /// was changed while it was carried out.
    async fn superseded(
        &self,
        case: &Evaluated<'_>,
        precondition: &Allowed<'_>,
    ) -> Result<PendingEvents, Error> {
        if precondition.is_wanted().await? {
            return Err(Error::Overtaken {
                until: sluice_domain::now() + LOOK_AGAIN,
            });
        }
        self.too_late(case).await
    }

    /// Leaves nothing behind of a decision that was withdrawn while it was carried out.
    async fn too_late(&self, case: &Evaluated<'_>) -> Result<PendingEvents, Error> {
        tracing::info!(
            policy = case.decision.policy,
            image.digest = case.decision.digest,
            "superseded"
        );
        let mut pending_events = PendingEvents::default();
        let now = self.state.decisions.get(&case.key).await?;
        if let Some(now) = now.map(|now| now.value) {
            let is_refused = now.outcome() == DecisionOutcome::Deny;
            if is_refused && now.promoted_at.is_some() {
                // Whoever takes it back may have looked before this copy was there, and does not look again.
                return Err(Error::Overtaken {
                    until: sluice_domain::now() + LOOK_AGAIN,
                });
            }
            let (target, _) = case.target()?;
            if is_refused {
                self.clear_what_is_left(case, &mut pending_events).await?;
            } else if now.target != case.decision.target && target.local().is_some() {
                // The policy leads elsewhere by now, and what stood here may have been taken back before this copy was
                // there. What a tag names stays.
                let endpoint = self.endpoint(target).await?;
                self.sweep(&Sweep::of(case, &endpoint), &mut pending_events)
                    .await?;
            }
        }
        self.end_claim(case).await?;
        Ok(pending_events)
    }

    /// Ends what somebody who died began to write for this decision.
    pub(crate) async fn end_claim(&self, case: &Evaluated<'_>) -> Result<(), Error> {
        // A policy that cannot say where to has written nothing.
        let Ok((target, target_tag)) = case.target() else {
            return Ok(());
        };
        if target.local().is_none() && !case.decision.was_allowed {
            return Ok(());
        }
        let endpoint = self.endpoint(target).await?;
        let (digest, provenance) = (Some(&case.subject.digest), provenance(case));
        let tags = &endpoint.tags;
        let left = tags.clean_up_stale(endpoint.repository(), &target_tag, digest, &provenance);
        Ok(left.await?)
    }

    /// Says whether the tag and every manifest of the image are in the target.
    async fn is_in_place(
        &self,
        case: &Evaluated<'_>,
        endpoint: &TargetEndpoint,
        target_tag: &Tag,
    ) -> Result<bool, Error> {
        let key = key::target_tag(&endpoint.target, target_tag);
        let settled = self
            .state
            .tags
            .get(&key)
            .await?
            .is_some_and(|entry| is_settled(&entry.value, &case.decision));
        if !settled {
            return Ok(false);
        }
        let head = endpoint.head(target_tag).await?;
        if head.is_none_or(|head| head.digest != case.subject.digest) {
            return Ok(false);
        }
        for manifest in case.manifests() {
            if endpoint.head(manifest).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns what the tag named before, where this very decision was carried out but not told.
    async fn previous(
        &self,
        case: &Evaluated<'_>,
        endpoint: &TargetEndpoint,
        target_tag: &Tag,
    ) -> Result<Option<Digest>, Error> {
        let key = key::target_tag(&endpoint.target, target_tag);
        let entry = self.state.tags.get(&key).await?;
        let settled = provenance(case).promotion;
        Ok(entry
            .filter(|entry| entry.value.promoted_from == settled)
            .and_then(|entry| entry.value.previous.parse().ok()))
    }

    pub(crate) async fn copy(
        &self,
        case: &Evaluated<'_>,
        endpoint: &TargetEndpoint,
        top_write: TopWrite,
    ) -> Result<Manifest, sluice_registry::Error> {
        let source = &case.subject.repository;
        // A remote registry has the blobs of no repository here.
        let siblings = endpoint.target.local().map(|_| source);
        let digest: &Digest = &case.subject.digest;
        let job = CopyJob {
            source: &self.registry,
            source_repository: source,
            digest,
            target: &endpoint.registry,
            target_repository: endpoint.repository(),
            siblings: siblings.map(std::slice::from_ref).unwrap_or_default(),
        };
        let options = CopyOptions {
            // It was read when the image was judged.
            top: self.images.cached_manifest(digest),
            top_write,
            ..CopyOptions::default()
        };
        Ok(job.run_with(&options).await?.top)
    }

    /// Tells why an image was refused, or why nothing can be told of it.
    pub(crate) fn tell_refusal(
        &self,
        case: &Evaluated<'_>,
        pending_events: &mut PendingEvents,
    ) -> Result<(), Error> {
        let (target, _) = case.target()?;
        let reasons = case.decision.reasons.iter().map(|reason| Reason {
            rule: reason.rule.clone(),
            detail: reason.detail.clone(),
            passed: reason.passed,
            undetermined: reason.undetermined,
        });
        pending_events.fact(
            ImagePromotionDenied {
                policy: case.name.clone(),
                repository: case.subject.repository.clone(),
                tag: case.subject.tag.clone(),
                digest: case.subject.digest.clone(),
                target: target.repository,
                reasons: reasons.collect(),
                decided_at: decided_at(&case.decision),
                registry: target.registry,
            },
            &occurrence(&case.decision),
        );
        Ok(())
    }

    /// Tells what cannot be told of an image: it is not promoted, and what is promoted already stays.
    ///
    /// For whoever waits for the image it is a refusal, with the open rules marked as such.
    pub(crate) fn leave_open(&self, case: &Evaluated<'_>) -> Result<PendingEvents, Error> {
        let mut pending_events = PendingEvents::default();
        if !case.decision.announced {
            self.tell_refusal(case, &mut pending_events)?;
            pending_events.record(self.record(case, |_| {}));
        }
        Ok(pending_events)
    }
}
