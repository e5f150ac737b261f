//! Recalls an image from the targets to which its policy led before it was changed, unless another policy leads there.

use sluice_domain::resources::Recall;
use sluice_domain::{Tag, Target};
use sluice_events::wire::state::FormerTarget;
use sluice_state::key;

use super::events::{add_flag, add_withdrawals};
use super::precondition::is_allowed_by_other;
use super::removal::{is_in_target, is_refused_deletion, remove_image};
use crate::error::Error;
use crate::evaluate::evaluated_decision::Evaluation;
use crate::targets::endpoint::Targets;
use crate::targets::pending_events::PendingEvents;

/// What became of an image in a former target.
enum RecallOutcome {
    /// The image stays there as it is.
    Kept,
    /// The image is flagged.
    Flagged(String),
    /// The image was removed, or stays there because of another decision.
    Done,
}

/// Recalls an image from every former target of its decision.
pub(crate) async fn recall_from_former_targets(
    targets: &Targets,
    evaluation: &Evaluation<'_>,
    pending_events: &mut PendingEvents,
) -> Result<(), Error> {
    for former in &evaluation.decision.former_targets {
        let at_former = evaluation.at_former(former);
        let former = former.clone();
        let is_there = is_in_former_target(targets, evaluation, &at_former).await?;
        match recall_from(targets, &at_former, is_there, pending_events).await? {
            RecallOutcome::Kept => {}
            RecallOutcome::Flagged(reason) => {
                pending_events.edit(&targets.state, evaluation, move |decision| {
                    let mut known = decision.former_targets.iter_mut();
                    if let Some(known) = known.find(|known| is_same(known, &former)) {
                        known.flagged = reason;
                    }
                });
            }
            RecallOutcome::Done => {
                pending_events.edit(&targets.state, evaluation, move |decision| {
                    decision
                        .former_targets
                        .retain(|known| !is_same(known, &former));
                });
            }
        }
    }
    Ok(())
}

async fn recall_from(
    targets: &Targets,
    evaluation: &Evaluation<'_>,
    is_there: bool,
    pending_events: &mut PendingEvents,
) -> Result<RecallOutcome, Error> {
    let (target, tag) = evaluation.target()?;
    if !is_there || is_allowed_by_other(&targets.state, evaluation, &target, &tag).await? {
        return Ok(RecallOutcome::Done);
    }
    let reason = format!("policy `{}` does not lead there any more", evaluation.name);
    let is_flagged = !evaluation.decision.flagged.is_empty();
    match evaluation.recall {
        Recall::Ignore => Ok(RecallOutcome::Kept),
        Recall::Flag if is_flagged => Ok(RecallOutcome::Kept),
        Recall::Flag => Ok(flag(evaluation, (target, tag), reason, pending_events)),
        Recall::Withdraw => match remove_image(targets, evaluation, pending_events).await {
            Err(error) if target.local().is_none() && is_refused_deletion(&error) => {
                if is_flagged {
                    return Ok(RecallOutcome::Kept);
                }
                let reason = format!("{reason}; it cannot be withdrawn: {error}");
                Ok(flag(evaluation, (target, tag), reason, pending_events))
            }
            Err(error) => Err(error),
            Ok(None) => Ok(RecallOutcome::Kept),
            Ok(Some(tags)) => {
                add_withdrawals(evaluation, &target, tags, &reason, pending_events);
                Ok(RecallOutcome::Done)
            }
        },
    }
}

/// Says whether a former target has an image: under the former tag, or by digest where it is another repository.
async fn is_in_former_target(
    targets: &Targets,
    evaluation: &Evaluation<'_>,
    at_former: &Evaluation<'_>,
) -> Result<bool, Error> {
    let (target, tag) = at_former.target()?;
    if at_former.decision.target != evaluation.decision.target {
        return is_in_target(targets, at_former, &target, &tag).await;
    }
    let endpoint = targets.endpoint(target).await?;
    let Some(head) = endpoint.head(&tag).await? else {
        return Ok(false);
    };
    if head.digest == at_former.subject.digest {
        return Ok(true);
    }
    // An interrupted removal of the image is to be finished.
    let key = key::target_tag(&endpoint.target, &tag);
    let entry = targets.state.tags.get(&key).await?;
    Ok(
        entry.is_some_and(|entry| entry.value.digest == at_former.decision.digest)
            && endpoint
                .registry
                .is_tombstone(endpoint.repository(), &head.digest)
                .await?,
    )
}

fn flag(
    evaluation: &Evaluation<'_>,
    target: (Target, Tag),
    reason: String,
    pending_events: &mut PendingEvents,
) -> RecallOutcome {
    add_flag(evaluation, target, &reason, pending_events);
    RecallOutcome::Flagged(reason)
}

fn is_same(one: &FormerTarget, other: &FormerTarget) -> bool {
    (&one.target, &one.target_tag) == (&other.target, &other.target_tag)
}
