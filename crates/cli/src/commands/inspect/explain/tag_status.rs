//! The current verdicts and decisions on an image, from the state.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sluice_domain::Target;
use sluice_events::time_from_wire;
use sluice_events::wire::events::{Reason, SeverityCounts};
use sluice_events::wire::state::{
    Decision, DecisionOutcome, ImageChild, TagEntry, Verdict, VerdictStatus,
};
use sluice_state::State;

use crate::output::{Section, time};

/// The header of [`verdict_row`].
pub(in crate::commands::inspect) const SCANS_HEADER: [&str; 11] = [
    "PLATFORM", "STATUS", "CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN", "PACKAGES", "SYSTEM",
    "DATABASE", "REASON",
];

/// The verdicts on the current digest of a tag, and every decision on the tag.
pub(super) struct TagStatus {
    digest: String,
    verdicts: Vec<(ImageChild, Option<Verdict>)>,
    decisions: Vec<Decision>,
}

/// Returns the time of a decision.
pub(super) fn decided_at(decision: &Decision) -> Option<DateTime<Utc>> {
    time_from_wire(decision.decided_at.as_ref())
}

impl TagStatus {
    /// Reads the status of a tag; of a deleted tag, that of the digest of the last decision.
    pub(super) async fn read(
        state: &State,
        entry: Option<&TagEntry>,
        decisions: Vec<Decision>,
    ) -> anyhow::Result<Self> {
        let digest = entry
            .map(|entry| entry.digest.clone())
            .filter(|digest| !digest.is_empty())
            .or_else(|| decisions.first().map(|decision| decision.digest.clone()))
            .unwrap_or_default();
        let verdicts = match digest.parse() {
            Ok(digest) => state.verdicts_on(&digest).await?,
            Err(_) => Vec::new(),
        };
        Ok(Self {
            digest,
            verdicts,
            decisions,
        })
    }

    /// Returns the tables.
    pub(super) fn sections(&self) -> Vec<Section> {
        let of_this = |decision: &&Decision| decision.digest == self.digest;
        let rules = self.decisions.iter().filter(of_this).flat_map(|decision| {
            let row = |reason: &Reason| {
                vec![
                    decision.policy.clone(),
                    reason.rule.clone(),
                    result(reason).to_owned(),
                    reason.detail.clone(),
                ]
            };
            decision.reasons.iter().map(row)
        });
        vec![
            Section {
                title: "SCANS",
                header: &SCANS_HEADER,
                rows: self
                    .verdicts
                    .iter()
                    .map(|(child, verdict)| verdict_row(child, verdict.as_ref()))
                    .collect(),
            },
            Section {
                title: "DECISIONS",
                header: &["POLICY", "OUTCOME", "TARGET", "DIGEST", "DECIDED", "NOTE"],
                rows: self
                    .decisions
                    .iter()
                    .map(|decision| decision_row(decision, &self.digest))
                    .collect(),
            },
            Section {
                title: "RULES",
                header: &["POLICY", "RULE", "RESULT", "DETAIL"],
                rows: rules.collect(),
            },
        ]
    }

    /// Adds verdicts and decisions to an object.
    pub(super) fn add_to(&self, objects: &mut Value) {
        if let Some(objects) = objects.as_object_mut() {
            let verdicts = self.verdicts.iter().map(verdict_json).collect();
            objects.insert("verdicts".to_owned(), Value::Array(verdicts));
            let decisions = self.decisions.iter().map(decision_json).collect();
            objects.insert("decisions".to_owned(), Value::Array(decisions));
        }
    }
}

/// Returns what a scan came to, in words.
pub(in crate::commands::inspect) fn scan_status(verdict: Option<&Verdict>) -> &'static str {
    match verdict.map(Verdict::status) {
        None => "not scanned",
        Some(VerdictStatus::Covered) => "covered",
        Some(VerdictStatus::Unsupported) => "unsupported",
        Some(VerdictStatus::Failed) => "failed",
        Some(VerdictStatus::Unspecified) => "unknown",
    }
}

fn outcome(decision: &Decision) -> &'static str {
    match decision.outcome() {
        DecisionOutcome::Allow => "allowed",
        DecisionOutcome::Deny => "denied",
        DecisionOutcome::Wait => "waits",
        DecisionOutcome::Undetermined => "undetermined",
        DecisionOutcome::Unspecified => "unknown",
    }
}

const fn result(reason: &Reason) -> &'static str {
    match (reason.passed, reason.undetermined) {
        (true, _) => "passed",
        (false, true) => "undetermined",
        (false, false) => "failed",
    }
}

/// Returns the row of a scan.
pub(in crate::commands::inspect) fn verdict_row(
    child: &ImageChild,
    verdict: Option<&Verdict>,
) -> Vec<String> {
    let counts = verdict.and_then(|verdict| verdict.counts);
    let count = |count: fn(&SeverityCounts) -> u64| {
        counts
            .as_ref()
            .map_or_else(|| "-".to_owned(), |counts| count(counts).to_string())
    };
    let text = |text: fn(&Verdict) -> String| verdict.map(text).unwrap_or_default();
    let system = |verdict: &Verdict| {
        let end = if verdict.end_of_life {
            " (end of life)"
        } else {
            ""
        };
        let os = if verdict.os.is_empty() {
            "none"
        } else {
            &verdict.os
        };
        format!("{os}{end}")
    };
    vec![
        platform(child),
        scan_status(verdict).to_owned(),
        count(|counts| counts.critical),
        count(|counts| counts.high),
        count(|counts| counts.medium),
        count(|counts| counts.low),
        count(|counts| counts.unknown),
        text(|verdict| verdict.packages.to_string()),
        text(system),
        text(|verdict| verdict.database_version.clone()),
        text(reason),
    ]
}

fn reason(verdict: &Verdict) -> String {
    if verdict.unmatched.is_empty() {
        return verdict.reason.clone();
    }
    let kinds = verdict.unmatched.join(", ");
    let never = format!("never matched by the scanner: {kinds}");
    [verdict.reason.clone(), never]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

fn platform(child: &ImageChild) -> String {
    if child.platform.is_empty() {
        short(&child.digest)
    } else {
        child.platform.clone()
    }
}

fn short(digest: &str) -> String {
    digest.chars().take("sha256:".len() + 12).collect()
}

fn decision_row(decision: &Decision, current: &str) -> Vec<String> {
    let mut notes = Vec::new();
    if decision.digest != current {
        notes.push("the tag has moved since".to_owned());
    }
    if !decision.flagged.is_empty() {
        notes.push(format!("flagged: {}", decision.flagged));
    } else if decision.promoted_at.is_some() && decision.outcome() != DecisionOutcome::Allow {
        notes.push("promoted before".to_owned());
    }
    for former in &decision.former_targets {
        let former_tag = format!("{}:{}", former.target, former.target_tag);
        notes.push(match former.flagged.as_str() {
            "" => format!("also at {former_tag}, a former target of the policy"),
            reason => format!("also at {former_tag}, flagged: {reason}"),
        });
    }
    if let Some(until) = time_from_wire(decision.wait_until.as_ref()).map(time) {
        notes.push(format!("until {until}"));
    }
    if !decision.published {
        notes.push("pending".to_owned());
    }
    if !decision.note.is_empty() {
        notes.push(decision.note.clone());
    }
    let target = match target(decision) {
        Some(target) => format!("{target}:{}", decision.target_tag),
        None => String::new(),
    };
    vec![
        decision.policy.clone(),
        outcome(decision).to_owned(),
        target,
        short(&decision.digest),
        time_from_wire(decision.decided_at.as_ref())
            .map(time)
            .unwrap_or_default(),
        notes.join(", "),
    ]
}

/// Returns the target, unless it is invalid.
fn target(decision: &Decision) -> Option<Target> {
    Target::from_stored(&decision.target).ok()
}

fn counts_json(counts: Option<SeverityCounts>) -> Value {
    json!(counts.map(sluice_domain::SeverityCounts::from))
}

fn verdict_json((child, verdict): &(ImageChild, Option<Verdict>)) -> Value {
    let mut object = json!({
        "platform": child.platform, "digest": child.digest, "status": scan_status(verdict.as_ref()),
    });
    if let (Some(verdict), Some(object)) = (verdict, object.as_object_mut()) {
        let more = json!({
            "scanner": verdict.scanner, "databaseVersion": verdict.database_version, "reason": verdict.reason,
            "counts": counts_json(verdict.counts), "packages": verdict.packages, "os": verdict.os,
            "endOfLife": verdict.end_of_life, "scannedAt": time_from_wire(verdict.scanned_at.as_ref()).map(time),
            "reportKey": verdict.report_key, "unmatched": verdict.unmatched,
        });
        object.extend(more.as_object().cloned().unwrap_or_default());
    }
    object
}

fn decision_json(decision: &Decision) -> Value {
    json!({
        "policy": decision.policy, "digest": decision.digest, "outcome": outcome(decision),
        "target": target(decision).map(|target| target.to_string()).unwrap_or_default(), "targetTag": decision.target_tag, "published": decision.published,
        "decidedAt": time_from_wire(decision.decided_at.as_ref()).map(time), "waitUntil": time_from_wire(decision.wait_until.as_ref()).map(time),
        "promotedAt": time_from_wire(decision.promoted_at.as_ref()).map(time), "flagged": decision.flagged,
        "note": decision.note,
        "reasons": decision.reasons.iter().map(|reason| json!({
            "rule": reason.rule, "result": result(reason), "detail": reason.detail,
        })).collect::<Vec<_>>(),
        "inputs": decision.inputs.iter().map(|input| json!({
            "platform": input.platform, "digest": input.digest, "scanner": input.scanner,
            "databaseVersion": input.database_version, "counts": counts_json(input.counts),
            "packages": input.packages, "os": input.os, "unmatched": input.unmatched,
            "accepted": input.accepted,
        })).collect::<Vec<_>>(),
    })
}
