//! The promotion policies of a history, and how people change them.

use sluice_domain::resources::Kind;

use crate::history::History;
use crate::operator_actions::{apply, reconcile};
use crate::stages::at_once;
use sluice_tests::seeded_random::SeededRandom;

/// A policy as somebody wrote it.
#[derive(Debug, Clone)]
pub struct Written {
    name: &'static str,
    from: &'static str,
    to: &'static str,
    tag: &'static str,
    /// Whether images with a finding pass too.
    lets_all_pass: bool,
    enabled: bool,
    /// Whether it is applied at all.
    exists: bool,
    recall: &'static str,
    soak: Option<&'static str>,
}

/// What somebody does to a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Remove,
    Rename,
    Switch,
    Narrow,
    Tighten,
    Lead,
    Retag,
    Recall,
}

const CHANGES: [Change; 8] = [
    Change::Remove,
    Change::Rename,
    Change::Switch,
    Change::Narrow,
    Change::Tighten,
    Change::Lead,
    Change::Retag,
    Change::Recall,
];

impl Written {
    /// The one that every history has.
    pub const fn gate(recall: &'static str, soak: Option<&'static str>) -> Self {
        Self {
            name: "gate",
            from: "hub/*",
            to: "official/{name}",
            tag: "%n",
            lets_all_pass: false,
            enabled: true,
            exists: true,
            recall,
            soak,
        }
    }

    /// A second one, from another source into the same target.
    pub const fn second(recall: &'static str, soak: Option<&'static str>) -> Self {
        Self {
            name: "second",
            from: "hub/b",
            to: "official/a",
            tag: "b-%n",
            ..Self::gate(recall, soak)
        }
    }

    /// Its document; nothing if it is not applied.
    pub fn text(&self) -> String {
        if !self.exists {
            return String::new();
        }
        let most = usize::from(self.lets_all_pass);
        let soak = self
            .soak
            .map_or(String::new(), |soak| format!("soak: {soak}\n"));
        let Self {
            name,
            from,
            to,
            tag,
            enabled,
            recall,
            ..
        } = self;
        format!(
            "kind: PromotionPolicy\nname: {name}\nfrom: {from}\nto: {to}\ntag: '{tag}'\nwhen: scan.critical <= {most}\n{soak}recall: {recall}\nenabled: {enabled}\nshares_target: true\n---\n"
        )
    }

    /// Has it do the other thing with what no longer passes, and returns which.
    pub fn toggle_recall(&mut self) -> &'static str {
        self.change(Change::Recall);
        self.recall
    }

    fn change(&mut self, change: Change) {
        let toggle = |now: &mut &'static str, one: &'static str, other: &'static str| {
            *now = if *now == one { other } else { one };
        };
        let is_gate = self.from != "hub/b";
        match change {
            Change::Remove => self.exists = !self.exists,
            Change::Rename if is_gate => toggle(&mut self.name, "gate", "renamed"),
            Change::Rename => toggle(&mut self.name, "second", "other"),
            Change::Switch => self.enabled = !self.enabled,
            Change::Narrow if is_gate => toggle(&mut self.from, "hub/*", "hub/a"),
            Change::Narrow => toggle(&mut self.recall, "flag", "withdraw"),
            Change::Tighten => self.lets_all_pass = !self.lets_all_pass,
            Change::Lead if is_gate => toggle(&mut self.to, "official/{name}", "approved/{name}"),
            Change::Lead => toggle(&mut self.to, "official/a", "approved/a"),
            Change::Retag if is_gate => toggle(&mut self.tag, "%n", "v-%n"),
            Change::Retag => toggle(&mut self.tag, "b-%n", "c-%n"),
            Change::Recall => toggle(&mut self.recall, "flag", "withdraw"),
        }
    }
}

/// Changes one policy, and has it looked at as the change itself would.
pub fn change(history: &mut History, random: impl FnOnce(&mut SeededRandom, usize) -> usize) {
    let (place, kind) = {
        let count = history.plan.policies.len();
        let mut world = history.shared.lock();
        let place = random(&mut world.random, count);
        (place, world.random.pick(&CHANGES))
    };
    let before = history.plan.policies[place].clone();
    let policy = &mut history.plan.policies[place];
    policy.change(kind);
    let (name, text) = (policy.name, policy.text());
    let line = format!("somebody changes policy {}: {kind:?}", before.name);
    history.shared.lock().note(&line);
    let is_gone = before.exists && (text.is_empty() || before.name != name);
    let first = history.shared.lock().random.percent(50);
    if is_gone && first {
        remove(history, before.name);
    }
    apply(history, &text);
    if is_gone && !first {
        remove(history, before.name);
    }
    reconcile(history, &sluice_bus::topology::PROMOTER);
}

fn remove(history: &History, name: &str) {
    at_once(&history.shared, async {
        let name = name.parse().unwrap();
        let removed = history
            .state
            .remove(&history.bus, Kind::PromotionPolicy, &name, "person");
        assert!(removed.await.unwrap());
    });
}
