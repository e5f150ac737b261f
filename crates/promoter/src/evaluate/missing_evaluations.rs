//! Finds evaluations that are missing, from the state alone.

use chrono::{DateTime, TimeDelta, Utc};
use sluice_domain::resources::Recall;
use sluice_domain::{Digest, Repository, Tag, now};
use sluice_events::commands::{JudgeImage, Reconcile};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome, TagEntry};
use sluice_state::reconcile::{ReconcilePage, reason};
use sluice_state::{Entry, State, is_attachment, key};

use super::decision::{
    evaluation_command, is_ended, is_ended_for, is_in_any_target, no_longer_passes,
};
use super::policies::{Policies, Policy, Validity};
use super::scanned_image::ScannedImage;
use crate::error::Error;

/// How late a timer may be before the image is evaluated without it.
const LATE: TimeDelta = TimeDelta::seconds(60);

/// An evaluation that is missing.
pub(crate) struct MissingEvaluation {
    command: JudgeImage,
    /// The message id, which distinguishes it from an evaluation by older policies that may be under way; `None` where any
    /// evaluation will do.
    id: Option<String>,
}

impl MissingEvaluation {
    /// Adds its command to a page.
    pub(crate) fn add_to(self, page: &mut ReconcilePage) {
        match self.id {
            Some(id) => page.commands_with_id.push((self.command.into(), id)),
            None => page.commands.push(self.command.into()),
        }
    }
}

/// Returns the evaluation of a tag by a policy, if it is missing and can be made.
pub(crate) async fn of_tag(
    state: &State,
    policy: &Policy,
    entry: &TagEntry,
) -> Result<Option<MissingEvaluation>, Error> {
    let (Ok(repository), Ok(tag), Ok(digest)) = (
        entry.repository.parse::<Repository>(),
        entry.tag.parse::<Tag>(),
        entry.digest.parse::<Digest>(),
    ) else {
        // A tag that was removed names no digest.
        return Ok(None);
    };
    if is_attachment(entry) || !policy.decides_on(&repository) || policy.has_promoted(entry) {
        return Ok(None);
    }
    let key = key::decision(&policy.spec.name, &repository, &tag, &digest);
    let decision = state.decisions.get(&key).await?;
    // An evaluation that is under way may be one by the policies as they were.
    let of_revision = |at: u64| Some(format!("judge/policy/{key}/{}/{at}", policy.revision));
    let id = match &decision {
        Some(decision) if decision.value.policy_revision < policy.revision => {
            of_revision(decision.revision)
        }
        Some(decision) if is_open(&decision.value, now()) => None,
        Some(_) => return Ok(None),
        // An image that was not scanned yet is evaluated after its scan.
        None => match state.images.get(&key::image(&digest)).await? {
            Some(image)
                if ScannedImage::read(state, &digest, &image.value)
                    .await?
                    .is_scanned() =>
            {
                of_revision(0)
            }
            _ => return Ok(None),
        },
    };
    let command = JudgeImage {
        repository,
        tag,
        digest,
    };
    Ok(Some(MissingEvaluation { command, id }))
}

/// Returns the evaluation of an image in a target, if it was not evaluated by the policies as they are now, or if that
/// evaluation was not carried out.
pub(crate) fn of_decision(
    policies: &Policies,
    entry: &Entry<Decision>,
    search: &Reconcile,
    now: DateTime<Utc>,
) -> Option<MissingEvaluation> {
    let decision = &entry.value;
    let command = evaluation_command(decision)?;
    let of_policy = |policy: &str| {
        let id = format!("judge/standing/{}/{policy}/{}", entry.key, entry.revision);
        Some(MissingEvaluation {
            command: command.clone(),
            id: Some(id),
        })
    };
    if !is_in_any_target(decision) && (decision.published || !is_ended(decision)) {
        return None;
    }
    match policies.validity(decision) {
        Validity::Unreadable => return None,
        Validity::Outdated(revision) => return of_policy(&revision.to_string()),
        Validity::Ended { reason, .. } if !is_ended_for(decision, &reason) => {
            return of_policy(&reason);
        }
        Validity::Current | Validity::Ended { .. } => {}
    }
    let recall = policies.recall(decision);
    let is_recall_due = recall != Recall::Ignore
        && (decision.promoted_at.is_some()
            && decision.flagged.is_empty()
            && no_longer_passes(decision)
            || decision
                .former_targets
                .iter()
                .any(|former| former.flagged.is_empty()));
    let is_due = is_overdue(decision, now);
    // With the time a condition may come to another result, and an undetermined fact may be known.
    let is_timed = search.reason != reason::CHANGED
        && (decision.outcome() == DecisionOutcome::Undetermined
            || policies.depends_on_time(&decision.policy));
    let is_without_valid_policy =
        policies.validity(decision) != Validity::Current && search.reason != reason::CHANGED;
    let is_unpublished = !decision.published && decision.outcome() == DecisionOutcome::Deny;
    let is_open = is_unpublished || is_recall_due || is_due || is_timed || is_without_valid_policy;
    is_open.then_some(MissingEvaluation { command, id: None })
}

/// Counts the targets in which an image is flagged.
pub(crate) fn flagged_targets(decision: &Decision) -> u64 {
    let main = decision.promoted_at.is_some() && !decision.flagged.is_empty();
    let former = decision.former_targets.iter();
    let former = former.filter(|former| !former.flagged.is_empty()).count();
    u64::from(main) + u64::try_from(former).unwrap_or(u64::MAX)
}

/// Says whether an image has to be evaluated again.
fn is_open(decision: &Decision, now: DateTime<Utc>) -> bool {
    // An undetermined fact may be known by now, as when a digest was first seen.
    let unknown = decision.outcome() == DecisionOutcome::Undetermined;
    !decision.published || unknown || is_overdue(decision, now)
}

/// Says whether the time until which a decision holds is over, and its timer was lost.
fn is_overdue(decision: &Decision, now: DateTime<Utc>) -> bool {
    match time_from_wire(decision.wait_until.as_ref()) {
        Some(until) => until + LATE < now,
        None => decision.outcome() == DecisionOutcome::Wait,
    }
}

#[cfg(test)]
mod tests {
    use sluice_events::time_to_wire;

    use super::*;

    #[test]
    fn an_image_is_evaluated_again_when_its_decision_was_not_carried_out() {
        let now = Utc::now();
        let decided = Decision {
            outcome: DecisionOutcome::Deny.into(),
            published: true,
            ..Default::default()
        };
        assert!(!is_open(&decided, now));
        let unpublished = Decision {
            published: false,
            ..decided.clone()
        };
        assert!(is_open(&unpublished, now));
        for (since, expected) in [(-10, false), (10, false), (120, true)] {
            let waits = Decision {
                outcome: DecisionOutcome::Wait.into(),
                wait_until: Some(time_to_wire(now - TimeDelta::seconds(since))),
                ..decided.clone()
            };
            assert_eq!(is_open(&waits, now), expected, "{since}");
        }
    }
}
