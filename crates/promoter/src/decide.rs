//! From a judgement and the decision before it to the decision that is stored. Pure.
//!
//! A decision that says nothing new keeps its time, and with it the tag that a template makes, and is not told again.

use chrono::{DateTime, Utc};
use sluice_domain::Digest;
use sluice_events::wire::events::Reason;
use sluice_events::wire::state::{Decision, DecisionInput, DecisionOutcome, FormerTarget};
use sluice_events::{time_from_wire, time_to_wire};
use sluice_policy::promotion::{Candidate, Judgement, Outcome, accepted, changes_at, judge};
use sluice_policy::template::TagTemplate;

use crate::policies::Policy;

/// The longest detail of a reason that is stored and told, in characters.
const MAX_DETAIL: usize = 1_000;
/// The rules that fail because nothing is known; they never take an image back.
const COVERAGE: &str = "coverage";
/// The rule that only asks for patience.
const SOAK: &str = "soak";
/// The rule that stands for a policy that makes no target of this image.
const TARGET: &str = "target";
/// The rule that the tags of an immutable target keep what they name.
const IMMUTABLE: &str = "immutable";
/// The rule that a policy still decides on the image, and leads to where the image stands.
const POLICY: &str = "policy";

/// Judges an image now, and returns the decision to be stored; `kept` is what its immutable place keeps instead of it.
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
    match judge(&policy.spec, candidate) {
        Ok(judgement) => {
            judged(&mut next, judgement);
            if next.wait_until.is_none() {
                next.wait_until = changes_at(&policy.spec, candidate).map(time_to_wire);
            }
        }
        Err(error) => {
            next.outcome = DecisionOutcome::Undetermined.into();
            next.reasons = vec![Reason {
                rule: TARGET.to_owned(),
                detail: told(&error),
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
        DecisionOutcome::Allow => place(&mut next, policy, candidate, stored),
        _ => keep_place(&mut next, stored),
    }
    keep_former_targets(&mut next, stored);
    match stored.filter(|stored| says_the_same(stored, &next)) {
        Some(stored) => {
            next.decided_at = stored.decided_at;
            next.announced = stored.announced;
            next.target_tag.clone_from(&stored.target_tag);
            next.note.clone_from(&stored.note);
            next.schema = stored.schema;
        }
        // Waiting is no refusal, and nobody can be told of a target that there is not.
        None => {
            next.announced = next.outcome() == DecisionOutcome::Wait || next.target.is_empty();
        }
    }
    next
}

/// Adds what the policy accepts of the packages that the scanner matched nothing in.
fn with_accepted(policy: &Policy, input: DecisionInput) -> DecisionInput {
    let unmatched = input.unmatched.iter().map(String::as_str);
    let accepted = accepted(&policy.spec, unmatched);
    DecisionInput {
        accepted: accepted.into_iter().map(ToOwned::to_owned).collect(),
        ..input
    }
}

/// Says whether a decision rests on something that is known to be wrong with the image.
///
/// A scan that failed, or that is missing, denies a promotion, but is no reason to take one back.
pub(crate) fn is_known_to_fail(decision: &Decision) -> bool {
    decision.outcome() == DecisionOutcome::Deny
        && decision.reasons.iter().any(|reason| {
            let is_about_it = ![COVERAGE, SOAK, IMMUTABLE].contains(&&*reason.rule);
            !reason.passed && !reason.undetermined && is_about_it
        })
}

/// Returns the revision of the policy that allowed an image last; before it was stored, only who allows now knew it.
fn allowed_revision(stored: &Decision) -> u64 {
    match stored.allowed_revision {
        0 if stored.outcome() == DecisionOutcome::Allow => stored.policy_revision,
        revision => revision,
    }
}

/// Says whether an image may not stand where it was promoted to: something is wrong with it, or the policy was changed
/// and does not allow it as it is now.
pub(crate) fn no_longer_passes(decision: &Decision) -> bool {
    is_known_to_fail(decision)
        || (decision.outcome() != DecisionOutcome::Allow
            && decision.promoted_at.is_some()
            && allowed_revision(decision) != decision.policy_revision)
}

/// Makes the decision that ends a stored one whose policy decides no more; one that was ended so before stays as it is.
pub(crate) fn ended(stored: &Decision, why: &str, now: DateTime<Utc>) -> Decision {
    let reasons = vec![Reason {
        rule: POLICY.to_owned(),
        detail: shortened(why),
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
        announced: stored.target.is_empty(),
        wait_until: None,
        note: String::new(),
        allowed_revision: allowed_revision(stored),
        ..stored.clone()
    }
}

/// Says whether a decision was ended because its policy decides no more.
pub(crate) fn is_ended(decision: &Decision) -> bool {
    let mut rules = decision.reasons.iter();
    decision.outcome() == DecisionOutcome::Deny && rules.any(|reason| reason.rule == POLICY)
}

/// Says whether a decision was ended, for this reason.
pub(crate) fn is_ended_for(decision: &Decision, why: &str) -> bool {
    is_ended(decision)
        && decision
            .reasons
            .iter()
            .any(|reason| reason.detail == shortened(why))
}

/// Refuses what a policy allows elsewhere now, while its source tag does not name it any more, so that nothing brings it
/// there: it stands where it was promoted to before.
pub(crate) fn refuse_new_place(next: &mut Decision, stored: &Decision) {
    let place = format!("{}:{}", next.target, next.target_tag);
    next.outcome = DecisionOutcome::Deny.into();
    next.wait_until = None;
    next.reasons.push(Reason {
        rule: POLICY.to_owned(),
        detail: format!("policy `{}` leads to {place} now", next.policy),
        passed: false,
        undetermined: false,
    });
    next.promoted_at = stored.promoted_at;
    keep_place(next, Some(stored));
    next.former_targets.clone_from(&stored.former_targets);
    if says_the_same(stored, next) {
        next.decided_at = stored.decided_at;
        next.announced = stored.announced;
    } else {
        next.announced = false;
    }
}

/// Says whether an image may stand at a tag of a target because of a decision that was carried out.
pub(crate) fn stands_at(decision: &Decision, target: &str, tag: &str) -> bool {
    let is_there = decision.target == target && decision.target_tag == tag;
    let was_there = |former: &FormerTarget| former.target == target && former.target_tag == tag;
    (decision.promoted_at.is_some() && is_there) || decision.former_targets.iter().any(was_there)
}

/// Returns the targets in which an image may stand because of a decision, as entries name them.
pub(crate) fn targets_of(decision: &Decision) -> impl Iterator<Item = &str> {
    let is_promoted = decision.promoted_at.is_some();
    let former = decision.former_targets.iter();
    let targets = is_promoted.then_some(&*decision.target).into_iter();
    targets.chain(former.map(|former| former.target.as_str()))
}

/// Says whether an image may stand anywhere because of a decision.
pub(crate) fn stands(decision: &Decision) -> bool {
    targets_of(decision).next().is_some()
}

/// Says why an image does not pass about which nothing is known to be wrong.
pub(crate) fn why_unknown(decision: &Decision) -> String {
    let open = decision.reasons.iter().filter(|reason| !reason.passed);
    let open: Vec<_> = open
        .map(|reason| format!("{} ({})", reason.rule, reason.detail))
        .collect();
    shortened(&format!(
        "policy `{}` was changed and does not allow it as it is now: {}",
        decision.policy,
        open.join("; ")
    ))
}

/// Names the rules that failed, for people.
pub(crate) fn why(decision: &Decision) -> String {
    let failed: Vec<String> = decision
        .reasons
        .iter()
        .filter(|reason| !reason.passed && !reason.undetermined)
        .map(|reason| format!("{} ({})", reason.rule, reason.detail))
        .collect();
    shortened(&failed.join("; "))
}

/// Returns when a decision was made, which tells its facts from those of the next one.
pub(crate) fn decided_at(decision: &Decision) -> DateTime<Utc> {
    time_from_wire(decision.decided_at.as_ref()).unwrap_or_default()
}

fn judged(next: &mut Decision, judgement: Judgement) {
    next.target = judgement.target.stored();
    next.target_tag = judgement.target_tag.to_string();
    let (outcome, wait_until) = match judgement.outcome {
        Outcome::Allow => (DecisionOutcome::Allow, None),
        Outcome::Deny => (DecisionOutcome::Deny, None),
        Outcome::Wait { until } => (DecisionOutcome::Wait, Some(time_to_wire(until))),
        Outcome::Undetermined => (DecisionOutcome::Undetermined, None),
    };
    next.outcome = outcome.into();
    next.wait_until = wait_until;
    next.reasons = judgement
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

/// Gives an allowed image its place: the one it has, or one made of the time of this decision.
fn place(next: &mut Decision, policy: &Policy, candidate: &Candidate, stored: Option<&Decision>) {
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

/// Remembers where an image stands that is no longer allowed, or about which nothing can be told now.
fn keep_place(next: &mut Decision, stored: Option<&Decision>) {
    let Some(stored) = stored.filter(|stored| stored.promoted_at.is_some()) else {
        return;
    };
    next.promoted_at = stored.promoted_at;
    next.flagged.clone_from(&stored.flagged);
    next.target.clone_from(&stored.target);
    next.target_tag.clone_from(&stored.target_tag);
}

/// Remembers where a policy led to before it was changed, as long as the image may stand there.
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

/// Says whether two decisions come to the same for whoever is told.
///
/// A newer database that finds the same is nothing new. An image that stays allowed keeps its place whatever it is that
/// a newer scan finds; one that stays refused is told again when the findings or the failing rules are others.
fn says_the_same(stored: &Decision, next: &Decision) -> bool {
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

fn shortened(text: &str) -> String {
    if text.chars().count() <= MAX_DETAIL {
        return text.to_owned();
    }
    let kept: String = text.chars().take(MAX_DETAIL).collect();
    format!("{kept} ...")
}

/// Writes an error with what led to it.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    shortened(&text)
}

#[cfg(test)]
mod tests;
