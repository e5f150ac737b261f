//! A process dies between two writes and comes again; in the end everything is as if it had not.
//!
//! Each scenario has one test for each of its crash points, and one without a death, so that what is compared with is
//! itself tested. A test of the repository's rules holds that no point is without a test and no test without a point.

mod cleanup;
mod commands;
mod deliver;
mod intake;
mod mirror;
mod poison;
mod poll;
mod promote;
mod prune;
mod push;
mod recall;
mod scan;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{TimeDelta, Utc};
use sluice_events::wire::state::{Decision, TagEntry};
use sluice_events::{Event, time_to_wire};
use sluice_state::key;
use sluice_tests::{BusClient, Image, Stack, wait_for};

/// The facts that the registry's notifications are, and those of what the test applies.
const BESIDES: [&str; 7] = [
    "tag.pushed",
    "tag.deleted",
    "tag.pulled",
    "manifest.pushed",
    "manifest.deleted",
    "manifest.pulled",
    "resource.applied",
];

/// Makes a test of a scenario for each point at which it dies.
macro_rules! dies {
    ($scenario:ident: $($test:ident at $at:literal,)*) => {
        $(
            #[test]
            fn $test() {
                $scenario($at);
            }
        )*
    };
}
use dies;

/// A stack with one stage, which dies.
struct Play {
    stack: Stack,
    bus: BusClient,
    stage: &'static str,
    /// Whether a comparison may find, and tell, what a dead promoter began to take back: after its claim has lapsed and
    /// before the message comes again, which of the two is first depends on how busy the machine is.
    may_be_unauthorised: bool,
}

impl Play {
    fn of(stage: &'static str) -> Self {
        let stack = Stack::quick(7_200);
        let bus = stack.bus();
        Self {
            stack,
            bus,
            stage,
            may_be_unauthorised: false,
        }
    }

    /// Runs the stage until it dies at the point, and then again; where there is no point it only runs.
    fn run(&mut self, at: &str, environment: &[(&str, &str)]) {
        if !at.is_empty() {
            let dying = self.stack.begin_dying(self.stage, at, environment);
            self.stack.until_dead(dying, at);
        }
        self.stack.begin(self.stage, environment);
    }

    /// Puts an image into the internal registry with an entry, as if it had arrived so many minutes ago.
    fn hold(&self, repository: &str, tag: &str, content: &str, minutes: i64) -> Image {
        let writer = self.stack.as_service("mirror-worker");
        let image = writer.image(repository, "amd64", content);
        writer.put(repository, tag, &image);
        let entry = TagEntry {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            digest: image.digest.clone(),
            generation: 1,
            arrived_at: Some(time_to_wire(Utc::now() - TimeDelta::minutes(minutes))),
            arrived_by: "mirror-worker".to_owned(),
            ..Default::default()
        };
        let key = key::tag(&repository.parse().unwrap(), &tag.parse().unwrap());
        self.bus.run(self.bus.state.tags.put(&key, &entry)).unwrap();
        image
    }

    /// Waits until exactly these facts are told and nothing is left to do: each once, no dead letter, no claim.
    fn expect_published(&self, expected: &[(&str, usize)]) {
        self.ended(expected);
        let letters = self.bus.run(self.bus.bus.dead_letters(10)).unwrap();
        assert!(letters.is_empty(), "{letters:?}");
    }

    /// As [`Play::told`], but one message could not be done and is kept once.
    fn buried(&self, expected: &[(&str, usize)]) {
        self.ended(expected);
        let letters = self.bus.run(self.bus.bus.dead_letters(10)).unwrap();
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert_eq!(letters[0].stage, self.stage);
    }

    fn ended(&self, expected: &[(&str, usize)]) {
        let expected: BTreeMap<String, usize> = expected
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        let mut told = BTreeMap::new();
        wait_for(&format!("{expected:?} to be told"), 60, || {
            told = self.counts();
            let all = expected
                .iter()
                .all(|(name, count)| told.get(name).is_some_and(|told| told >= count));
            (all && self.is_done()).then_some(())
        });
        // What was left to do may have told more.
        let mut counts = self.counts();
        if self.may_be_unauthorised {
            counts.remove("image.unauthorised");
        }
        assert_eq!(counts, expected);
        let tags = self.bus.run(self.bus.state.tags.list(">")).unwrap();
        let claimed: Vec<_> = tags.iter().filter(|e| e.value.claim.is_some()).collect();
        assert!(claimed.is_empty(), "{claimed:?}");
    }

    /// Returns how often each fact of a stage is told, and asserts that none is stored twice.
    fn counts(&self) -> BTreeMap<String, usize> {
        let facts = self.bus.run(self.bus.bus.facts("sluice.v1.>")).unwrap();
        let ids: BTreeSet<_> = facts.iter().map(|fact| &fact.id).collect();
        assert_eq!(ids.len(), facts.len(), "a fact is stored twice");
        let mut counts = BTreeMap::new();
        for event in facts.iter().filter_map(|fact| fact.event.as_ref()) {
            if !BESIDES.contains(&event.name()) {
                *counts.entry(event.name().to_owned()).or_default() += 1;
            }
        }
        counts
    }

    fn is_done(&self) -> bool {
        let status = self.bus.run(self.bus.bus.stage_status()).unwrap();
        status
            .iter()
            .filter(|status| status.stage == self.stage)
            .all(|status| status.waiting + status.in_flight + status.later == 0)
    }

    /// Returns the facts of this name.
    fn events(&self, name: &str) -> Vec<Event> {
        let facts = self.bus.run(self.bus.bus.facts("sluice.v1.>")).unwrap();
        let events = facts.into_iter().filter_map(|fact| fact.event);
        events.filter(|event| event.name() == name).collect()
    }

    /// Returns the decision on an image in `hub/app`.
    fn decision(&self, policy: &str, tag: &str, image: &Image) -> Decision {
        let key = key::decision(
            &policy.parse().unwrap(),
            &"hub/app".parse().unwrap(),
            &tag.parse().unwrap(),
            &image.digest.parse().unwrap(),
        );
        let entry = self.bus.run(self.bus.state.decisions.get(&key)).unwrap();
        entry.unwrap().value
    }

    /// Returns the entry of a tag.
    fn tag(&self, repository: &str, tag: &str) -> TagEntry {
        let key = key::tag(&repository.parse().unwrap(), &tag.parse().unwrap());
        let entry = self.bus.run(self.bus.state.tags.get(&key)).unwrap();
        entry.map(|entry| entry.value).unwrap_or_default()
    }
}
