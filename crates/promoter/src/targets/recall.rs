//! Carries out a refusal: publishes it, and flags or withdraws an image that was promoted before.

pub(crate) mod events;
pub(crate) mod former_targets;
mod precondition;
pub(crate) mod removal;

use sluice_domain::resources::Recall;
use sluice_events::wire::state::Decision;
use sluice_registry::RootPush;
use sluice_state::key;

use self::events::{add_denial, add_flag, add_withdrawals};
use self::precondition::is_allowed_by_other;
use self::removal::{is_in_target, is_refused_deletion, remove_image, remove_unpromoted};
use crate::error::Error;
use crate::evaluate::decision::{
    evaluation_command, failed_rules, is_known_to_fail, no_longer_passes, occurrence, open_rules,
};
use crate::evaluate::evaluated_decision::Evaluation;
use crate::targets::endpoint::Targets;
use crate::targets::pending_events::PendingEvents;

/// The recall of one image from its target.
pub(crate) struct ImageRecall<'a> {
    pub(crate) targets: &'a Targets,
    pub(crate) evaluation: &'a Evaluation<'a>,
}

impl ImageRecall<'_> {
    /// Publishes a refusal, and recalls an image that was promoted before as the policy says.
    pub(crate) async fn deny(&self) -> Result<PendingEvents, Error> {
        let evaluation = self.evaluation;
        let mut pending_events = PendingEvents::default();
        if !evaluation.decision.published {
            add_denial(evaluation, &mut pending_events)?;
        }
        self.targets.end_claim(evaluation).await?;
        if !evaluation.decision.flagged.is_empty() && self.is_incomplete().await? {
            self.targets.state.ensure_not_paused().await?;
            // Manifests that it shares with another image were removed with that one before this one was copied completely.
            match self.copy_again().await {
                // A withdrawal meanwhile stored its decision first, and does not remove what was copied after that.
                Ok(()) if evaluation.is_stored(&self.targets.state).await? => {}
                Ok(()) => return Err(Error::stale_decision()),
                // Its source was deleted too, and an incomplete image that is refused is of no use.
                Err(Error::Registry(error)) if error.is_not_found() => {
                    self.withdraw(&mut pending_events).await?;
                    return Ok(pending_events);
                }
                Err(error) => return Err(error),
            }
        }
        if evaluation.decision.promoted_at.is_some() && no_longer_passes(&evaluation.decision) {
            self.recall(&mut pending_events).await?;
        }
        if evaluation.decision.promoted_at.is_none() {
            remove_unpromoted(self.targets, evaluation, &mut pending_events).await?;
        }
        if !evaluation.decision.published {
            self.record(&mut pending_events, |_| {});
        }
        Ok(pending_events)
    }

    /// Flags or withdraws an image that was promoted, unless another decision allows it at the same tag.
    async fn recall(&self, pending_events: &mut PendingEvents) -> Result<(), Error> {
        let evaluation = self.evaluation;
        let others = self.other_decisions().await?;
        let (target, tag) = evaluation.target()?;
        let mut is_changed = !evaluation.decision.published;
        let is_flagged = !evaluation.decision.flagged.is_empty();
        if is_allowed_by_other(&self.targets.state, evaluation, &target, &tag).await? {
            self.leave_to_others(pending_events);
        } else if evaluation.recall == Recall::Withdraw && is_known_to_fail(&evaluation.decision) {
            self.withdraw(pending_events).await?;
            is_changed = true;
        } else if evaluation.recall != Recall::Ignore && !is_flagged {
            self.flag(pending_events).await?;
            is_changed = true;
        } else if evaluation.policy.is_none()
            && !is_in_target(self.targets, evaluation, &target, &tag).await?
        {
            // It was withdrawn by another decision.
            self.clear_promotion(pending_events);
        }
        if is_changed {
            evaluate_others(evaluation, &others, pending_events);
        }
        Ok(())
    }

    /// Flags an image whose policy was changed since it allowed the image, and is undetermined now.
    pub(crate) async fn flag_undetermined(
        &self,
        pending_events: &mut PendingEvents,
    ) -> Result<(), Error> {
        let evaluation = self.evaluation;
        let (target, tag) = evaluation.target()?;
        let is_done =
            evaluation.recall == Recall::Ignore || !evaluation.decision.flagged.is_empty();
        if is_done || is_allowed_by_other(&self.targets.state, evaluation, &target, &tag).await? {
            return Ok(());
        }
        self.flag(pending_events).await
    }

    async fn copy_again(&self) -> Result<(), Error> {
        let (target, _) = self.evaluation.target()?;
        let endpoint = self.targets.endpoint(target).await?;
        let copy = self
            .targets
            .copy_image(self.evaluation, &endpoint, RootPush::Copy);
        copy.await?;
        Ok(())
    }

    /// Says whether the target has an image without all that it lists.
    ///
    /// Where the image itself is missing there is nothing to repair; a registry that lost its disk has none.
    async fn is_incomplete(&self) -> Result<bool, Error> {
        let (target, _) = self.evaluation.target()?;
        let endpoint = self.targets.endpoint(target).await?;
        if endpoint
            .head(&self.evaluation.subject.digest)
            .await?
            .is_none()
        {
            return Ok(false);
        }
        Ok(!endpoint.has_all(self.evaluation.manifests()).await?)
    }

    /// Returns the other decisions by which the same target has the image.
    async fn other_decisions(&self) -> Result<Vec<Decision>, Error> {
        let about = key::decisions_about(&self.evaluation.subject.digest);
        let decisions = self.targets.state.decisions.list(&about).await?;
        let target = &self.evaluation.decision.target;
        Ok(decisions
            .into_iter()
            .filter(|entry| entry.key != self.evaluation.key)
            .map(|entry| entry.value)
            .filter(|other| other.target == *target && other.promoted_at.is_some())
            .collect())
    }

    /// Ends a recall because another policy allows the image at the same tag.
    fn leave_to_others(&self, pending_events: &mut PendingEvents) {
        if self.evaluation.policy.is_none() {
            self.clear_promotion(pending_events);
        } else if !self.evaluation.decision.flagged.is_empty() {
            self.record(pending_events, |decision| decision.flagged.clear());
        }
    }

    /// Records that the target does not have the image because of this decision.
    fn clear_promotion(&self, pending_events: &mut PendingEvents) {
        self.record(pending_events, |decision| {
            decision.promoted_at = None;
            decision.flagged.clear();
        });
    }

    fn record(
        &self,
        pending_events: &mut PendingEvents,
        edit: impl FnOnce(&mut Decision) + Send + 'static,
    ) {
        pending_events.record(&self.targets.state, self.evaluation, edit);
    }

    async fn flag(&self, pending_events: &mut PendingEvents) -> Result<(), Error> {
        let evaluation = self.evaluation;
        let (target, tag) = evaluation.target()?;
        // Refused between the decision that allowed it and the copy, it was never there.
        if !is_in_target(self.targets, evaluation, &target, &tag).await? {
            if target.local().is_some() {
                remove_unpromoted(self.targets, evaluation, pending_events).await?;
            }
            self.clear_promotion(pending_events);
            return Ok(());
        }
        let reason = if is_known_to_fail(&evaluation.decision) {
            failed_rules(&evaluation.decision)
        } else {
            open_rules(&evaluation.decision)
        };
        add_flag(evaluation, (target, tag), &reason, pending_events);
        self.record(pending_events, |decision| decision.flagged = reason);
        Ok(())
    }

    /// Withdraws the image and publishes that; flags it where a remote registry refuses the deletion.
    async fn withdraw(&self, pending_events: &mut PendingEvents) -> Result<(), Error> {
        let evaluation = self.evaluation;
        let (target, _) = evaluation.target()?;
        let tags = match remove_image(self.targets, evaluation, pending_events).await {
            Err(error) if target.local().is_none() && is_refused_deletion(&error) => {
                return self.flag_instead(&error, pending_events);
            }
            tags => tags?,
        };
        let Some(tags) = tags else {
            return Ok(());
        };
        let reason = failed_rules(&evaluation.decision);
        add_withdrawals(evaluation, &target, tags, &reason, pending_events);
        self.clear_promotion(pending_events);
        Ok(())
    }

    /// Flags an image that a remote registry refuses to delete; the next evaluation tries again.
    fn flag_instead(&self, error: &Error, pending_events: &mut PendingEvents) -> Result<(), Error> {
        let evaluation = self.evaluation;
        let (target, tag) = evaluation.target()?;
        let reason = format!(
            "{}; it cannot be withdrawn: {error}",
            failed_rules(&evaluation.decision)
        );
        if evaluation.decision.flagged.is_empty() {
            add_flag(evaluation, (target, tag), &reason, pending_events);
            self.record(pending_events, |decision| decision.flagged = reason);
        } else {
            tracing::warn!(image.repository = %target, image.tag = %tag, reason, "not withdrawn");
            self.record(pending_events, |_| {});
        }
        Ok(())
    }
}

/// Adds the evaluations by the policies whose own recall this decision may have held up.
fn evaluate_others(
    evaluation: &Evaluation<'_>,
    others: &[Decision],
    pending_events: &mut PendingEvents,
) {
    for other in others {
        if let Some(command) = evaluation_command(other) {
            let id = format!(
                "judge/recall/{}/{}/{}/{}/{}",
                other.policy,
                command.repository,
                command.tag,
                evaluation.key,
                occurrence(&evaluation.decision)
            );
            pending_events.command(command, id);
        }
    }
}
