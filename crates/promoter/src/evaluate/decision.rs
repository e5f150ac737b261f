//! What a stored decision says: whether it allows, where its image was promoted to, and which rules failed.
//!
//! `evaluate.rs` stores it; `targets/pending_events.rs` notes in it that its event was published.

use chrono::{DateTime, SecondsFormat, Utc};
use sluice_events::commands::JudgeImage;
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome, FormerTarget, TagEntry};
use sluice_state::key;

/// The longest detail of a reason that is stored and published, in characters.
const MAX_DETAIL: usize = 1_000;
/// The rules that fail because nothing is known about the image; they never take an image back.
const COVERAGE: &str = "coverage";
/// The rule that an image waits for its soak time.
pub(super) const SOAK: &str = "soak";
/// The rule that the tags of an immutable target keep what they name.
pub(super) const IMMUTABLE: &str = "immutable";
/// The rule that a policy still decides on the image, and leads to the target that has it.
pub(super) const POLICY: &str = "policy";

/// Says whether a decision refuses an image for a rule that is known to fail.
///
/// A scan that failed, or that is missing, denies a promotion, but is no reason to take one back.
pub(crate) fn is_known_to_fail(decision: &Decision) -> bool {
    decision.outcome() == DecisionOutcome::Deny
        && decision.reasons.iter().any(|reason| {
            let is_about_image = ![COVERAGE, SOAK, IMMUTABLE].contains(&&*reason.rule);
            !reason.passed && !reason.undetermined && is_about_image
        })
}

/// Returns the revision of the policy that allowed an image last. Decisions of older versions have it only while they
/// allow.
pub(super) fn allowed_revision(stored: &Decision) -> u64 {
    match stored.allowed_revision {
        0 if stored.outcome() == DecisionOutcome::Allow => stored.policy_revision,
        revision => revision,
    }
}

/// Says whether an image may not stay where it was promoted to: a rule is known to fail, or the policy was changed and
/// does not allow the image as it is now.
pub(crate) fn no_longer_passes(decision: &Decision) -> bool {
    is_known_to_fail(decision)
        || (decision.outcome() != DecisionOutcome::Allow
            && decision.promoted_at.is_some()
            && allowed_revision(decision) != decision.policy_revision)
}

/// Says whether a decision was ended because its policy does not decide on the image any more.
pub(crate) fn is_ended(decision: &Decision) -> bool {
    let mut rules = decision.reasons.iter();
    decision.outcome() == DecisionOutcome::Deny && rules.any(|reason| reason.rule == POLICY)
}

/// Says whether a decision was ended for this reason.
pub(crate) fn is_ended_for(decision: &Decision, reason: &str) -> bool {
    is_ended(decision)
        && decision
            .reasons
            .iter()
            .any(|rule| rule.detail == shortened(reason))
}

/// Says whether an image may be at a tag of a target because a decision was carried out.
pub(crate) fn is_promoted_to(decision: &Decision, target: &str, tag: &str) -> bool {
    let is_there = decision.target == target && decision.target_tag == tag;
    let was_there = |former: &FormerTarget| former.target == target && former.target_tag == tag;
    (decision.promoted_at.is_some() && is_there) || decision.former_targets.iter().any(was_there)
}

/// Returns the targets that may have an image because of a decision, as entries name them.
pub(crate) fn targets_of(decision: &Decision) -> impl Iterator<Item = &str> {
    let is_promoted = decision.promoted_at.is_some();
    let former = decision.former_targets.iter();
    let targets = is_promoted.then_some(&*decision.target).into_iter();
    targets.chain(former.map(|former| former.target.as_str()))
}

/// Says whether a target may have an image because of a decision.
pub(crate) fn is_in_any_target(decision: &Decision) -> bool {
    targets_of(decision).next().is_some()
}

/// Lists the rules that are open, for an image that does not pass although no rule is known to fail.
pub(crate) fn open_rules(decision: &Decision) -> String {
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

/// Lists the rules that failed.
pub(crate) fn failed_rules(decision: &Decision) -> String {
    let failed: Vec<String> = decision
        .reasons
        .iter()
        .filter(|reason| !reason.passed && !reason.undetermined)
        .map(|reason| format!("{} ({})", reason.rule, reason.detail))
        .collect();
    shortened(&failed.join("; "))
}

/// Returns when a decision was made, which distinguishes its events from those of the next one.
pub(crate) fn decided_at(decision: &Decision) -> DateTime<Utc> {
    time_from_wire(decision.decided_at.as_ref()).unwrap_or_default()
}

/// Returns the occurrence of the events of a decision; the same whatever message leads to them.
pub(crate) fn occurrence(decision: &Decision) -> String {
    decided_at(decision).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// Returns the command that evaluates the image of a decision again.
pub(crate) fn evaluation_command(decision: &Decision) -> Option<JudgeImage> {
    Some(JudgeImage {
        repository: decision.repository.parse().ok()?,
        tag: decision.tag.parse().ok()?,
        digest: decision.digest.parse().ok()?,
    })
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

/// Says whether a tag names the image of a decision, and is not claimed.
pub(crate) fn is_settled(entry: &TagEntry, decision: &Decision) -> bool {
    entry.claim.is_none() && entry.digest == decision.digest
}

/// Says whether a tag names what the policy of a decision promoted from the same source.
pub(crate) fn is_promoted_by(entry: &TagEntry, decision: &Decision) -> bool {
    entry.promoted_from.as_ref().is_some_and(|from| {
        from.policy == decision.policy
            && from.repository == decision.repository
            && from.tag == decision.tag
    })
}

pub(super) fn shortened(text: &str) -> String {
    if text.chars().count() <= MAX_DETAIL {
        return text.to_owned();
    }
    let kept: String = text.chars().take(MAX_DETAIL).collect();
    format!("{kept} ...")
}
