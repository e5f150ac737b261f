//! Makes the decision that is stored from an evaluation by a policy and the decision before it. Pure.
//!
//! A decision that says nothing new keeps its time, and with it the tag that a template makes, and is not published again.

use chrono::{DateTime, Utc};
use sluice_domain::Digest;
use sluice_events::wire::events::Reason;
use sluice_events::wire::state::{Decision, DecisionInput, DecisionOutcome, FormerTarget};
use sluice_events::{time_from_wire, time_to_wire};
use sluice_policy::promotion::{
    Candidate, PolicyEvaluation, PolicyOutcome, TagTemplate, accepted_kinds, changes_at, evaluate,
};
use sluice_service::error_chain;

use super::decision::{IMMUTABLE, POLICY, SOAK, allowed_revision, shortened};
use super::policies::Policy;

/// The rule that a policy makes a valid target of the image.
const TARGET: &str = "target";

/// Evaluates an image and returns the decision to be stored; `kept` is what its immutable target tag keeps instead of it.
pub(crate) fn decide(
    policy: &Policy,
    candidate: &Candidate,
    inputs: Vec<DecisionInput>,
    stored: Option<&Decision>,
    kept: Option<&Digest>,
) -> Decision {
    let now = candidate.decided_at;
    let mut next = Decision {
        policy: policy.spec.name.to_string(),
        repository: candidate.repository.to_string(),
        tag: candidate.tag.to_string(),
        digest: candidate.digest.to_string(),
        policy_revision: policy.revision,
        decided_at: Some(time_to_wire(now)),
        inputs: inputs
            .into_iter()
            .map(|input| with_accepted(policy, input))
            .collect(),
        ..Default::default()
    };
    match evaluate(&policy.spec, candidate) {
        Ok(evaluation) => {
            set_outcome(&mut next, evaluation);
            if next.wait_until.is_none() {
                next.wait_until = changes_at(&policy.spec, candidate).map(time_to_wire);
            }
        }
        Err(error) => {
            next.outcome = DecisionOutcome::Undetermined.into();
            next.reasons = vec![Reason {
                rule: TARGET.to_owned(),
                detail: shortened(&error_chain(&error)),
                passed: false,
                undetermined: true,
            }];
        }
    }
    next.allowed_revision = if next.outcome() == DecisionOutcome::Allow {
        policy.revision
    } else {
        stored.map_or(0, allowed_revision)
    };
    if let (DecisionOutcome::Allow, Some(kept)) = (next.outcome(), kept) {
        next.outcome = DecisionOutcome::Deny.into();
        next.reasons.push(Reason {
            rule: IMMUTABLE.to_owned(),
            detail: format!("the tag names {kept}, and its repository is immutable"),
            passed: false,
            undetermined: false,
        });
    }
    next.was_allowed =
        next.outcome() == DecisionOutcome::Allow || stored.is_some_and(|stored| stored.was_allowed);
    match next.outcome() {
        DecisionOutcome::Allow => set_target(&mut next, policy, candidate, stored),
        _ => keep_target(&mut next, stored),
    }
    keep_former_targets(&mut next, stored);
    match stored.filter(|stored| is_same_outcome(stored, &next)) {
        Some(stored) => {
            next.decided_at = stored.decided_at;
            next.published = stored.published;
            next.target_tag.clone_from(&stored.target_tag);
            next.note.clone_from(&stored.note);
            next.schema = stored.schema;
        }
        // Waiting is no refusal, and without a target there is no event to publish.
        None => {
            next.published = next.outcome() == DecisionOutcome::Wait || next.target.is_empty();
        }
    }
    next
}

/// Adds which kinds of packages the policy accepts although the scanner matched nothing in them.
fn with_accepted(policy: &Policy, input: DecisionInput) -> DecisionInput {
    let unmatched = input.unmatched.iter().map(String::as_str);
    let accepted = accepted_kinds(&policy.spec, unmatched);
    DecisionInput {
        accepted: accepted.into_iter().map(ToOwned::to_owned).collect(),
        ..input
    }
}

/// Makes the decision that ends a stored one whose policy does not decide any more; one that was ended for the same
/// reason stays as it is.
pub(crate) fn end(stored: &Decision, reason: &str, now: DateTime<Utc>) -> Decision {
    let reasons = vec![Reason {
        rule: POLICY.to_owned(),
        detail: shortened(reason),
        passed: false,
        undetermined: false,
    }];
    if stored.outcome() == DecisionOutcome::Deny && stored.reasons == reasons {
        return stored.clone();
    }
    Decision {
        outcome: DecisionOutcome::Deny.into(),
        reasons,
        decided_at: Some(time_to_wire(now)),
        published: stored.target.is_empty(),
        wait_until: None,
        note: String::new(),
        allowed_revision: allowed_revision(stored),
        ..stored.clone()
    }
}

/// Refuses an image that its policy allows at another target now, while its source tag does not name it any more: it
/// cannot be promoted there, and is still where it was promoted to before.
pub(crate) fn refuse_new_target(next: &mut Decision, stored: &Decision) {
    let target = format!("{}:{}", next.target, next.target_tag);
    next.outcome = DecisionOutcome::Deny.into();
    next.wait_until = None;
    next.reasons.push(Reason {
        rule: POLICY.to_owned(),
        detail: format!("policy `{}` leads to {target} now", next.policy),
        passed: false,
        undetermined: false,
    });
    next.promoted_at = stored.promoted_at;
    keep_target(next, Some(stored));
    next.former_targets.clone_from(&stored.former_targets);
    if is_same_outcome(stored, next) {
        next.decided_at = stored.decided_at;
        next.published = stored.published;
    } else {
        next.published = false;
    }
}

fn set_outcome(next: &mut Decision, evaluation: PolicyEvaluation) {
    next.target = evaluation.target.stored();
    next.target_tag = evaluation.target_tag.to_string();
    let (outcome, wait_until) = match evaluation.outcome {
        PolicyOutcome::Allow => (DecisionOutcome::Allow, None),
        PolicyOutcome::Deny => (DecisionOutcome::Deny, None),
        PolicyOutcome::Wait { until } => (DecisionOutcome::Wait, Some(time_to_wire(until))),
        PolicyOutcome::Undetermined => (DecisionOutcome::Undetermined, None),
    };
    next.outcome = outcome.into();
    next.wait_until = wait_until;
    next.reasons = evaluation
        .reasons
        .into_iter()
        .map(|reason| Reason {
            rule: reason.rule,
            detail: shortened(&reason.detail),
            passed: reason.passed == Some(true),
            undetermined: reason.passed.is_none(),
        })
        .collect();
}

/// Gives an allowed image its target tag: the one it has, or one made of the time of this decision.
fn set_target(
    next: &mut Decision,
    policy: &Policy,
    candidate: &Candidate,
    stored: Option<&Decision>,
) {
    next.promoted_at = next.decided_at;
    let since = stored
        .filter(|stored| stored.target == next.target)
        .and_then(|stored| stored.promoted_at);
    let Some(at) = time_from_wire(since.as_ref()) else {
        return;
    };
    let rendered = policy
        .spec
        .tag
        .parse()
        .ok()
        .and_then(|template: TagTemplate| template.render(&candidate.tag, at).ok());
    if let Some(tag) = rendered {
        next.promoted_at = since;
        next.target_tag = tag.to_string();
    }
}

/// Keeps the target of an image that was promoted and is not allowed now.
fn keep_target(next: &mut Decision, stored: Option<&Decision>) {
    let Some(stored) = stored.filter(|stored| stored.promoted_at.is_some()) else {
        return;
    };
    next.promoted_at = stored.promoted_at;
    next.flagged.clone_from(&stored.flagged);
    next.target.clone_from(&stored.target);
    next.target_tag.clone_from(&stored.target_tag);
}

/// Keeps the targets to which a policy led before it was changed, as long as they may have the image.
fn keep_former_targets(next: &mut Decision, stored: Option<&Decision>) {
    let Some(stored) = stored else { return };
    next.former_targets.clone_from(&stored.former_targets);
    if next.promoted_at.is_none() {
        return;
    }
    if stored.promoted_at.is_some() {
        next.former_targets.push(FormerTarget {
            target: stored.target.clone(),
            target_tag: stored.target_tag.clone(),
            promoted_at: stored.promoted_at,
            flagged: stored.flagged.clone(),
        });
    }
    let (target, tag) = (&next.target, &next.target_tag);
    next.former_targets
        .retain(|former| (&former.target, &former.target_tag) != (target, tag));
}

/// Says whether a decision comes to the same as the stored one, so that no event is published again.
///
/// A newer database that finds the same is nothing new. An image that stays allowed keeps its target tag whatever a newer
/// scan finds; a refusal is published again when the findings or the failing rules changed.
fn is_same_outcome(stored: &Decision, next: &Decision) -> bool {
    if stored.outcome != next.outcome || stored.target != next.target {
        return false;
    }
    match next.outcome() {
        DecisionOutcome::Allow => {
            stored.target_tag == next.target_tag && stored.promoted_at.is_some()
        }
        DecisionOutcome::Wait => stored.wait_until == next.wait_until,
        _ => failing(stored).eq(failing(next)) && findings(stored).eq(findings(next)),
    }
}

fn failing(decision: &Decision) -> impl Iterator<Item = (&str, bool)> {
    let failing = |reason: &&Reason| !reason.passed && reason.rule != SOAK;
    let rules = decision.reasons.iter().filter(failing);
    rules.map(|reason| (reason.rule.as_str(), reason.undetermined))
}

fn findings(decision: &Decision) -> impl Iterator<Item = DecisionInput> {
    decision.inputs.iter().map(|input| DecisionInput {
        scanner: String::new(),
        database_version: String::new(),
        report_key: String::new(),
        ..input.clone()
    })
}

#[cfg(test)]
mod tests;
