//! Retention: what is over the limit or meets a condition goes, and nothing else does.

mod attached;

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};
use sluice_bus::{Cause, Schedule, Timing};
use sluice_events::EventId;
use sluice_events::commands::PruneRepositories;
use sluice_events::facts::TagPushed;
use sluice_events::time_to_wire;
use sluice_events::wire::events::SeverityCounts;
use sluice_events::wire::state::{
    Claim, Decision, DecisionOutcome, Pruning, TagEntry, Verdict, VerdictStatus,
};
use sluice_state::key;
use sluice_tests::{BusClient, Image, Stack, Upstream, wait_for};

const EVERYTHING: PruneRepositories = PruneRepositories {
    policy: None,
    repository: None,
};

fn keep(repository: &str, tags: u32) -> String {
    format!("---\nkind: Repository\nname: '{repository}'\nkeep: {tags}\n")
}

fn limit(repository: &str) -> PruneRepositories {
    PruneRepositories {
        policy: None,
        repository: Some(repository.parse().unwrap()),
    }
}

/// Puts an image into the internal registry with an entry, as if it had arrived so many minutes ago.
fn hold(stack: &Stack, bus: &BusClient, repository: &str, tag: &str, minutes: i64) -> Image {
    let writer = stack.as_service("mirror-worker");
    let image = writer.image(repository, "amd64", &format!("{repository}:{tag}"));
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
    bus.run(bus.state.tags.put(&key, &entry)).unwrap();
    image
}

/// Returns the tags that were told to be deleted, each as often as it was told.
fn deleted(stack: &Stack) -> Vec<String> {
    let mut tags: Vec<String> = stack
        .events("prune.completed")
        .iter()
        .flat_map(|fact| fact["data"]["deleted"].as_array().unwrap().clone())
        .map(|pruned| pruned["tag"].as_str().unwrap().to_owned())
        .collect();
    tags.sort();
    tags
}

fn has(stack: &Stack, repository: &str, tag: &str) -> bool {
    stack.reader().get(repository, tag).is_some()
}

fn quiet(stack: &Stack) {
    wait_for("everything to be done", 60, || {
        stack.is_quiet().then_some(())
    });
}

#[test]
fn the_newest_stay_with_all_that_they_reach_and_no_poll_brings_the_others_back() {
    let mut stack = Stack::start(1);
    let publisher = stack.publisher();
    let (shared, child, other) = (
        publisher.image("library/app", "amd64", "shared"),
        publisher.image("library/app", "arm64", "child"),
        publisher.image("library/app", "amd64", "other"),
    );
    let index = publisher.index("library/app", &[("amd64", &other), ("arm64", &child)]);
    stack.service("poller", &[]);
    stack.service("mirror-worker", &[]);
    let mirror = stack.mirror("app", "library/app", "hub/app", "every: 2s\n");
    stack.apply(&format!(
        "{}{mirror}{}",
        stack.upstream_resource(),
        keep("hub/*", 3)
    ));
    // One after the other, so that the order of their arrival is known.
    for (tag, image) in [
        ("1", &shared),
        ("2", &child),
        ("3", &other),
        ("4", &other),
        ("5", &index),
        ("6", &shared),
    ] {
        publisher.put("library/app", tag, image);
        stack.sluice(&["poll", "app"]);
        wait_for("the tag to arrive", 30, || {
            has(&stack, "hub/app", tag).then_some(())
        });
    }
    stack.service("pruner", &[]);
    wait_for("the oldest to go", 30, || {
        (deleted(&stack) == ["1", "2", "3"]).then_some(())
    });
    let facts = stack.events("prune.completed");
    let reason = facts[0]["data"]["deleted"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("keeps 3 tags"), "{reason}");
    let reader = stack.reader();
    for tag in ["1", "2", "3"] {
        assert!(!has(&stack, "hub/app", tag), "{tag}");
    }
    assert_eq!(reader.get("hub/app", "4").unwrap(), other.raw);
    assert_eq!(reader.get("hub/app", "5").unwrap(), index.raw);
    // The same digest had an older tag, which went; and a child of the index had one.
    assert_eq!(reader.get("hub/app", "6").unwrap(), shared.raw);
    assert_eq!(reader.get("hub/app", &child.digest).unwrap(), child.raw);

    // Several more polls see the same tags upstream.
    let bus = stack.bus();
    for _ in 0..3 {
        stack.sluice(&["poll", "app"]);
        quiet(&stack);
    }
    assert_eq!(stack.events("upstream.tag_moved").len(), 6);
    // A late delivery of a move whose tag was pruned does not bring it back either.
    let moves = bus
        .run(bus.bus.facts("sluice.v1.upstream.tag_moved.>"))
        .unwrap();
    wait_for("the stream to forget", 10, || {
        let again = bus.publish(moves[0].event.clone().unwrap(), "1");
        (!again.duplicate).then_some(())
    });
    // Planning again finds nothing to do.
    bus.command(limit("hub/app"));
    bus.command(EVERYTHING);
    quiet(&stack);
    assert!(!has(&stack, "hub/app", "1"));
    assert_eq!(deleted(&stack), ["1", "2", "3"]);
    assert_eq!(stack.events("tag.mirrored").len(), 6);
}

#[test]
fn a_policy_deletes_what_meets_its_condition_whenever_its_schedule_says() {
    let mut stack = Stack::start(7_200);
    let bus = stack.bus();
    hold(&stack, &bus, "hub/app", "1.0", 60);
    hold(&stack, &bus, "hub/app", "1.1-rc1", 50);
    hold(&stack, &bus, "hub/app", "unscanned", 40);
    let bad = hold(&stack, &bus, "hub/app", "bad", 30);
    hold(&stack, &bus, "other/app", "1.1-rc1", 20);
    let verdict = |critical| Verdict {
        status: VerdictStatus::Covered.into(),
        counts: Some(SeverityCounts {
            critical,
            ..Default::default()
        }),
        packages: 10,
        ..Default::default()
    };
    let judge = |image: &Image, critical| {
        let key = key::verdict(&image.digest.parse().unwrap());
        bus.run(bus.state.verdicts.put(&key, &verdict(critical)))
            .unwrap();
    };
    judge(&bad, 6);
    stack.apply(
        "kind: PruningPolicy\nname: often\nrepositories: [hub/*]\nschedule: '0 3 * * *'\n\
         delete: tag.endsWith('-rc1') || scan.critical > 5\n",
    );
    stack.service("pruner", &[]);
    wait_for("the schedule of the policy", 20, || {
        let names = bus.run(bus.bus.schedules("prune")).unwrap();
        (names == ["prune.often"]).then_some(())
    });
    assert!(deleted(&stack).is_empty(), "applying a policy deleted");
    // What the schedule fires at three in the morning, every two seconds.
    let schedule = Schedule {
        name: "prune.test".to_owned(),
        timing: Timing::Cron("*/2 * * * * *".to_owned()),
        command: PruneRepositories {
            policy: Some("often".parse().unwrap()),
            repository: None,
        }
        .into(),
    };
    bus.run(bus.bus.put_schedule(&schedule)).unwrap();
    wait_for("both to go", 30, || {
        (deleted(&stack) == ["1.1-rc1", "bad"]).then_some(())
    });
    let facts = stack.events("prune.completed");
    assert_eq!(facts.len(), 1);
    assert_eq!(facts[0]["data"]["policy"], "often");
    assert_eq!(facts[0]["data"]["kept"], 2);
    let told = facts[0]["data"]["deleted"].to_string();
    assert!(told.contains("scan.critical = 6"), "{told}");
    for (repository, tag) in [
        ("hub/app", "1.0"),
        ("hub/app", "unscanned"),
        ("other/app", "1.1-rc1"),
    ] {
        assert!(has(&stack, repository, tag), "{repository}:{tag}");
    }
    // Later ticks find only what came since.
    hold(&stack, &bus, "hub/app", "1.2-rc1", 0);
    wait_for("the newcomer to go", 30, || {
        (deleted(&stack) == ["1.1-rc1", "1.2-rc1", "bad"]).then_some(())
    });
    assert_eq!(stack.events("prune.completed").len(), 2);
    bus.run(bus.bus.remove_schedule("prune.test")).unwrap();
}

#[test]
fn a_mirror_of_more_versions_than_are_kept_ends_with_the_newest() {
    let mut stack = Stack::start(7_200);
    let publisher = stack.publisher();
    let image = publisher.image("library/app", "amd64", "one");
    let tags: Vec<String> = (0..15).map(|minor| format!("1.{minor}")).collect();
    for tag in &tags {
        publisher.put("library/app", tag, &image);
    }
    for service in ["poller", "mirror-worker", "pruner"] {
        stack.service(service, &[]);
    }
    let mirror = stack.mirror("app", "library/app", "hub/app", "every: 1h\n");
    stack.apply(&format!(
        "{}{mirror}{}",
        stack.upstream_resource(),
        keep("hub/*", 5)
    ));
    wait_for("ten to go", 60, || {
        (deleted(&stack).len() == 10).then_some(())
    });
    quiet(&stack);
    let newest = ["1.10", "1.11", "1.12", "1.13", "1.14"];
    for tag in &tags {
        let expected = newest.contains(&tag.as_str());
        assert_eq!(has(&stack, "hub/app", tag), expected, "{tag}");
    }
}

#[test]
fn a_registry_that_is_away_is_waited_for_and_nothing_is_deleted() {
    let mut stack = Stack::start(7_200);
    let bus = stack.bus();
    for (tag, minutes) in [("1", 30), ("2", 20), ("3", 10)] {
        hold(&stack, &bus, "hub/app", tag, minutes);
    }
    stack.apply(&keep("hub/*", 1));
    stack.internal.stop();
    stack.service("pruner", &[]);
    bus.command(limit("hub/app"));
    wait_for("the run to wait", 30, || {
        let status = stack.status();
        let stages = status["stages"].as_array().unwrap();
        // The search at the start finds the same repository over its limit; its run waits too.
        let waits = |stage: &&serde_json::Value| {
            stage["stage"] == "pruner" && stage["later"].as_u64() >= Some(1)
        };
        stages.iter().find(waits).map(drop)
    });
    assert_eq!(stack.status()["deadLetters"], 0);
    let entries = bus.run(bus.state.tags.list(">")).unwrap();
    assert!(
        entries
            .iter()
            .all(|entry| !entry.value.pruned && entry.value.claim.is_none())
    );
    stack.internal.restart();
    for tag in ["1", "2", "3"] {
        assert!(has(&stack, "hub/app", tag), "{tag}");
    }
    wait_for("the run to go on", 60, || {
        (deleted(&stack) == ["1", "2"]).then_some(())
    });
    assert!(has(&stack, "hub/app", "3"));
}

#[test]
fn what_soaks_stays_and_a_target_of_promotion_is_left_alone() {
    let mut stack = Stack::start(7_200);
    let bus = stack.bus();
    let waits = hold(&stack, &bus, "hub/app", "soaks", 40);
    let denied = hold(&stack, &bus, "hub/app", "denied", 30);
    for repository in ["hub/app", "official/app"] {
        hold(&stack, &bus, repository, "old", 20);
        hold(&stack, &bus, repository, "new", 10);
    }
    let decide = |tag: &str, image: &Image, outcome: DecisionOutcome| {
        let decision = Decision {
            policy: "clean".to_owned(),
            repository: "hub/app".to_owned(),
            tag: tag.to_owned(),
            digest: image.digest.clone(),
            outcome: outcome.into(),
            ..Default::default()
        };
        let key = key::decision(
            &"clean".parse().unwrap(),
            &"hub/app".parse().unwrap(),
            &tag.parse().unwrap(),
            &image.digest.parse().unwrap(),
        );
        bus.run(bus.state.decisions.put(&key, &decision)).unwrap();
    };
    decide("soaks", &waits, DecisionOutcome::Wait);
    decide("denied", &denied, DecisionOutcome::Deny);
    stack.apply(&format!(
        "kind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: official/{{name}}\nwhen: scan.critical == 0\nsoak: 24h\n{}",
        keep("**", 1)
    ));
    let pruner = stack.service("pruner", &[]);
    bus.command(EVERYTHING);
    bus.command(limit("official/app"));
    wait_for("two to go", 30, || {
        (deleted(&stack) == ["denied", "old"]).then_some(())
    });
    quiet(&stack);
    for (repository, tag) in [
        ("hub/app", "soaks"),
        ("hub/app", "new"),
        ("official/app", "old"),
        ("official/app", "new"),
    ] {
        assert!(has(&stack, repository, tag), "{repository}:{tag}");
    }
    assert!(
        stack
            .log_of(pruner)
            .contains("not pruned: the repository is a promotion target")
    );
    // Once its decision is another, nothing keeps it any more.
    decide("soaks", &waits, DecisionOutcome::Deny);
    bus.command(limit("hub/app"));
    wait_for("it to go", 30, || {
        (deleted(&stack) == ["denied", "old", "soaks"]).then_some(())
    });
}

#[test]
fn a_person_can_ask_for_retention_and_for_a_scan() {
    let mut stack = Stack::start(7_200);
    // No scanner runs here, so the command stays.
    stack.may_leave_messages();
    let bus = stack.bus();
    stack.apply(&keep("hub/*", 1));
    stack.service("pruner", &[]);
    hold(&stack, &bus, "hub/app", "old", 60);
    let new = hold(&stack, &bus, "hub/app", "new", 1);
    quiet(&stack);
    assert!(has(&stack, "hub/app", "old"), "nobody asked yet");
    stack.sluice(&["prune", "hub/app"]);
    wait_for("the old one to go", 30, || {
        (deleted(&stack) == ["old"]).then_some(())
    });
    let told = stack.sluice(&["scan", "hub/app:new"]);
    assert!(told.contains(&new.digest), "{told}");
    let stages = stack.status()["stages"].clone();
    let waiting = stages.as_array().unwrap().iter().any(|stage| {
        stage["stage"] == "scanner-adapter" && stage["stream"] == "WORK" && stage["waiting"] == 1
    });
    assert!(waiting, "{stages}");
    for (wrong, told) in [
        (["scan", "hub/app:old"], "`hub/app:old` not found"),
        (["scan", "hub/app:other"], "not found"),
        (
            ["prune", "--policy=other"],
            "pruningpolicy `other` not found",
        ),
    ] {
        let output = stack.try_sluice(&wrong);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && complaint.contains(told),
            "{complaint}"
        );
    }
}

#[test]
fn what_people_pull_stays_where_retention_goes_by_pulls() {
    let mut stack = Stack::start(7_200);
    let bus = stack.bus();
    let images = [("1.0", 30), ("2.0", 20), ("3.0", 10)]
        .map(|(tag, minutes)| hold(&stack, &bus, "team/app", tag, minutes));
    let account = stack.account("ci", "pull: ['team/*']\n");
    stack.apply(account.trim_start_matches("---\n"));
    let ci = Upstream::with_account(&stack.internal.host, "ci", "cici");
    // What a service reads is no pull.
    assert!(has(&stack, "team/app", "2.0"));
    wait_for("the gateway to know the account", 20, || {
        ci.get("team/app", "1.0")
    });
    let repository = "team/app".parse().unwrap();
    let pulled = |image: &Image| {
        let key = key::pull(&repository, &image.digest.parse().unwrap());
        bus.run(bus.state.pulls.get(&key)).unwrap()
    };
    wait_for("the pull to be recorded", 20, || pulled(&images[0]));
    assert_eq!(pulled(&images[1]), None);
    stack.apply("kind: Repository\nname: team/*\nkeep: { newest: 2, by: pulled }\n");
    stack.service("pruner", &[]);
    wait_for("the one that nobody uses to go", 30, || {
        (deleted(&stack) == ["2.0"]).then_some(())
    });
    quiet(&stack);
    assert!(has(&stack, "team/app", "1.0") && has(&stack, "team/app", "3.0"));
}

#[test]
fn what_people_push_counts_and_what_moved_since_stays() {
    let mut stack = Stack::start(7_200);
    let bus = stack.bus();
    stack.apply(&keep("team/*", 1));
    stack.service("pruner", &[]);
    let writer = stack.as_service("mirror-worker");
    let push = |tag: &str, content: &str, actor: &str| {
        let image = writer.image("team/app", "amd64", content);
        writer.put("team/app", tag, &image);
        let pushed = TagPushed {
            registry: "registry.internal".parse().unwrap(),
            repository: "team/app".parse().unwrap(),
            tag: tag.parse().unwrap(),
            digest: image.digest.parse().unwrap(),
            media_type: image.media_type.to_owned(),
            size_bytes: 1,
            actor: actor.to_owned(),
            at: Utc::now(),
        };
        bus.publish(pushed, content);
    };
    push("1", "first", "ci");
    quiet(&stack);
    assert!(has(&stack, "team/app", "1"));
    // A push of Sluice's own is told by its stage.
    push("own", "own", "mirror-worker");
    quiet(&stack);
    assert!(has(&stack, "team/app", "1"));
    push("2", "second", "ci");
    wait_for("the first to go", 30, || {
        (deleted(&stack) == ["1"]).then_some(())
    });
    assert!(has(&stack, "team/app", "2") && has(&stack, "team/app", "own"));
    // The entry of a tag says what it was; the registry has another digest by now, which nobody has told yet.
    hold(&stack, &bus, "team/app", "moved", 60);
    let newer = writer.image("team/app", "amd64", "newer");
    writer.put("team/app", "moved", &newer);
    bus.command(limit("team/app"));
    quiet(&stack);
    assert_eq!(writer.get("team/app", "moved").unwrap(), newer.raw);
    assert_eq!(deleted(&stack), ["1"]);
}

#[test]
fn a_removal_is_finished_and_told_wherever_it_was_interrupted() {
    let mut stack = Stack::start(7_200);
    let bus = stack.bus();
    let run = EventId::random();
    // Each as a pruner leaves it that is killed at that moment; claims have lapsed since.
    let interrupt = |tag: &str, minutes: i64, digest: Option<&str>| {
        let image = hold(&stack, &bus, "hub/app", tag, minutes);
        let key = key::tag(&"hub/app".parse().unwrap(), &tag.parse().unwrap());
        let mut entry = bus.run(bus.state.tags.get(&key)).unwrap().unwrap().value;
        entry.pruning = Some(Pruning {
            run: run.to_string(),
            digest: image.digest.clone(),
            reason: "too many".to_owned(),
        });
        entry.claim = digest.is_none().then(|| Claim {
            digest: String::new(),
            holder: "pruner/killed".to_owned(),
            until: Some(time_to_wire(Utc::now())),
            ..Default::default()
        });
        entry.pruned = digest.is_some();
        entry.digest = digest.map_or(image.digest.clone(), ToOwned::to_owned);
        bus.run(bus.state.tags.put(&key, &entry)).unwrap();
        image
    };
    let writer = stack.as_service("mirror-worker");
    interrupt("claimed", 50, None);
    interrupt("overwritten", 40, None);
    let tombstone = Image {
        digest: String::new(),
        raw: br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"dev.sluice.tombstone":"x"}}"#.to_vec(),
        media_type: "application/vnd.oci.image.index.v1+json",
    };
    writer.put("hub/app", "overwritten", &tombstone);
    for (tag, minutes, digest) in [("removed", 30, None), ("settled", 20, Some(""))] {
        let image = interrupt(tag, minutes, digest);
        writer.delete("hub/app", &image.digest);
    }
    hold(&stack, &bus, "hub/app", "stays", 10);
    stack.apply(&keep("hub/*", 1));
    stack.service("pruner", &[]);
    let command = limit("hub/app").into();
    let cause = Cause::root();
    bus.run(bus.bus.command_once(&command, &cause, run, "once"))
        .unwrap();
    wait_for("all of them to be told", 30, || {
        // In one fact, or in two where the search at the start was faster than the command.
        (deleted(&stack) == ["claimed", "overwritten", "removed", "settled"]).then_some(())
    });
    for tag in ["claimed", "overwritten", "removed", "settled"] {
        assert!(!has(&stack, "hub/app", tag), "{tag}");
    }
    assert!(has(&stack, "hub/app", "stays"));
    let entries = bus.run(bus.state.tags.list(">")).unwrap();
    let pruned = entries.iter().filter(|entry| {
        entry.value.pruned && entry.value.digest.is_empty() && entry.value.claim.is_none()
    });
    assert_eq!(pruned.count(), 4);
}

#[test]
fn a_killed_pruner_tells_each_deletion_once() {
    let mut stack = Stack::quick(7_200);
    let bus = stack.bus();
    let names: BTreeSet<String> = (10..60).map(|number| number.to_string()).collect();
    for (minutes, name) in (1..).zip(&names) {
        hold(&stack, &bus, "hub/app", name, 100 - minutes);
    }
    stack.apply(&keep("hub/*", 1));
    let first = stack.service("pruner", &[]);
    bus.command(limit("hub/app"));
    wait_for("some to be deleted", 30, || {
        (!has(&stack, "hub/app", "12")).then_some(())
    });
    stack.kill(first);
    assert!(deleted(&stack).is_empty(), "it was killed too late");
    stack.service("pruner", &[]);
    // The message of the killed one comes back after `ack_wait`, which is 1 s here. The search of the new one may have
    // found the same work by then, and tells what it does of it.
    let expected: Vec<String> = names.into_iter().take(49).collect();
    wait_for("every deletion to be told", 90, || {
        (deleted(&stack).len() >= expected.len() && stack.is_quiet()).then_some(())
    });
    assert_eq!(deleted(&stack), expected);
    assert!(has(&stack, "hub/app", "59"));
}
