//! What is deleted first, what never is, and that planning twice changes nothing.

use chrono::TimeDelta;
use proptest::prelude::*;
use sluice_domain::SeverityCounts;

use super::*;
use crate::condition::Scope;

fn tag(name: &str, age_hours: i64) -> TagFacts {
    TagFacts {
        tag: name.parse().unwrap(),
        digest: format!("sha256:{}", "0a".repeat(32)).parse().unwrap(),
        arrived_at: now() - TimeDelta::hours(age_hours),
        pulled_at: None,
        protected: None,
        scan: None,
        image: ImageFacts::default(),
    }
}

fn now() -> DateTime<Utc> {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

fn planned(newest: u32, condition: Option<&str>, tags: &[TagFacts]) -> Plan {
    let by = KeepOrder::default();
    planned_by(Keep { newest, by }, condition, tags)
}

fn planned_by(keep: Keep, condition: Option<&str>, tags: &[TagFacts]) -> Plan {
    let (repository, policy) = ("hub/app".parse().unwrap(), "nightly".parse().unwrap());
    let condition = condition.map(|text| CompiledCondition::new(text, Scope::Pruning).unwrap());
    let rules = Rules {
        repository: &repository,
        keep,
        policy: condition.as_ref().map(|condition| (&policy, condition)),
        now: now(),
    };
    plan(&rules, tags)
}

fn deleted(plan: &Plan) -> Vec<&str> {
    plan.delete
        .iter()
        .map(|deletion| deletion.tag.as_str())
        .collect()
}

#[test]
fn the_tag_limit_takes_the_oldest_arrivals_first() {
    let tags = [
        tag("c", 3),
        tag("a", 1),
        tag("e", 5),
        tag("b", 2),
        tag("d", 4),
    ];
    let plan = planned(3, None, &tags);
    assert_eq!(deleted(&plan), ["e", "d"]);
    assert_eq!(
        plan.delete[0].reason,
        "the repository keeps 3 tags, and as many are newer by version or arrival"
    );
    assert_eq!(
        plan.kept
            .iter()
            .map(|kept| kept.tag.as_str())
            .collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
    assert!(deleted(&planned(0, None, &tags)).is_empty());
    assert!(deleted(&planned(5, None, &tags)).is_empty());
}

#[test]
fn of_versions_the_highest_stay_however_they_arrived() {
    // A mirror copies the newest first, so 1.0 arrives last.
    let mut tags: Vec<_> = (0..15)
        .map(|minor| tag(&format!("1.{minor}"), minor))
        .collect();
    tags.push(tag("edge", 30));
    let kept = |plan: Plan| -> Vec<String> {
        let kept = plan.kept.into_iter();
        kept.map(|kept| kept.tag.to_string()).collect()
    };
    assert_eq!(
        kept(planned(5, None, &tags)),
        ["1.14", "1.13", "1.12", "1.11", "1.10"]
    );
    let pushed = Keep {
        newest: 5,
        by: KeepOrder::Pushed,
    };
    assert_eq!(
        kept(planned_by(pushed, None, &tags)),
        ["1.0", "1.1", "1.2", "1.3", "1.4"]
    );
    // What is used stays, and what just came was not pulled yet.
    let mut used = tags.clone();
    used[1].pulled_at = Some(now());
    used[14].pulled_at = Some(now() - TimeDelta::hours(1));
    let pulled = Keep {
        newest: 3,
        by: KeepOrder::Pulled,
    };
    assert_eq!(
        kept(planned_by(pulled, None, &used)),
        ["1.1", "1.0", "1.14"]
    );
    let dates = [tag("20240103", 3), tag("20240101", 1), tag("20240102", 2)];
    assert_eq!(kept(planned(1, None, &dates)), ["20240103"]);
}

#[test]
fn a_tag_that_is_no_version_has_its_place_by_when_it_moved_last() {
    let tags = [
        tag("1.9", 3),
        tag("1.10", 5),
        tag("latest", 1),
        tag("edge", 9),
    ];
    assert_eq!(deleted(&planned(2, None, &tags)), ["edge", "1.9"]);
}

#[test]
fn a_protected_tag_stays_and_takes_its_place() {
    let mut tags = [tag("a", 1), tag("b", 2), tag("c", 3)];
    tags[2].protected = Some("promoted to `official/app`".to_owned());
    assert_eq!(deleted(&planned(1, Some("true"), &tags)), ["b", "a"]);
    let plan = planned(1, None, &tags);
    assert_eq!(deleted(&plan), ["b"]);
    assert_eq!(plan.kept[1].reason, "promoted to `official/app`");
}

#[test]
fn a_condition_deletes_and_says_with_which_values() {
    let mut tags = [tag("1.0", 1), tag("1.1-rc1", 2)];
    tags[0].scan = Some(ScanFacts {
        counts: SeverityCounts {
            critical: 6,
            ..SeverityCounts::default()
        },
        packages: 9,
        ..ScanFacts::default()
    });
    let plan = planned(0, Some("tag.matches(\"-rc\") || scan.critical > 5"), &tags);
    assert_eq!(deleted(&plan), ["1.1-rc1", "1.0"]);
    assert_eq!(
        plan.delete[1].reason,
        "policy `nightly`: `tag.matches(\"-rc\") || scan.critical > 5` with tag = \"1.0\", scan.critical = 6"
    );
    tags[0].scan = None;
    let plan = planned(0, Some("scan.critical > 5"), &tags[..1]);
    assert!(plan.delete.is_empty());
    assert_eq!(
        plan.kept[0].reason,
        "policy `nightly` is undetermined, so it stays: there is no usable scan result"
    );
}

#[test]
fn tags_deleted_by_the_condition_leave_their_places_to_others() {
    let tags = [tag("a-rc", 1), tag("b", 2), tag("c", 3)];
    assert_eq!(
        deleted(&planned(2, Some("tag.endsWith('-rc')"), &tags)),
        ["a-rc"]
    );
}

fn any_tags() -> impl Strategy<Value = Vec<TagFacts>> {
    let name = prop_oneof![
        "[a-c][a-c0-2.-]{0,3}",
        "1\\.[0-9]",
        "2024010[1-9]",
        "1\\.[0-9]-rc[12]",
    ];
    let one = (
        name,
        0_i64..6,
        proptest::bool::weighted(0.3),
        proptest::option::of(0_u64..4),
    );
    proptest::collection::vec(one, 0..20).prop_map(|tags| {
        tags.into_iter()
            .map(|(name, age, protected, critical)| TagFacts {
                protected: protected.then(|| "promoted".to_owned()),
                scan: critical.map(|critical| ScanFacts {
                    counts: SeverityCounts {
                        critical,
                        ..SeverityCounts::default()
                    },
                    packages: 1,
                    ..ScanFacts::default()
                }),
                ..tag(&name, age)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn planning_again_after_applying_gives_an_empty_plan(
        tags in any_tags(),
        keep in 0_u32..6,
        condition in proptest::option::of(proptest::sample::select(vec![
            "tag.startsWith('a')", "scan.critical > 1", "now - updated_at > duration('3h') && scan.critical > 0",
        ])),
    ) {
        let first = planned(keep, condition, &tags);
        let remaining: Vec<TagFacts> = tags
            .iter()
            .filter(|facts| !first.delete.iter().any(|deletion| deletion.tag == facts.tag))
            .cloned()
            .collect();
        let second = planned(keep, condition, &remaining);
        prop_assert_eq!(second.delete, vec![]);
        prop_assert_eq!(second.kept.len(), first.kept.len());
    }

    #[test]
    fn a_plan_accounts_for_every_tag_once_and_protects(tags in any_tags(), keep in 0_u32..6) {
        let plan = planned(keep, Some("scan.critical > 1"), &tags);
        let names: BTreeSet<&Tag> = tags.iter().map(|facts| &facts.tag).collect();
        let planned_tags: Vec<&Tag> = plan.delete.iter().map(|d| &d.tag).chain(plan.kept.iter().map(|k| &k.tag)).collect();
        prop_assert_eq!(planned_tags.len(), names.len());
        prop_assert_eq!(planned_tags.into_iter().collect::<BTreeSet<_>>(), names);
        for deletion in &plan.delete {
            prop_assert!(tags.iter().any(|facts| facts.tag == deletion.tag && facts.protected.is_none()));
        }
    }
}
