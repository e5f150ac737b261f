//! What is allowed, what is denied and on which values, and that unknown is never clean.

use std::collections::BTreeSet;

use proptest::prelude::*;
use sluice_domain::resources::{Condition, PromotionPolicy, Rule, UnknownFindings};
use sluice_domain::{ChildVerdict, Coverage, Digest, ScanFacts, SeverityCounts};

use super::*;
use crate::condition::ImageFacts;

fn policy(when: Option<&str>) -> PromotionPolicy {
    PromotionPolicy {
        name: "clean".parse().unwrap(),
        from: "hub/*".parse().unwrap(),
        to: "official/{name}".parse().unwrap(),
        tag: "%n-%Y%m%d".to_owned(),
        when: when.map(|text| Condition(text.to_owned())),
        rules: Vec::new(),
        unknown: None,
        coverage: sluice_domain::resources::CoverageRule::default(),
        soak: None,
        require: sluice_domain::resources::Require::default(),
        recall: sluice_domain::resources::Recall::Flag,
        shares_target: false,
        enabled: true,
    }
}

fn digest() -> Digest {
    format!("sha256:{}", "0a".repeat(32)).parse().unwrap()
}

fn child(platform: &str, counts: SeverityCounts) -> ChildFacts {
    ChildFacts {
        platform: Some(platform.parse().unwrap()),
        digest: digest(),
        verdict: Some(ChildVerdict {
            status: Coverage::Covered,
            scan: ScanFacts {
                counts,
                packages: 88,
                os: Some("debian 12.5".to_owned()),
                ..ScanFacts::default()
            },
            reason: None,
            unmatched: BTreeSet::new(),
        }),
        image: ImageFacts::default(),
    }
}

fn high(high: u64) -> SeverityCounts {
    SeverityCounts {
        high,
        ..SeverityCounts::default()
    }
}

fn candidate(children: Vec<ChildFacts>) -> Candidate {
    Candidate {
        repository: "hub/app".parse().unwrap(),
        tag: "1.27".parse().unwrap(),
        digest: digest(),
        children,
        first_seen_at: Some("2026-11-23T12:00:00Z".parse().unwrap()),
        arrived_at: None,
        decided_at: "2026-11-24T00:00:00Z".parse().unwrap(),
    }
}

fn two(first: SeverityCounts, second: SeverityCounts) -> Candidate {
    candidate(vec![
        child("linux/amd64", first),
        child("linux/arm64", second),
    ])
}

fn outcome(policy: &PromotionPolicy, candidate: &Candidate) -> PolicyOutcome {
    evaluate(policy, candidate).unwrap().outcome
}

fn lines(evaluation: &PolicyEvaluation) -> Vec<String> {
    let line =
        |reason: &Reason| format!("{} | {:?} | {}", reason.rule, reason.passed, reason.detail);
    evaluation.reasons.iter().map(line).collect()
}

#[test]
fn a_clean_image_is_allowed_and_every_rule_is_listed() {
    let evaluation = evaluate(
        &policy(Some("scan.critical == 0 && scan.high <= 2")),
        &two(high(0), high(2)),
    )
    .unwrap();
    assert_eq!(evaluation.outcome, PolicyOutcome::Allow);
    assert_eq!(evaluation.target.to_string(), "official/app");
    assert_eq!(evaluation.target_tag.as_str(), "1.27-20261124");
    assert_eq!(
        lines(&evaluation),
        [
            "runnable | Some(true) | linux/amd64, linux/arm64",
            "coverage | Some(true) | linux/amd64: debian 12.5, 88 packages",
            "coverage | Some(true) | linux/arm64: debian 12.5, 88 packages",
            "scan.critical == 0 | Some(true) | linux/amd64: scan.critical = 0; linux/arm64: scan.critical = 0",
            "scan.high <= 2 | Some(true) | linux/amd64: scan.high = 0; linux/arm64: scan.high = 2",
            "scan.unknown == 0 (implied; `unknown: allow` lifts it) | Some(true) | linux/amd64: scan.unknown = 0; linux/arm64: scan.unknown = 0",
        ]
    );
}

#[test]
fn one_failing_child_denies_the_index() {
    let evaluation = evaluate(&policy(Some("scan.high == 0")), &two(high(0), high(2))).unwrap();
    assert_eq!(evaluation.outcome, PolicyOutcome::Deny);
    assert_eq!(
        lines(&evaluation)[3],
        "scan.high == 0 | Some(false) | linux/amd64: scan.high = 0; linux/arm64: scan.high = 2"
    );
}

#[test]
fn what_no_scanner_covered_is_denied_whatever_the_condition() {
    let verdict = |status, packages, reason: &str| {
        Some(ChildVerdict {
            status,
            scan: ScanFacts {
                packages,
                ..ScanFacts::default()
            },
            reason: Some(reason.to_owned()),
            unmatched: BTreeSet::new(),
        })
    };
    for (verdict, expected) in [
        (None, "image 0a0a0a0a0a0a: it has no scan result"),
        (
            verdict(Coverage::Failed, 9, "timed out"),
            "image 0a0a0a0a0a0a: the scan failed (timed out)",
        ),
        (
            verdict(Coverage::Unsupported, 0, "unknown OS"),
            "image 0a0a0a0a0a0a: the scanner does not understand the content (unknown OS): no operating system recognised, 0 packages",
        ),
        (
            verdict(Coverage::Covered, 0, "empty"),
            "image 0a0a0a0a0a0a: the scanner saw no packages (empty): no operating system recognised, 0 packages",
        ),
    ] {
        let bad = ChildFacts {
            platform: None,
            verdict,
            ..child("linux/amd64", high(0))
        };
        let candidate = candidate(vec![child("linux/arm64", high(0)), bad]);
        for when in [
            None,
            Some("true"),
            Some("scan.critical == 0"),
            Some("true || scan.unknown >= 0"),
            Some("!(scan.high > 0)"),
        ] {
            let mut policy = policy(when);
            let stated = [UnknownFindings::Deny, UnknownFindings::Allow].map(Some);
            for unknown in stated.into_iter().chain([None]) {
                policy.unknown = unknown;
                let evaluation = evaluate(&policy, &candidate).unwrap();
                assert_eq!(evaluation.outcome, PolicyOutcome::Deny, "{when:?}");
                let coverage = &evaluation.reasons[2];
                assert_eq!(
                    (coverage.rule.as_str(), coverage.passed),
                    ("coverage", Some(false))
                );
                assert_eq!(coverage.detail, expected);
            }
        }
    }
}

#[test]
fn a_system_past_its_end_of_life_passes_with_a_warning() {
    let mut old = child("linux/amd64", high(0));
    old.verdict.as_mut().unwrap().scan.end_of_life = true;
    let evaluation = evaluate(&policy(None), &candidate(vec![old.clone()])).unwrap();
    assert_eq!(evaluation.outcome, PolicyOutcome::Allow);
    assert!(
        evaluation.reasons[1]
            .detail
            .contains("past its end of life")
    );
    assert_eq!(
        outcome(&policy(Some("!scan.end_of_life")), &candidate(vec![old])),
        PolicyOutcome::Deny
    );
}

#[test]
fn an_index_without_runnable_children_is_denied() {
    for when in [None, Some("true"), Some("scan.critical == 0")] {
        let evaluation = evaluate(&policy(when), &candidate(Vec::new())).unwrap();
        assert_eq!(evaluation.outcome, PolicyOutcome::Deny);
        assert_eq!(
            lines(&evaluation)[0],
            "runnable | Some(false) | there is no runnable image"
        );
    }
}

#[test]
fn unrated_findings_deny_unless_the_policy_speaks_of_them() {
    let unrated = SeverityCounts {
        unknown: 3,
        ..SeverityCounts::default()
    };
    let candidate = two(high(0), unrated);
    let evaluation = evaluate(&policy(Some("scan.critical == 0")), &candidate).unwrap();
    assert_eq!(evaluation.outcome, PolicyOutcome::Deny);
    assert!(
        evaluation
            .reasons
            .last()
            .unwrap()
            .detail
            .contains("linux/arm64: scan.unknown = 3")
    );
    assert_eq!(
        outcome(&policy(Some("tag != 'scan.unknown'")), &candidate),
        PolicyOutcome::Deny
    );
    assert_eq!(
        outcome(&policy(Some("scan.unknown < 5")), &candidate),
        PolicyOutcome::Allow
    );
    assert_eq!(outcome(&policy(None), &candidate), PolicyOutcome::Allow);
    let lax = PromotionPolicy {
        unknown: Some(UnknownFindings::Allow),
        ..policy(Some("scan.critical == 0"))
    };
    assert_eq!(outcome(&lax, &candidate), PolicyOutcome::Allow);
}

#[test]
fn an_explicit_unknown_deny_holds_without_a_condition() {
    let unrated = SeverityCounts {
        unknown: 1,
        ..SeverityCounts::default()
    };
    let mut policy = policy(None);
    let evaluated =
        |policy: &PromotionPolicy, counts| evaluate(policy, &two(high(9), counts)).unwrap();
    assert_eq!(evaluated(&policy, unrated).outcome, PolicyOutcome::Allow);
    policy.unknown = Some(UnknownFindings::Allow);
    assert_eq!(evaluated(&policy, unrated).outcome, PolicyOutcome::Allow);
    policy.unknown = Some(UnknownFindings::Deny);
    let denied = evaluated(&policy, unrated);
    assert_eq!(denied.outcome, PolicyOutcome::Deny);
    assert_eq!(
        lines(&denied).last().unwrap(),
        "scan.unknown == 0 (`unknown: deny`) | Some(false) | linux/amd64: scan.unknown = 0; linux/arm64: scan.unknown = 1"
    );
    assert_eq!(evaluated(&policy, high(9)).outcome, PolicyOutcome::Allow);
    policy.require.platforms = vec!["linux/arm64".parse().unwrap()];
    policy.soak = Some("1s".parse().unwrap());
    assert_eq!(evaluated(&policy, unrated).outcome, PolicyOutcome::Deny);
    policy.rules = vec![Rule {
        field: "vulnerability_critical".to_owned(),
        operator: "eq".to_owned(),
        values: vec!["0".to_owned()],
    }];
    assert_eq!(evaluated(&policy, unrated).outcome, PolicyOutcome::Deny);
    // A condition that speaks of them decides itself.
    policy.rules = Vec::new();
    policy.when = Some(Condition("scan.unknown < 2".to_owned()));
    assert_eq!(evaluated(&policy, unrated).outcome, PolicyOutcome::Allow);
}

#[test]
fn packages_that_are_never_matched_are_refused_unless_the_policy_accepts_their_kind() {
    let mut candidate = two(high(0), high(0));
    let verdict = candidate.children[1].verdict.as_mut().unwrap();
    verdict.unmatched = ["conda-pkg", "julia"].map(str::to_owned).into();
    for when in [None, Some("true"), Some("scan.total == 0")] {
        let mut policy = policy(when);
        let denied = evaluate(&policy, &candidate).unwrap();
        assert_eq!(denied.outcome, PolicyOutcome::Deny, "{when:?}");
        assert_eq!(
            lines(&denied)[2],
            "coverage | Some(false) | linux/arm64: debian 12.5, 88 packages; the scanner lists packages without matching them: conda-pkg, julia (`coverage: {allow: [conda-pkg, julia]}` accepts that)"
        );
        policy.coverage.allow = ["julia", "fedora"].map(|kind| kind.parse().unwrap()).into();
        let half = evaluate(&policy, &candidate).unwrap();
        assert_eq!(half.outcome, PolicyOutcome::Deny, "{when:?}");
        assert!(
            lines(&half)[2].contains(": conda-pkg ("),
            "{:?}",
            lines(&half)
        );
        policy.coverage.allow.insert("conda-pkg".parse().unwrap());
        let allowed = evaluate(&policy, &candidate).unwrap();
        assert_eq!(allowed.outcome, PolicyOutcome::Allow, "{when:?}");
        assert_eq!(
            lines(&allowed)[3],
            "coverage | Some(true) | conda-pkg, julia accepted by the policy"
        );
    }
}

#[test]
fn an_accepted_kind_makes_nothing_else_covered() {
    let mut policy = policy(Some("true"));
    policy.coverage.allow = ["conda-pkg"].map(|kind| kind.parse().unwrap()).into();
    for (status, packages) in [
        (Coverage::Failed, 9),
        (Coverage::Unsupported, 9),
        (Coverage::Covered, 0),
    ] {
        let mut bad = child("linux/amd64", high(0));
        let verdict = bad.verdict.as_mut().unwrap();
        (verdict.status, verdict.scan.packages) = (status, packages);
        verdict.unmatched = ["conda-pkg".to_owned()].into();
        assert_eq!(outcome(&policy, &candidate(vec![bad])), PolicyOutcome::Deny);
    }
}

#[test]
fn a_condition_that_ends_in_an_error_is_undetermined() {
    for when in [
        "image.labels.owner == 'web'",
        "image.created < now",
        "updated_at < now",
        "scan.fixable >= 0",
    ] {
        let evaluation = evaluate(&policy(Some(when)), &two(high(0), high(0))).unwrap();
        assert_eq!(evaluation.outcome, PolicyOutcome::Undetermined, "{when}");
        assert_eq!(evaluation.reasons[3].passed, None);
    }
    let denied = policy(Some("image.labels.owner == 'web' && scan.high == 0"));
    assert_eq!(
        outcome(&denied, &two(high(0), high(1))),
        PolicyOutcome::Deny
    );
    let broken = evaluate(&policy(Some("scna.high == 0")), &two(high(0), high(0))).unwrap();
    assert_eq!(broken.outcome, PolicyOutcome::Undetermined);
    assert!(broken.reasons[3].detail.contains("did you mean `scan`?"));
}

#[test]
fn required_platforms_must_be_present() {
    let mut policy = policy(None);
    policy.require.platforms = vec![
        "linux/arm64".parse().unwrap(),
        "linux/s390x".parse().unwrap(),
    ];
    let evaluation = evaluate(&policy, &candidate(vec![child("linux/arm64/v8", high(0))])).unwrap();
    assert_eq!(evaluation.outcome, PolicyOutcome::Deny);
    assert_eq!(
        lines(&evaluation)[2],
        "require.platforms | Some(true) | linux/arm64 is present"
    );
    assert_eq!(
        lines(&evaluation)[3],
        "require.platforms | Some(false) | linux/s390x is missing; there is linux/arm64/v8"
    );
}

#[test]
fn soaking_waits_only_when_nothing_else_stands_against() {
    let mut policy = policy(Some("scan.high == 0"));
    policy.soak = Some("24h".parse().unwrap());
    let mut candidate = two(high(0), high(0));
    let until = "2026-11-24T12:00:00Z".parse().unwrap();
    let evaluation = evaluate(&policy, &candidate).unwrap();
    assert_eq!(evaluation.outcome, PolicyOutcome::Wait { until });
    assert_eq!(
        lines(&evaluation).last().unwrap(),
        "soak | Some(false) | first seen 2026-11-23 12:00:00 UTC, 1d are over at 2026-11-24 12:00:00 UTC"
    );
    assert_eq!(
        outcome(&policy, &two(high(0), high(1))),
        PolicyOutcome::Deny
    );
    candidate.decided_at = until;
    assert_eq!(outcome(&policy, &candidate), PolicyOutcome::Allow);
    candidate.first_seen_at = None;
    assert_eq!(outcome(&policy, &candidate), PolicyOutcome::Undetermined);
}

#[test]
fn rules_of_dtr_decide_like_the_condition_they_compile_to() {
    let mut policy = policy(None);
    policy.rules = vec![Rule {
        field: "vulnerability_critical".to_owned(),
        operator: "eq".to_owned(),
        values: vec!["0".to_owned()],
    }];
    let mut candidate = two(high(3), high(0));
    assert_eq!(outcome(&policy, &candidate), PolicyOutcome::Allow);
    candidate.children[0]
        .verdict
        .as_mut()
        .unwrap()
        .scan
        .dtr
        .critical = 3;
    let evaluation = evaluate(&policy, &candidate).unwrap();
    assert_eq!(evaluation.outcome, PolicyOutcome::Deny);
    assert!(
        lines(&evaluation)[3].starts_with(
            "scan.dtr.critical == 0 | Some(false) | linux/amd64: scan.dtr.critical = 3;"
        )
    );
    policy.rules[0].operator = "is".to_owned();
    assert_eq!(outcome(&policy, &candidate), PolicyOutcome::Undetermined);
}

#[test]
fn a_target_that_cannot_be_named_is_an_error() {
    let mut bad = policy(None);
    bad.to = "{org}/{name}".parse().unwrap();
    let mut candidate = two(high(0), high(0));
    candidate.repository = "alpine".parse().unwrap();
    assert!(matches!(
        evaluate(&bad, &candidate),
        Err(Error::Target { .. })
    ));
    bad = policy(None);
    candidate.tag = "a".repeat(125).parse().unwrap();
    assert!(matches!(
        evaluate(&bad, &candidate),
        Err(Error::TargetTag { .. })
    ));
    bad.tag = "%q".to_owned();
    assert!(matches!(
        evaluate(&bad, &candidate),
        Err(Error::Template { .. })
    ));
}

fn counts() -> impl Strategy<Value = SeverityCounts> {
    (0_u64..4, 0_u64..4, 0_u64..4, 0_u64..4, 0_u64..2).prop_map(
        |(critical, high, medium, low, unknown)| SeverityCounts {
            critical,
            high,
            medium,
            low,
            unknown,
        },
    )
}

fn upper_bounds() -> impl Strategy<Value = Option<String>> {
    let fields = vec!["critical", "high", "medium", "low", "unknown", "total"];
    let term = (
        proptest::sample::select(fields),
        proptest::bool::ANY,
        0_u64..4,
    )
        .prop_map(|(field, inclusive, bound)| {
            format!(
                "scan.{field} {} {bound}",
                if inclusive { "<=" } else { "<" }
            )
        });
    let joined = (proptest::collection::vec(term, 1..4), proptest::bool::ANY)
        .prop_map(|(terms, all)| terms.join(if all { " && " } else { " || " }));
    proptest::option::of(joined)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn more_findings_never_turn_a_refusal_into_a_promotion(
        before in (counts(), counts()),
        more in (counts(), counts()),
        when in upper_bounds(),
        lax in proptest::bool::ANY,
    ) {
        let policy = PromotionPolicy {
            unknown: lax.then_some(UnknownFindings::Allow),
            ..policy(when.as_deref())
        };
        let less = outcome(&policy, &two(before.0, before.1));
        let after = outcome(&policy, &two(before.0.plus(more.0), before.1.plus(more.1)));
        prop_assert!(!(less != PolicyOutcome::Allow && after == PolicyOutcome::Allow), "{:?} then {:?}", less, after);
    }

    #[test]
    fn nothing_is_allowed_while_a_child_is_not_covered(
        covered in proptest::collection::vec(proptest::bool::ANY, 0..4),
        when in upper_bounds(),
    ) {
        let children: Vec<ChildFacts> = covered
            .iter()
            .map(|covered| ChildFacts {
                verdict: child("linux/amd64", high(0)).verdict.filter(|_| *covered),
                ..child("linux/amd64", high(0))
            })
            .collect();
        let answer = outcome(&policy(when.as_deref()), &candidate(children));
        if covered.is_empty() || covered.contains(&false) {
            prop_assert_eq!(answer, PolicyOutcome::Deny);
        }
    }
}
