//! Evaluates whether an image may be promoted, and says why or why not.
//!
//! Every runnable child must pass. A child that no scanner covered never passes, whatever the condition says.

use chrono::{DateTime, TimeDelta, Utc};
use sluice_domain::resources::{PromotionPolicy, UnknownFindings};

use super::candidate::{Candidate, ChildFacts};
use super::compile::compiled;
use super::evaluation::{Error, PolicyEvaluation, PolicyOutcome, Reason};
use super::reasons;
use super::tag_template::TagTemplate;
use crate::condition::{CompiledCondition, ConditionResult, Facts};

/// The condition that every `when` implies unless it names unrated findings itself.
const NO_UNKNOWN: &str = "scan.unknown == 0";

/// Evaluates an image by an enabled policy whose `from` matches its repository.
///
/// # Errors
/// The policy makes no valid target for this image.
pub fn evaluate(
    policy: &PromotionPolicy,
    candidate: &Candidate,
) -> Result<PolicyEvaluation, Error> {
    let target = policy
        .to
        .render(&candidate.repository)
        .map_err(|source| Error::Target {
            policy: policy.name.to_string(),
            repository: candidate.repository.clone(),
            source,
        })?;
    let template: TagTemplate = policy.tag.parse().map_err(|source| Error::Template {
        policy: policy.name.to_string(),
        source,
    })?;
    let target_tag = template
        .render(&candidate.tag, candidate.decided_at)
        .map_err(|source| Error::TargetTag {
            policy: policy.name.to_string(),
            tag: candidate.tag.clone(),
            source,
        })?;
    let (outcome, reasons) = decide_outcome(policy, candidate);
    Ok(PolicyEvaluation {
        outcome,
        target,
        target_tag,
        reasons,
    })
}

/// Collects every reason, then decides: a failed rule denies, an open one leaves the outcome undetermined, and only then may
/// the image wait.
pub(super) fn decide_outcome(
    policy: &PromotionPolicy,
    candidate: &Candidate,
) -> (PolicyOutcome, Vec<Reason>) {
    let mut reasons = vec![reasons::runnable(candidate)];
    let coverage = |child| reasons::coverage(policy, child);
    reasons.extend(candidate.children.iter().map(coverage));
    reasons.extend(reasons::accepted(policy, candidate));
    reasons.extend(reasons::platforms(&policy.require.platforms, candidate));
    reasons.extend(condition_reasons(policy, candidate));
    let wait = soak(policy, candidate);
    reasons.extend(wait.iter().map(|(_, reason)| reason.clone()));
    let outcome = if reasons
        .iter()
        .any(|reason| reason.passed == Some(false) && reason.rule != reasons::SOAK)
    {
        PolicyOutcome::Deny
    } else if reasons.iter().any(|reason| reason.passed.is_none()) {
        PolicyOutcome::Undetermined
    } else {
        match wait {
            Some((Some(until), _)) => PolicyOutcome::Wait { until },
            _ => PolicyOutcome::Allow,
        }
    };
    (outcome, reasons)
}

fn condition_reasons(policy: &PromotionPolicy, candidate: &Candidate) -> Vec<Reason> {
    let no_unknown = || reasons::no_unknown(NO_UNKNOWN, policy.unknown.is_none(), candidate);
    let compiled = match compiled(policy) {
        Ok(None) if policy.unknown == Some(UnknownFindings::Deny) => return vec![no_unknown()],
        Ok(None) => return Vec::new(),
        Ok(Some(compiled)) => compiled,
        Err(problems) => {
            return vec![Reason {
                rule: "when".to_owned(),
                passed: None,
                detail: format!("the condition does not compile: {}", problems.join("; ")),
            }];
        }
    };
    let mut found = reasons::condition(&compiled, &evaluate_condition(&compiled, candidate));
    let names_unknown = compiled.names("scan.unknown");
    if policy.unknown != Some(UnknownFindings::Allow) && !names_unknown {
        found.push(no_unknown());
    }
    found
}

fn evaluate_condition<'c>(
    compiled: &CompiledCondition,
    candidate: &'c Candidate,
) -> Vec<(&'c ChildFacts, ConditionResult)> {
    let evaluate = |child: &'c ChildFacts| {
        let facts = Facts {
            tag: candidate.tag.as_str(),
            repository: candidate.repository.as_str(),
            platform: child.platform.as_ref(),
            scan: child.usable_scan(),
            image: &child.image,
            updated_at: candidate.arrived_at,
            now: candidate.decided_at,
        };
        (child, compiled.evaluate(&facts))
    };
    candidate.children.iter().map(evaluate).collect()
}

/// Returns when the soak time ends, if it has not, and the reason that says so.
fn soak(
    policy: &PromotionPolicy,
    candidate: &Candidate,
) -> Option<(Option<DateTime<Utc>>, Reason)> {
    let wanted = policy.soak?;
    let reason = |passed, detail| Reason {
        rule: reasons::SOAK.to_owned(),
        passed,
        detail,
    };
    let Some(first_seen_at) = candidate.first_seen_at else {
        return Some((
            None,
            reason(
                None,
                "when this digest was first seen is not known".to_owned(),
            ),
        ));
    };
    let ends_at = TimeDelta::from_std(wanted.duration())
        .ok()
        .and_then(|soak| first_seen_at.checked_add_signed(soak))
        .unwrap_or(DateTime::<Utc>::MAX_UTC);
    let seen = reasons::time(first_seen_at);
    Some(if candidate.decided_at < ends_at {
        let detail = format!(
            "first seen {seen}, {wanted} are over at {}",
            reasons::time(ends_at)
        );
        (Some(ends_at), reason(Some(false), detail))
    } else {
        (
            None,
            reason(
                Some(true),
                format!("first seen {seen}, more than {wanted} ago"),
            ),
        )
    })
}
