//! Decisions over time: what is new, what keeps its time, and what recalls an image.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use sluice_domain::resources::{Resource, parse_documents};
use sluice_domain::{ChildVerdict, Coverage, ScanFacts, SeverityCounts};
use sluice_events::wire::events::SeverityCounts as WireCounts;
use sluice_events::wire::state::VerdictStatus;
use sluice_policy::condition::ImageFacts;
use sluice_policy::promotion::ChildFacts;

use super::*;
use crate::evaluate::decision::{decided_at, failed_rules, is_known_to_fail};

fn policy(more: &str) -> Policy {
    let text = format!(
        "kind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: official/{{name}}\nwhen: scan.critical == 0\n{more}"
    );
    match parse_documents(&text).unwrap().remove(0).resource {
        Resource::PromotionPolicy(spec) => Policy { spec, revision: 3 },
        other => panic!("{other:?}"),
    }
}

fn digest() -> Digest {
    format!("sha256:{}", "a".repeat(64)).parse().unwrap()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

const MONDAY: &str = "2026-11-23T10:00:00.123456789Z";
const TUESDAY: &str = "2026-11-24T10:00:00Z";

/// An image with so many critical findings, or none at all that a scanner could see.
fn image(critical: Option<u64>, now: &str) -> (Candidate, Vec<DecisionInput>) {
    let counts = |critical| SeverityCounts {
        critical,
        ..SeverityCounts::default()
    };
    let status = match critical {
        Some(_) => (Coverage::Covered, VerdictStatus::Covered),
        None => (Coverage::Failed, VerdictStatus::Failed),
    };
    let candidate = Candidate {
        repository: "hub/app".parse().unwrap(),
        tag: "1.0".parse().unwrap(),
        digest: digest(),
        children: vec![ChildFacts {
            platform: None,
            digest: digest(),
            verdict: Some(ChildVerdict {
                status: status.0,
                scan: ScanFacts {
                    counts: counts(critical.unwrap_or_default()),
                    packages: 10,
                    ..ScanFacts::default()
                },
                reason: None,
                unmatched: BTreeSet::new(),
            }),
            image: ImageFacts::default(),
        }],
        first_seen_at: Some(at(MONDAY)),
        arrived_at: Some(at(MONDAY)),
        decided_at: at(now),
    };
    let input = DecisionInput {
        digest: digest().to_string(),
        status: status.1.into(),
        packages: 10,
        database_version: now.to_owned(),
        counts: critical.map(|critical| WireCounts {
            critical,
            ..Default::default()
        }),
        ..Default::default()
    };
    (candidate, vec![input])
}

fn decided(
    policy: &Policy,
    critical: Option<u64>,
    now: &str,
    stored: Option<&Decision>,
) -> Decision {
    let (candidate, inputs) = image(critical, now);
    decide(policy, &candidate, inputs, stored, None)
}

/// The decision once it was published.
fn published(mut decision: Decision) -> Decision {
    decision.published = true;
    decision
}

#[test]
fn a_repeat_keeps_the_time_and_with_it_the_tag_of_the_template() {
    let policy = policy("tag: '%n-%Y%m%d'\n");
    let first = decided(&policy, Some(0), MONDAY, None);
    assert_eq!(first.outcome(), DecisionOutcome::Allow);
    assert_eq!(first.target_tag, "1.0-20261123");
    assert!(!first.published && first.promoted_at == first.decided_at);
    assert_eq!(decided_at(&first), at(MONDAY), "the time loses nothing");
    // After a crash the second attempt is on another day.
    let again = decided(&policy, Some(0), TUESDAY, Some(&first));
    assert_eq!(again.target_tag, "1.0-20261123");
    assert_eq!(again.decided_at, first.decided_at);
    assert!(!again.published, "it still has to be published");
    assert!(decided(&policy, Some(0), TUESDAY, Some(&published(first))).published);
}

#[test]
fn another_target_is_another_decision() {
    let first = published(decided(&policy("tag: '%n-%Y'\n"), Some(0), MONDAY, None));
    let other = decided(&policy("tag: 'v%n'\n"), Some(0), TUESDAY, Some(&first));
    assert_eq!(other.target_tag, "v1.0");
    assert!(!other.published);
    assert_eq!(decided_at(&other), at(TUESDAY));
}

#[test]
fn a_refusal_is_published_again_only_when_its_findings_or_rules_changed() {
    let policy = policy("");
    let first = published(decided(&policy, Some(2), MONDAY, None));
    assert_eq!(first.outcome(), DecisionOutcome::Deny);
    let same = decided(&policy, Some(2), TUESDAY, Some(&first));
    assert!(same.published && same.decided_at == first.decided_at);
    assert_eq!(
        same.inputs[0].database_version, TUESDAY,
        "it says what it knew last"
    );
    let more = decided(&policy, Some(3), TUESDAY, Some(&first));
    assert!(!more.published && decided_at(&more) == at(TUESDAY));
}

#[test]
fn only_a_rule_that_is_known_to_fail_recalls_an_image() {
    let policy = policy("");
    let promoted = published(decided(&policy, Some(0), MONDAY, None));
    for (critical, known) in [(Some(1), true), (None, false)] {
        let denied = decided(&policy, critical, TUESDAY, Some(&promoted));
        assert_eq!(denied.outcome(), DecisionOutcome::Deny, "{critical:?}");
        assert_eq!(is_known_to_fail(&denied), known, "{critical:?}");
        assert_eq!(
            denied.promoted_at, promoted.promoted_at,
            "the decision still has its target"
        );
    }
    assert!(failed_rules(&decided(&policy, Some(1), TUESDAY, None)).contains("scan.critical == 0"));
}

#[test]
fn an_image_that_is_allowed_again_keeps_its_target_tag_and_loses_its_flag() {
    let policy = policy("tag: '%n-%d'\n");
    let promoted = published(decided(&policy, Some(0), MONDAY, None));
    let mut denied = published(decided(&policy, Some(1), TUESDAY, Some(&promoted)));
    denied.flagged = "one critical".to_owned();
    let still = decided(&policy, Some(2), TUESDAY, Some(&denied));
    assert_eq!(still.flagged, "one critical");
    assert_eq!(still.target_tag, "1.0-23");
    let again = decided(&policy, Some(0), TUESDAY, Some(&denied));
    assert_eq!(
        (again.target_tag.as_str(), again.flagged.as_str()),
        ("1.0-23", "")
    );
    assert!(!again.published, "that it passes again is published");
    // Withdrawn, it comes anew.
    denied.promoted_at = None;
    let anew = decided(&policy, Some(0), TUESDAY, Some(&denied));
    assert_eq!(anew.target_tag, "1.0-24");
}

#[test]
fn waiting_is_not_published_and_ends_in_a_new_decision() {
    let policy = policy("soak: 1h\n");
    let first = decided(&policy, Some(0), MONDAY, None);
    assert_eq!(first.outcome(), DecisionOutcome::Wait);
    assert!(first.published);
    assert_eq!(
        time_from_wire(first.wait_until.as_ref()),
        Some(at(MONDAY) + TimeDelta::hours(1))
    );
    assert!(first.promoted_at.is_none());
    let done = decided(&policy, Some(0), TUESDAY, Some(&first));
    assert_eq!(done.outcome(), DecisionOutcome::Allow);
    assert!(!done.published && done.wait_until.is_none());
}

#[test]
fn an_undetermined_decision_promotes_nothing_and_recalls_nothing() {
    let open = policy("require: { platforms: [] }\n");
    let mut open = open;
    open.spec.when = Some(sluice_domain::resources::Condition(
        "image.labels.team == 'web'".to_owned(),
    ));
    let promoted = published(decided(&policy(""), Some(0), MONDAY, None));
    let decision = decided(&open, Some(0), TUESDAY, Some(&promoted));
    assert_eq!(decision.outcome(), DecisionOutcome::Undetermined);
    assert!(!decision.published && !is_known_to_fail(&decision));
    assert_eq!(decision.promoted_at, promoted.promoted_at);
}

#[test]
fn a_policy_that_makes_no_target_is_a_decision_with_its_reason() {
    let mut policy = policy("");
    policy.spec.to = "{org}/{name}/{repository}".parse().unwrap();
    let (mut candidate, inputs) = image(Some(0), MONDAY);
    candidate.repository = "alpine".parse().unwrap();
    let decision = decide(&policy, &candidate, inputs, None, None);
    assert_eq!(decision.outcome(), DecisionOutcome::Undetermined);
    assert!(decision.published, "there is no target, so no event");
    assert!(decision.reasons[0].detail.contains("organisation"));
}

#[test]
fn an_image_whose_immutable_target_tag_keeps_another_is_refused_once_and_not_recalled() {
    let policy = policy("");
    let other = format!("sha256:{}", "b".repeat(64)).parse().unwrap();
    let kept = |stored: Option<&Decision>, now| {
        let (candidate, inputs) = image(Some(0), now);
        decide(&policy, &candidate, inputs, stored, Some(&other))
    };
    let first = kept(None, MONDAY);
    assert_eq!(first.outcome(), DecisionOutcome::Deny);
    assert!(!is_known_to_fail(&first));
    assert!(
        failed_rules(&first).contains("immutable"),
        "{}",
        failed_rules(&first)
    );
    let published = Decision {
        published: true,
        ..first
    };
    let again = kept(Some(&published), TUESDAY);
    assert_eq!(
        (again.decided_at, again.published),
        (published.decided_at, true)
    );
}

#[test]
fn was_allowed_is_kept_for_ever_and_a_note_only_while_the_decision_stays() {
    let policy = policy("");
    assert!(!decided(&policy, Some(1), MONDAY, None).was_allowed);
    let mut promoted = published(decided(&policy, Some(0), MONDAY, None));
    assert!(promoted.was_allowed);
    promoted.note = "the tag was overwritten".to_owned();
    let same = decided(&policy, Some(0), TUESDAY, Some(&promoted));
    assert_eq!(same.note, promoted.note);
    let mut denied = decided(&policy, Some(1), TUESDAY, Some(&promoted));
    assert!(denied.was_allowed && denied.note.is_empty());
    // Withdrawn, something of it may still be there.
    denied.promoted_at = None;
    assert!(decided(&policy, Some(2), TUESDAY, Some(&denied)).was_allowed);
}

#[test]
fn a_decision_keeps_the_unmatched_kinds_that_the_policy_accepted() {
    let (mut candidate, mut inputs) = image(Some(0), MONDAY);
    let kinds = ["conda-pkg", "fedora"].map(str::to_owned);
    inputs[0].unmatched = kinds.to_vec();
    for child in &mut candidate.children {
        child.verdict.as_mut().unwrap().unmatched = kinds.clone().into();
    }
    let strict = decide(&policy(""), &candidate, inputs.clone(), None, None);
    assert_eq!(strict.outcome(), DecisionOutcome::Deny);
    assert_eq!(strict.inputs[0].unmatched, kinds);
    assert!(strict.inputs[0].accepted.is_empty());
    let half = policy("coverage: {allow: [conda-pkg]}");
    let half = decide(&half, &candidate, inputs.clone(), None, None);
    assert_eq!(half.outcome(), DecisionOutcome::Deny);
    assert_eq!(half.inputs[0].accepted, ["conda-pkg"]);
    let both = policy("coverage: {allow: [fedora, conda-pkg, julia]}");
    let both = decide(&both, &candidate, inputs, None, None);
    assert_eq!(both.outcome(), DecisionOutcome::Allow);
    assert_eq!(both.inputs[0].accepted, kinds);
    let text = |reason: &Reason| format!("{}: {}", reason.rule, reason.detail);
    let reasons: Vec<_> = both.reasons.iter().map(text).collect();
    let accepted = "coverage: conda-pkg, fedora accepted by the policy";
    assert!(
        reasons.iter().any(|reason| reason == accepted),
        "{reasons:?}"
    );
}
