//! The whole pipeline, while its log is lost, and with messages that all come twice.

use std::collections::BTreeMap;

use sluice_events::wire::state::DecisionOutcome;
use sluice_tests::content::{JINJA, NEW_LIBC, OLD_LIBC, debian};
use sluice_tests::{BusClient, Database, Image, Stack, wait_for};

use super::{quiet, reconcile};

const RESOURCES: &str = "---
kind: Repository
name: official/*
visibility: public
---
kind: PromotionPolicy
name: clean
from: hub/*
to: official/{name}
when: scan.critical == 0 && scan.high == 0
";
const STAGES: [&str; 5] = [
    "poller",
    "mirror-worker",
    "promoter",
    "pruner",
    "webhook-dispatcher",
];

/// Every tag with its image, and whether it is clean.
type Tags = BTreeMap<(String, String), (Image, bool)>;

/// Publishes tags over repositories, and mirrors them with every stage at work.
fn run(stack: &mut Stack, repositories: usize, tags: usize) -> Tags {
    Database::of("2020-01-02T00:00:00Z").publish(stack);
    for stage in STAGES {
        stack.service(stage, &[]);
    }
    stack.scanner(&[]);
    let publisher = stack.publisher();
    let mut resources = stack.upstream_resource() + RESOURCES;
    let mut all = Tags::new();
    for number in 0..repositories {
        let from = format!("library/app{number}");
        for tag in 0..tags {
            let clean = tag != 0;
            let note = format!("{number} {tag}");
            let mut files = debian(if clean {
                &[NEW_LIBC]
            } else {
                &[OLD_LIBC, JINJA]
            });
            files.push(("note", &note));
            let image = publisher.files(&from, "amd64", &files);
            publisher.put(&from, &format!("1.{tag}"), &image);
            all.insert((format!("app{number}"), format!("1.{tag}")), (image, clean));
        }
        let (name, to) = (format!("app{number}"), format!("hub/app{number}"));
        resources += &stack.mirror(&name, &from, &to, "every: 1h\n");
    }
    stack.apply(&resources);
    all
}

/// Returns how many images were judged, and how many of those stand in their target.
fn judged(bus: &BusClient) -> (usize, usize) {
    let decisions = bus.run(bus.state.decisions.list("*.*.*.*")).unwrap();
    let settled = |outcome| {
        let decided = decisions
            .iter()
            .filter(|entry| entry.value.outcome() == outcome);
        decided.filter(|entry| entry.value.published).count()
    };
    (
        settled(DecisionOutcome::Allow) + settled(DecisionOutcome::Deny),
        settled(DecisionOutcome::Allow),
    )
}

fn ends(stack: &Stack, bus: &BusClient, all: &Tags) {
    let clean = all.values().filter(|(_, clean)| *clean).count();
    wait_for("every tag to be judged", 240, || {
        (judged(bus) == (all.len(), clean)).then_some(())
    });
    quiet(stack);
    let reader = stack.reader();
    for ((name, tag), (image, clean)) in all {
        assert_eq!(reader.get(&format!("hub/{name}"), tag).unwrap(), image.raw);
        let official = reader.get(&format!("official/{name}"), tag);
        assert_eq!(official, clean.then(|| image.raw.clone()), "{name}:{tag}");
    }
    assert_eq!(stack.status()["deadLetters"], 0);
    for found in reconcile(stack, &[]) {
        assert_eq!(found["found"], 0, "{found}");
    }
}

#[test]
fn a_log_that_is_lost_in_the_middle_of_a_run_changes_nothing_of_its_end() {
    let mut stack = Stack::start(7_200);
    let all = run(&mut stack, 8, 5);
    let bus = stack.bus();
    for some in [1, 6, 15, 25] {
        wait_for("the run to go on", 120, || {
            (judged(&bus).0 >= some).then_some(())
        });
        stack.nats.purge("EVENTS");
    }
    ends(&stack, &bus, &all);
}

#[test]
fn messages_that_all_come_again_after_the_window_change_nothing() {
    let mut stack = Stack::start(1);
    let all = run(&mut stack, 4, 3);
    let bus = stack.bus();
    ends(&stack, &bus, &all);
    let promoted = stack.events("image.promoted").len();
    for stage in [
        "mirror-worker",
        "promoter",
        "pruner",
        "webhook-dispatcher",
        "scanner-adapter",
    ] {
        stack.nats.remove_consumer("EVENTS", stage);
    }
    stack.sluice(&["provision", "--duplicate-window-seconds", "1"]);
    quiet(&stack);
    ends(&stack, &bus, &all);
    assert_eq!(stack.events("image.promoted").len(), promoted);
}
