//! Promotes an allowed image: copies it into its target, moves the tag, and publishes that once.

mod precondition;

use sluice_domain::{Digest, Tag};
use sluice_events::commands::JudgeImage;
use sluice_events::facts::ImagePromoted;
use sluice_events::wire::state::DecisionOutcome;
use sluice_registry::RootPush;
use sluice_service::crash;
use sluice_state::{TagChange, TagChangeOutcome, key};
use sluice_telemetry::metrics::PROMOTION_DURATION;
use tokio::time::Instant;

use self::precondition::PromotionPrecondition;
use crate::error::Error;
use crate::evaluate::decision::{decided_at, is_settled, occurrence};
use crate::evaluate::evaluated_decision::Evaluation;
use crate::evaluate::policies::{self, Policy};
use crate::targets::attachments::attach;
use crate::targets::audit::overwritten_tag::{overwritten_by, report_overwritten};
use crate::targets::endpoint::{TargetEndpoint, Targets};
use crate::targets::pending_events::PendingEvents;
use crate::targets::recall::removal::remove_leftovers;
use crate::targets::sweep::sweep;
use crate::targets::sweep::sweep_plan::SweepPlan;

/// The promotion of one allowed image into its target.
pub(crate) struct ImagePromotion<'a> {
    targets: &'a Targets,
    evaluation: &'a Evaluation<'a>,
    endpoint: TargetEndpoint,
    target_tag: Tag,
}

impl<'a> ImagePromotion<'a> {
    pub(crate) async fn new(
        targets: &'a Targets,
        evaluation: &'a Evaluation<'a>,
    ) -> Result<Self, Error> {
        let (target, target_tag) = evaluation.target()?;
        let endpoint = targets.endpoint(target).await?;
        Ok(Self {
            targets,
            evaluation,
            endpoint,
            target_tag,
        })
    }

    /// Promotes the image, or repairs it in its target, and publishes that once.
    pub(crate) async fn run(&self) -> Result<PendingEvents, Error> {
        let (evaluation, state) = (self.evaluation, &self.targets.state);
        let precondition = PromotionPrecondition {
            state,
            registry: &self.targets.registry,
            evaluation,
            endpoint: &self.endpoint,
            target_tag: &self.target_tag,
        };
        // The source's tag is checked in the registry right before anything is written.
        if !precondition.is_wanted_by_state().await? {
            return self.clean_up_superseded().await;
        }
        let mut pending_events = PendingEvents::default();
        let overwritten = overwritten_by(state, evaluation, &self.endpoint, &self.target_tag);
        if let Some(found) = overwritten.await? {
            let (decision, target) = (&evaluation.decision, &self.endpoint.target);
            let note = report_overwritten(
                decision,
                target,
                &self.target_tag,
                &found,
                &mut pending_events,
            );
            if let Some(note) = note {
                pending_events.record(state, evaluation, |decision| decision.note = note);
            }
            return Ok(pending_events);
        }
        let mut previous = None;
        if !self.is_complete().await? {
            state.ensure_not_paused().await?;
            match self.copy_and_tag(&precondition).await {
                Ok(TagChangeOutcome::Done { previous: before }) => previous = before,
                // The policy or a verdict was changed meanwhile, so the image is evaluated again.
                Ok(TagChangeOutcome::Superseded) if precondition.is_wanted().await? => {
                    return Err(Error::stale_decision());
                }
                Ok(TagChangeOutcome::Superseded) => return self.clean_up_superseded().await,
                // The immutable tag was given to another image first, which the next evaluation finds.
                Ok(TagChangeOutcome::Refused { .. }) => return Err(Error::stale_decision()),
                // A source that moved on may have been deleted by now. And where the image was recalled meanwhile, only
                // this promotion can remove what was copied since.
                Err(_) if !precondition.is_wanted().await? => {
                    return self.clean_up_superseded().await;
                }
                Err(error) => return Err(error),
            }
            tracing::info!(
                policy = evaluation.decision.policy, image.repository = %self.endpoint.target,
                image.tag = %self.target_tag, image.digest = evaluation.decision.digest, "promoted"
            );
        }
        attach(self.targets, evaluation, &self.endpoint, &precondition).await?;
        if evaluation.decision.published {
            if !evaluation.decision.note.is_empty() {
                pending_events.record(state, evaluation, |decision| decision.note.clear());
            }
            return Ok(pending_events);
        }
        // The audit may have recorded the tag instead, where the worker that wrote it died.
        if previous.is_none() {
            previous = self.unpublished_previous().await?;
        }
        self.publish(previous, &mut pending_events).await?;
        pending_events.record(state, evaluation, |_| {});
        Ok(pending_events)
    }

    /// Copies the image, then points the tag to it.
    async fn copy_and_tag(
        &self,
        precondition: &PromotionPrecondition<'_>,
    ) -> Result<TagChangeOutcome, Error> {
        let (evaluation, endpoint) = (self.evaluation, &self.endpoint);
        let started = Instant::now();
        // From before the first write until the last promoted image has left it, only the promoter may write to a target.
        if let Some(target) = endpoint.target.local()
            && !self.targets.catalog.current().targets.contains(target)
        {
            self.targets.state.record_target(target).await?;
        }
        // In a remote registry others may remove what no tag names, so the image is complete there before it is tagged.
        let root_push = match endpoint.target.local() {
            Some(_) => RootPush::Caller,
            None => RootPush::Copy,
        };
        let copy = self.targets.copy_image(evaluation, endpoint, root_push);
        let top = copy.await?;
        crash::point("promoter.copied");
        let change = TagChange {
            repository: endpoint.repository(),
            tag: &self.target_tag,
            wanted: Some(&top),
            provenance: evaluation.provenance(),
            precondition,
        };
        let applied = match endpoint.tags.apply(&change).await {
            Err(sluice_state::Error::Registry(error)) if error.is_missing_reference() => {
                tracing::debug!(%error, "a part of the image was removed from the target since it was seen there");
                self.targets
                    .copy_image(evaluation, endpoint, RootPush::Copy)
                    .await?;
                endpoint.tags.apply(&change).await?
            }
            applied => applied?,
        };
        if matches!(applied, TagChangeOutcome::Done { .. }) {
            PROMOTION_DURATION.record(started.elapsed(), &[endpoint.remote_registry()]);
        }
        Ok(applied)
    }

    /// Adds the event of the promotion, and the evaluation by further policies that take images from the target.
    async fn publish(
        &self,
        previous: Option<Digest>,
        pending_events: &mut PendingEvents,
    ) -> Result<(), Error> {
        let (evaluation, target) = (self.evaluation, &self.endpoint.target);
        let occurrence = occurrence(&evaluation.decision);
        pending_events.event(
            ImagePromoted {
                policy: evaluation.name.clone(),
                source: evaluation.subject.repository.clone(),
                source_tag: evaluation.subject.tag.clone(),
                target: target.repository.clone(),
                target_tag: self.target_tag.clone(),
                digest: evaluation.subject.digest.clone(),
                decided_at: decided_at(&evaluation.decision),
                previous,
                registry: target.registry.clone(),
            },
            &occurrence,
        );
        let Some(repository) = target.local() else {
            return Ok(());
        };
        let policies = policies::read(&self.targets.state).await?;
        let is_further =
            |policy: &Policy| policy.spec.name != evaluation.name && policy.decides_on(repository);
        if policies.iter().any(is_further) {
            let command = JudgeImage {
                repository: repository.clone(),
                tag: self.target_tag.clone(),
                digest: evaluation.subject.digest.clone(),
            };
            let id = format!("judge/chain/{}/{occurrence}", evaluation.key);
            pending_events.command(command, id);
        }
        Ok(())
    }

    /// Removes what was written for a decision that was superseded while it was carried out.
    async fn clean_up_superseded(&self) -> Result<PendingEvents, Error> {
        let (targets, evaluation) = (self.targets, self.evaluation);
        tracing::info!(
            policy = evaluation.decision.policy,
            image.digest = evaluation.decision.digest,
            "superseded"
        );
        let mut pending_events = PendingEvents::default();
        let now = targets.state.decisions.get(&evaluation.key).await?;
        if let Some(now) = now.map(|now| now.value) {
            let is_allowed = now.outcome() == DecisionOutcome::Allow;
            let leads_elsewhere = now.target != evaluation.decision.target;
            let is_promoted = now.promoted_at.is_some();
            if !is_allowed && is_promoted && !leads_elsewhere {
                // The recall may have checked the target before this copy was there, and does not check it again.
                return Err(Error::stale_decision());
            }
            if now.outcome() == DecisionOutcome::Deny && !is_promoted {
                remove_leftovers(targets, evaluation, &mut pending_events).await?;
            } else if (!is_allowed || leads_elsewhere) && !self.endpoint.is_remote() {
                // An undetermined decision permits this copy no more than one that leads elsewhere, whose former target may
                // have been cleared before this copy was there. A manifest that a tag names stays.
                let plan = SweepPlan::of(evaluation, &self.endpoint);
                sweep(targets, &plan, &mut pending_events).await?;
            }
        }
        targets.end_claim(evaluation).await?;
        Ok(pending_events)
    }

    /// Says whether the target has the tag and every manifest of the image.
    async fn is_complete(&self) -> Result<bool, Error> {
        let key = key::target_tag(&self.endpoint.target, &self.target_tag);
        let entry = self.targets.state.tags.get(&key).await?;
        if !entry.is_some_and(|entry| is_settled(&entry.value, &self.evaluation.decision)) {
            return Ok(false);
        }
        let head = self.endpoint.head(&self.target_tag).await?;
        if head.is_none_or(|head| head.digest != self.evaluation.subject.digest) {
            return Ok(false);
        }
        Ok(self.endpoint.has_all(self.evaluation.manifests()).await?)
    }

    /// Returns what the tag named before, where this very decision was carried out and its event was not published.
    async fn unpublished_previous(&self) -> Result<Option<Digest>, Error> {
        let key = key::target_tag(&self.endpoint.target, &self.target_tag);
        let entry = self.targets.state.tags.get(&key).await?;
        let promotion = self.evaluation.provenance().promotion;
        Ok(entry
            .filter(|entry| entry.value.promoted_from == promotion)
            .and_then(|entry| entry.value.previous.parse().ok()))
    }
}
