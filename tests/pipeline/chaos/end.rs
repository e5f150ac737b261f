//! What there is when everything is done, in a form that two runs share.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sluice_tests::endpoint::Endpoint;
use sluice_tests::{BusClient, Stack};

/// The facts that are compared; of pushes, polls and deliveries there may be more or fewer.
const COMPARED: [&str; 7] = [
    "upstream.tag_moved",
    "tag.mirrored",
    "scan.succeeded",
    "scan.failed",
    "image.promoted",
    "image.promotion_denied",
    "prune.completed",
];
/// What tells facts of one name apart, and does not depend on ports and times.
const FIELDS: [&str; 7] = [
    "repository",
    "tag",
    "digest",
    "sourceTag",
    "target",
    "targetTag",
    "moveNumber",
];

/// What there is in the end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// What each tag names in staging and in the target, as the registry has it.
    tags: BTreeMap<String, String>,
    /// What each tag names, as the state has it.
    entries: BTreeMap<String, String>,
    decisions: BTreeSet<String>,
    verdicts: BTreeMap<String, String>,
    facts: BTreeMap<String, Vec<String>>,
    /// The ids of the facts that the endpoint is to have.
    wanted: Wanted,
}

/// Ids differ from run to run.
#[derive(Debug)]
struct Wanted(BTreeSet<String>);

impl PartialEq for Wanted {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
    }
}

impl Eq for Wanted {}

impl End {
    /// Looks; no fact may be there twice.
    pub(crate) fn of(
        stack: &Stack,
        bus: &BusClient,
        tags: impl Iterator<Item = (String, String)>,
    ) -> Self {
        let reader = stack.reader();
        let mut named = BTreeMap::new();
        for (name, tag) in tags {
            for organization in ["hub", "official"] {
                let repository = format!("{organization}/{name}");
                if let Some(raw) = reader.get(&repository, &tag) {
                    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&raw)));
                    named.insert(format!("{repository}:{tag}"), digest);
                }
            }
        }
        let entries = bus.run(bus.state.tags.list(">")).unwrap();
        let decisions = bus.run(bus.state.decisions.list(">")).unwrap();
        let verdicts = bus.run(bus.state.verdicts.list(">")).unwrap();
        let (facts, wanted) = facts(stack);
        Self {
            tags: named,
            entries: entries
                .into_iter()
                .map(|entry| entry.value)
                .map(|tag| {
                    assert_eq!(tag.claim, None);
                    (format!("{}:{}", tag.repository, tag.tag), tag.digest)
                })
                .collect(),
            decisions: decisions
                .into_iter()
                .map(|entry| entry.value)
                .map(|made| {
                    assert!(made.published, "{made:?}");
                    format!(
                        "{} {}:{}@{} {:?} {}",
                        made.policy,
                        made.repository,
                        made.tag,
                        made.digest,
                        made.outcome(),
                        made.promoted_at.is_some()
                    )
                })
                .collect(),
            verdicts: verdicts
                .into_iter()
                .map(|entry| entry.value)
                .map(|verdict| {
                    let told = format!("{:?} {:?}", verdict.status(), verdict.counts);
                    (verdict.digest, told)
                })
                .collect(),
            facts,
            wanted: Wanted(wanted),
        }
    }

    /// Returns how many images were promoted.
    pub(crate) fn promoted(&self) -> usize {
        self.facts["image.promoted"].len()
    }

    /// An endpoint must have every fact at least once, and each time the same.
    pub(crate) fn was_delivered(&self, endpoint: &Endpoint) {
        let mut seen: BTreeMap<String, Value> = BTreeMap::new();
        for request in endpoint.requests() {
            assert_eq!(request["verified"], true, "{request}");
            let id = request["id"].as_str().unwrap().to_owned();
            let first = seen.entry(id).or_insert_with(|| request["body"].clone());
            assert_eq!(*first, request["body"], "one id, two events");
        }
        let missing: Vec<_> = self
            .wanted
            .0
            .iter()
            .filter(|id| !seen.contains_key(*id))
            .collect();
        assert!(missing.is_empty(), "not delivered: {missing:?}");
    }
}

fn facts(stack: &Stack) -> (BTreeMap<String, Vec<String>>, BTreeSet<String>) {
    let (mut ids, mut wanted) = (BTreeSet::new(), BTreeSet::new());
    let mut facts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in stack.sluice(&["events"]).lines() {
        let fact: Value = serde_json::from_str(line).unwrap();
        let id = fact["id"].as_str().unwrap().to_owned();
        assert!(ids.insert(id.clone()), "stored twice: {fact}");
        let name = fact["event"].as_str().unwrap();
        if !COMPARED.contains(&name) {
            continue;
        }
        if name != "upstream.tag_moved" {
            wanted.insert(id);
        }
        let told: Vec<String> = FIELDS
            .iter()
            .map(|field| fact["data"][field].to_string())
            .collect();
        let deleted: Vec<String> = fact["data"]["deleted"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|tag| tag["tag"].to_string())
            .collect();
        facts
            .entry(name.to_owned())
            .or_default()
            .push(format!("{told:?} {deleted:?}"));
    }
    facts.values_mut().for_each(|told| told.sort_unstable());
    (facts, wanted)
}
