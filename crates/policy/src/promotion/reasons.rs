//! Words the reasons of an evaluation, so that a person sees which rule decided and on which values.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sluice_domain::resources::PromotionPolicy;
use sluice_domain::{Coverage, Platform};

use super::candidate::{Candidate, ChildFacts};
use super::evaluation::Reason;
use crate::condition::{CompiledCondition, ConditionOutcome, ConditionResult, Term};

/// The rule of the soak time; failing it means to wait.
pub(super) const SOAK: &str = "soak";
/// The rule that a scanner must have seen everything.
const COVERAGE: &str = "coverage";

/// Returns the kinds of packages that a policy accepts although the scanner matched nothing in them.
pub fn accepted_kinds<'a>(
    policy: &PromotionPolicy,
    unmatched: impl Iterator<Item = &'a str>,
) -> BTreeSet<&'a str> {
    let allow = &policy.coverage.allow;
    unmatched
        .filter(|kind| allow.iter().any(|allowed| allowed.as_str() == *kind))
        .collect()
}

/// Says which runnable images there are; an index without any is denied.
pub(super) fn runnable(candidate: &Candidate) -> Reason {
    let detail = if candidate.children.is_empty() {
        "there is no runnable image".to_owned()
    } else {
        labels(candidate)
    };
    Reason {
        rule: "runnable".to_owned(),
        passed: Some(!candidate.children.is_empty()),
        detail,
    }
}

/// Says what the scanner saw of one image; unknown is not clean.
pub(super) fn coverage(policy: &PromotionPolicy, child: &ChildFacts) -> Reason {
    let accepted = accepted_kinds(policy, child.unmatched());
    let uncovered: Vec<&str> = child
        .unmatched()
        .filter(|kind| !accepted.contains(kind))
        .collect();
    let detail = match &child.verdict {
        None => "it has no scan result".to_owned(),
        Some(verdict) => {
            let because = verdict
                .reason
                .as_deref()
                .map(|reason| format!(" ({reason})"))
                .unwrap_or_default();
            let os = verdict
                .scan
                .os
                .as_deref()
                .unwrap_or("no operating system recognised");
            let packages = verdict.scan.packages;
            match verdict.status {
                Coverage::Failed => format!("the scan failed{because}"),
                Coverage::Unsupported => format!(
                    "the scanner does not understand the content{because}: {os}, {packages} packages"
                ),
                Coverage::Covered if packages == 0 => {
                    format!("the scanner saw no packages{because}: {os}, 0 packages")
                }
                Coverage::Covered if verdict.scan.end_of_life => {
                    format!(
                        "{os}, {packages} packages; the system is past its end of life, findings may be missing"
                    )
                }
                Coverage::Covered => format!("{os}, {packages} packages"),
            }
        }
    };
    let unmatched = if uncovered.is_empty() {
        String::new()
    } else {
        let kinds = uncovered.join(", ");
        format!(
            "; the scanner lists packages without matching them: {kinds} (`coverage: {{allow: [{kinds}]}}` accepts that)"
        )
    };
    Reason {
        rule: COVERAGE.to_owned(),
        passed: Some(child.usable_scan().is_some() && uncovered.is_empty()),
        detail: format!("{}: {detail}{unmatched}", label(child)),
    }
}

/// Says which kinds of packages the policy accepted although the scanner matched nothing in them.
pub(super) fn accepted(policy: &PromotionPolicy, candidate: &Candidate) -> Option<Reason> {
    let unmatched = candidate.children.iter().flat_map(ChildFacts::unmatched);
    let kinds = Vec::from_iter(accepted_kinds(policy, unmatched)).join(", ");
    (!kinds.is_empty()).then(|| Reason {
        rule: COVERAGE.to_owned(),
        passed: Some(true),
        detail: format!("{kinds} accepted by the policy"),
    })
}

/// Says of each required platform whether the image has it.
pub(super) fn platforms(required: &[Platform], candidate: &Candidate) -> Vec<Reason> {
    let reason = |wanted: &Platform| {
        let present = candidate
            .children
            .iter()
            .filter_map(|child| child.platform.as_ref())
            .any(|platform| platform.satisfies(wanted));
        let detail = if present {
            format!("{wanted} is present")
        } else {
            format!("{wanted} is missing; there is {}", labels(candidate))
        };
        Reason {
            rule: "require.platforms".to_owned(),
            passed: Some(present),
            detail,
        }
    };
    required.iter().map(reason).collect()
}

/// Says of each term of the condition whether it holds, with the values of every image.
pub(super) fn condition(
    compiled: &CompiledCondition,
    evaluated: &[(&ChildFacts, ConditionResult)],
) -> Vec<Reason> {
    let Some((_, first)) = evaluated.first() else {
        return Vec::new();
    };
    let mut reasons: Vec<Reason> = (0..first.terms.len())
        .map(|index| {
            let terms: Vec<(&ChildFacts, &Term)> = evaluated
                .iter()
                .filter_map(|(child, outcome)| Some((*child, outcome.terms.get(index)?)))
                .collect();
            let details: Vec<String> = terms
                .iter()
                .map(|(child, term)| format!("{}: {}", label(child), term_detail(term)))
                .collect();
            Reason {
                rule: first
                    .terms
                    .get(index)
                    .map(|term| term.text.clone())
                    .unwrap_or_default(),
                passed: all(terms.iter().map(|(_, term)| term.passed)),
                detail: details.join("; "),
            }
        })
        .collect();
    // The terms explain; what decides is the condition as a whole.
    let whole = all(evaluated.iter().map(|(_, outcome)| match outcome.outcome {
        ConditionOutcome::True => Some(true),
        ConditionOutcome::False => Some(false),
        ConditionOutcome::Undetermined(_) => None,
    }));
    if whole != all(reasons.iter().map(|reason| reason.passed)) {
        reasons.push(Reason {
            rule: compiled.text().to_owned(),
            passed: whole,
            detail: "the condition as a whole".to_owned(),
        });
    }
    reasons
}

/// Says whether no image has unrated findings.
pub(super) fn no_unknown(rule: &str, is_implied: bool, candidate: &Candidate) -> Reason {
    let counts = || {
        candidate
            .children
            .iter()
            .map(|child| (child, child.usable_scan().map(|scan| scan.counts.unknown)))
    };
    let details: Vec<String> = counts()
        .map(|(child, count)| match count {
            Some(count) => format!("{}: scan.unknown = {count}", label(child)),
            None => format!("{}: there is no usable scan result", label(child)),
        })
        .collect();
    Reason {
        rule: if is_implied {
            format!("{rule} (implied; `unknown: allow` lifts it)")
        } else {
            format!("{rule} (`unknown: deny`)")
        },
        passed: all(counts().map(|(_, count)| count.map(|count| count == 0))),
        detail: details.join("; "),
    }
}

/// Writes a time for a reason.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn term_detail(term: &Term) -> String {
    match (&term.error, term.values.as_slice()) {
        (Some(error), []) => error.clone(),
        (Some(error), values) => format!("{error} ({})", values.join(", ")),
        (None, []) => term
            .passed
            .map_or_else(String::new, |passed| passed.to_string()),
        (None, values) => values.join(", "),
    }
}

fn labels(candidate: &Candidate) -> String {
    candidate
        .children
        .iter()
        .map(label)
        .collect::<Vec<_>>()
        .join(", ")
}

fn label(child: &ChildFacts) -> String {
    match &child.platform {
        Some(platform) => platform.to_string(),
        None => format!("image {}", child.digest.short()),
    }
}

/// Joins results as `&&` does: one `false` is `false`, else one unknown is unknown.
fn all(answers: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut joined = Some(true);
    for answer in answers {
        match answer {
            Some(false) => return Some(false),
            None => joined = None,
            Some(true) => {}
        }
    }
    joined
}
