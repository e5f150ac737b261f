//! Whatever the log loses, each stage finds from what is stored, and a search that was not needed does nothing.

mod whole;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::Utc;
use serde_json::Value;
use sluice_bus::topology;
use sluice_domain::Digest;
use sluice_events::time_to_wire;
use sluice_events::wire::events::SeverityCounts;
use sluice_events::wire::state::{ImageChild, ImageEntry, TagEntry, Verdict, VerdictStatus};
use sluice_state::key;
use sluice_state::reconcile::{self, reason};
use sluice_tests::content::{NEW_LIBC, debian};
use sluice_tests::endpoint::{Endpoint, webhook};
use sluice_tests::proxy::Silence;
use sluice_tests::{BusClient, Database, Faults, Image, Proxy, Stack, Upstream, wait_for};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

fn lose(stack: &Stack) {
    stack.nats.purge("EVENTS");
    stack.nats.purge("WORK");
}

fn quiet(stack: &Stack) {
    wait_for("every stage to be done", 90, || {
        stack.is_quiet().then_some(())
    });
}

fn reconcile(stack: &Stack, stages: &[&str]) -> Vec<Value> {
    let told = stack.sluice(&[&["reconcile", "-o", "json"], stages].concat());
    serde_json::from_str::<Value>(&told)
        .unwrap()
        .as_array()
        .unwrap()
        .clone()
}

/// Mirrors `library/app`, tags `1.0` to `1.<count - 1>`, until the poller has told of each.
fn polled(stack: &mut Stack, count: usize, more: &str) -> Vec<Image> {
    let publisher = stack.publisher();
    let images: Vec<Image> = (0..count)
        .map(|tag| {
            let note = format!("{tag}");
            let files = [debian(&[NEW_LIBC]), vec![("note", note.as_str())]].concat();
            let image = publisher.files("library/app", "amd64", &files);
            publisher.put("library/app", &format!("1.{tag}"), &image);
            image
        })
        .collect();
    stack.service("poller", &[]);
    stack.apply(&format!(
        "{}{}{more}",
        stack.upstream_resource(),
        stack.mirror("app", "library/app", "hub/app", "every: 1h\n")
    ));
    let bus = stack.bus();
    wait_for("the poll to be recorded", 60, || {
        let known = bus.run(bus.state.upstream.list("*.*")).unwrap();
        (known.len() == count).then_some(())
    });
    quiet(stack);
    images
}

fn arrived(reader: &Upstream, images: &[Image]) {
    for (tag, image) in images.iter().enumerate() {
        wait_for(&format!("hub/app:1.{tag}"), 60, || {
            (reader.get("hub/app", &format!("1.{tag}"))? == image.raw).then_some(())
        });
    }
}

#[test]
fn a_mirror_worker_finds_the_moves_that_the_log_lost_and_tells_each_once() {
    let mut stack = Stack::start(7_200);
    let images = polled(&mut stack, 3, "");
    lose(&stack);
    stack.service("mirror-worker", &[]);
    arrived(&stack.reader(), &images);
    wait_for("each to be told", 30, || {
        (stack.events("tag.mirrored").len() == 3).then_some(())
    });
    // Nothing is missing any more, and what is there is not told again.
    stack.service("mirror-worker", &[]);
    assert_eq!(reconcile(&stack, &["mirror-worker"])[0]["found"], 0);
    quiet(&stack);
    assert_eq!(stack.events("tag.mirrored").len(), 3);
}

#[test]
fn a_running_mirror_worker_notices_by_itself_that_the_log_was_purged() {
    let mut stack = Stack::start(7_200);
    // It cannot copy until it may use the upstream, so everything still waits when the log is lost.
    stack.service("mirror-worker", &[]);
    let publisher = stack.publisher();
    let image = publisher.image("library/app", "amd64", "content");
    publisher.put("library/app", "1.0", &image);
    stack.service("poller", &[]);
    let wrong = "kind: Registry\nname: upstream\nhost: 127.0.0.1:1\nplain_http: true\n";
    stack.apply(wrong);
    stack.apply(&format!(
        "{}{}",
        stack.upstream_resource(),
        stack.mirror("app", "library/app", "hub/app", "every: 1h\n")
    ));
    wait_for("the move to be mirrored", 60, || {
        stack.reader().get("hub/app", "1.0")
    });
    quiet(&stack);
    // A decision of nobody: the tag is as if it had never been mirrored, and the log says nothing of it.
    let bus = stack.bus();
    let key = key::tag(&"hub/app".parse().unwrap(), &"1.0".parse().unwrap());
    bus.run(bus.state.tags.delete(&key)).unwrap();
    bus.publish(sluice_tests::bus::promoted("other", "1"), "x");
    stack.nats.purge("EVENTS");
    wait_for("the tag to be known again", 60, || {
        bus.run(bus.state.tags.get(&key)).unwrap()
    });
    quiet(&stack);
}

#[test]
fn a_scanner_finds_the_images_that_nobody_scanned() {
    let mut stack = Stack::start(7_200);
    Database::of("2020-01-02T00:00:00Z").publish(&stack);
    stack.service("mirror-worker", &[]);
    let images = polled(&mut stack, 2, "");
    arrived(&stack.reader(), &images);
    quiet(&stack);
    lose(&stack);
    stack.scanner(&[]);
    wait_for("both to be scanned", 90, || {
        (stack.events("scan.succeeded").len() == 2).then_some(())
    });
    quiet(&stack);
    assert_eq!(reconcile(&stack, &["scanner-adapter"])[0]["found"], 0);
    assert_eq!(stack.events("scan.succeeded").len(), 2);
}

/// Lets a scanner find the registry like that with three images to scan, until so many of its messages stand so; nobody
/// may find any of them missing then, and each is told once in the end.
fn nothing_is_missing_while(faults: Faults, stands: &str, messages: u64) {
    let mut stack = Stack::start(7_200);
    Database::of("2020-01-02T00:00:00Z").publish(&stack);
    stack.service("mirror-worker", &[]);
    let images = polled(&mut stack, 3, "");
    arrived(&stack.reader(), &images);
    quiet(&stack);
    let proxy = Proxy::between(&stack.internal.host);
    proxy.set(faults);
    let registry = format!("http://{}", proxy.host);
    stack.scanner(&[
        ("SLUICE__REGISTRY__URL", registry.as_str()),
        ("SLUICE__SCANNER__CONCURRENCY", "4"),
    ]);
    wait_for("the images to stand like that", 60, || {
        let status = stack.status();
        let stages = status["stages"].as_array()?.iter();
        let own = stages.filter(|stage| stage["stage"] == "scanner-adapter");
        let counts = own.filter_map(|stage| stage[stands].as_u64());
        (counts.sum::<u64>() >= messages).then_some(())
    });
    assert_eq!(reconcile(&stack, &["scanner-adapter"])[0]["found"], 0);
    proxy.heal();
    wait_for("all to be scanned", 90, || {
        (stack.events("scan.succeeded").len() >= 3).then_some(())
    });
    quiet(&stack);
    assert_eq!(stack.events("scan.succeeded").len(), 3);
}

#[test]
fn a_scan_that_waits_is_not_missing() {
    let refuse = Faults {
        refuse: true,
        ..Faults::default()
    };
    nothing_is_missing_while(refuse, "later", 3);
}

#[test]
fn a_scan_that_is_under_way_is_not_missing() {
    let stall = Faults {
        silence: Some(Silence::Stall),
        ..Faults::default()
    };
    nothing_is_missing_while(stall, "inFlight", 3);
}

#[test]
fn a_pruner_finds_the_repositories_that_are_over_their_limit() {
    let mut stack = Stack::start(7_200);
    stack.service("mirror-worker", &[]);
    let limit = "---\nkind: Repository\nname: hub/*\nkeep: 1\n";
    let images = polled(&mut stack, 3, limit);
    arrived(&stack.reader(), &images);
    quiet(&stack);
    lose(&stack);
    stack.service("pruner", &[]);
    wait_for("two tags to be removed", 60, || {
        let reader = stack.reader();
        let left = (0..3).filter(|tag| reader.get("hub/app", &format!("1.{tag}")).is_some());
        (left.count() == 1).then_some(())
    });
    quiet(&stack);
    // What retention removed is not mirrored again.
    for found in reconcile(&stack, &["pruner", "mirror-worker"]) {
        assert_eq!(found["found"], 0, "{found}");
    }
}

#[test]
fn a_delivery_whose_message_is_lost_is_made_as_long_as_the_log_has_its_event() {
    let mut stack = Stack::start(7_200);
    let folder = stack.folder().to_owned();
    let endpoint = Endpoint::own(&folder, "hook", SECRET, &["--fail-first", "2"]);
    let events = "events: [image.promoted]\n";
    stack.apply(&webhook(&folder, "hook", &endpoint.url, SECRET, events));
    let first = stack.service("webhook-dispatcher", &[]);
    let bus = stack.bus();
    bus.publish(sluice_tests::bus::promoted("app", "1.0"), "once");
    wait_for("an attempt to fail", 30, || {
        let known = bus.run(bus.state.deliveries.list("*.*")).unwrap();
        known
            .iter()
            .any(|entry| entry.value.attempt_count > 0)
            .then_some(())
    });
    stack.kill(first);
    stack.nats.purge("WORK");
    stack.nats.purge("SCHEDULES_webhook-dispatcher");
    stack.service("webhook-dispatcher", &[]);
    wait_for("it to be delivered", 60, || {
        (stack.events("webhook.delivered").len() == 1).then_some(())
    });
    quiet(&stack);
    assert_eq!(endpoint.taken().len(), 1);
}

#[test]
fn the_gateway_tells_what_the_registry_has_and_nobody_knows_of() {
    let stack = Stack::start(7_200);
    stack.apply(
        stack
            .account("ci", "push: ['team/*']\n")
            .trim_start_matches("---\n"),
    );
    let ci = Upstream::with_account(&stack.internal.host, "ci", "cici");
    wait_for("the gateway to know the account", 20, || {
        (ci.try_upload("team/app") == 202).then_some(())
    });
    let image = ci.image("team/app", "amd64", "content");
    ci.put("team/app", "1.0", &image);
    wait_for("the push to be told", 30, || {
        (stack.events("tag.pushed").len() == 1).then_some(())
    });
    let bus = stack.bus();
    let key = key::tag(&"team/app".parse().unwrap(), &"1.0".parse().unwrap());
    let recorded = || {
        wait_for("the tag to be recorded", 30, || {
            bus.run(bus.state.tags.get(&key)).unwrap()
        })
    };
    recorded();
    // What was told and recorded is not told again, whatever became of the log.
    assert_eq!(reconcile(&stack, &["gateway"])[0]["found"], 0);
    lose(&stack);
    assert_eq!(reconcile(&stack, &["gateway"])[0]["found"], 0);
    // As if the notification had been lost.
    bus.run(bus.state.tags.delete(&key)).unwrap();
    assert_eq!(reconcile(&stack, &["gateway"])[0]["found"], 1);
    let pushed = stack.events("tag.pushed");
    assert_eq!(pushed.len(), 1);
    assert_eq!(pushed[0]["data"]["digest"], image.digest);
    assert_eq!(pushed[0]["data"]["actor"], "");
    recorded();
    lose(&stack);
    assert_eq!(reconcile(&stack, &["gateway"])[0]["found"], 0);
}

#[test]
fn a_mirror_whose_poll_is_overdue_is_polled_on_demand() {
    let mut stack = Stack::start(7_200);
    polled(&mut stack, 1, "");
    assert_eq!(reconcile(&stack, &["poller"])[0]["found"], 0);
    let bus = stack.bus();
    let key = key::poll(&"app".parse().unwrap());
    let read = || bus.run(bus.state.polls.get(&key)).unwrap().unwrap().value;
    let mut poll = read();
    let old = Some(time_to_wire(Utc::now() - chrono::TimeDelta::hours(3)));
    poll.polled_at = old;
    bus.run(bus.state.polls.put(&key, &poll)).unwrap();
    assert_eq!(reconcile(&stack, &["poller"])[0]["found"], 1);
    wait_for("another poll", 30, || {
        (read().polled_at != old).then_some(())
    });
    quiet(&stack);
}

#[test]
fn a_search_is_seen_to_end_although_others_end_right_after_it() {
    let mut stack = Stack::start(7_200);
    stack.service("poller", &[]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let bus = stack.bus();
            while !is_over.load(Ordering::Relaxed) {
                bus.command(reconcile::command(&topology::POLLER, reason::CHANGED));
                bus.run(async { tokio::time::sleep(Duration::from_millis(5)).await });
            }
        });
        let ended = stack.try_sluice(&["reconcile", "--timeout-seconds", "20", "poller"]);
        is_over.store(true, Ordering::Relaxed);
        assert!(ended.status.success(), "{ended:?}");
    });
    quiet(&stack);
}

#[test]
fn every_stage_has_an_hourly_search_and_says_so_by_name() {
    let mut stack = Stack::start(7_200);
    for stage in [
        "poller",
        "mirror-worker",
        "promoter",
        "pruner",
        "webhook-dispatcher",
    ] {
        stack.service(stage, &[]);
    }
    let bus = stack.bus();
    for stage in topology::STAGES {
        if stage.name == topology::SCANNER_ADAPTER.name {
            continue;
        }
        let schedule = reconcile::hourly_schedule(stage);
        wait_for("the schedule", 30, || {
            bus.run(bus.bus.has_schedule(&schedule))
                .unwrap()
                .then_some(())
        });
    }
    let refused = stack.try_sluice(&["reconcile", "promotor"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && told.contains("promoter"),
        "{told}"
    );
    quiet(&stack);
}

fn repository(number: usize) -> String {
    format!("hub/app{number}")
}

/// Stores a tag with a scanned image that has findings, as if the stages before had brought it.
fn store(bus: &BusClient, publisher: &Upstream, number: usize, bases: &[Image]) {
    let base = number % bases.len();
    let (repository, tag) = (repository(base), format!("1.{number}"));
    let image = bases[base].annotated(&tag);
    publisher.put(&repository, &tag, &image);
    let digest = image.digest;
    let parsed: Digest = digest.parse().unwrap();
    let image = ImageEntry {
        digest: digest.clone(),
        children: vec![ImageChild {
            digest: digest.clone(),
            platform: "linux/amd64".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let verdict = Verdict {
        digest: digest.clone(),
        scanner: key::SCANNER.to_owned(),
        database_version: "1".to_owned(),
        status: VerdictStatus::Covered.into(),
        counts: Some(SeverityCounts {
            critical: 1,
            ..Default::default()
        }),
        packages: 3,
        ..Default::default()
    };
    let entry = TagEntry {
        repository: repository.clone(),
        tag: tag.clone(),
        digest,
        arrived_at: Some(time_to_wire(Utc::now())),
        ..Default::default()
    };
    let key = key::tag(&repository.parse().unwrap(), &tag.parse().unwrap());
    bus.run(async {
        bus.state
            .images
            .put(&key::image(&parsed), &image)
            .await
            .unwrap();
        bus.state
            .verdicts
            .put(&key::verdict(&parsed), &verdict)
            .await
            .unwrap();
        bus.state.tags.put(&key, &entry).await.unwrap();
    });
}

#[test]
fn a_changed_policy_reaches_every_image_although_the_promoter_is_killed_in_the_middle() {
    const IMAGES: usize = 1_200;
    let mut stack = Stack::start(7_200);
    let bus = stack.bus();
    let publisher = stack.as_service("mirror-worker");
    let bases: Vec<Image> = (0..7)
        .map(|number| publisher.image(&repository(number), "amd64", "content"))
        .collect();
    for number in 0..IMAGES {
        store(&bus, &publisher, number, &bases);
    }
    let first = stack.service("promoter", &[]);
    stack.apply(
        "kind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: official/{name}\nwhen: scan.critical == 0\n",
    );
    let decided = || bus.run(bus.state.decisions.list("*.*.*.*")).unwrap().len();
    wait_for("some images to be judged", 60, || {
        (decided() > 20).then_some(())
    });
    stack.kill(first);
    let then = decided();
    assert!(then < IMAGES, "it was killed too late");
    stack.service("promoter", &[]);
    wait_for("every image to be judged", 120, || {
        (decided() == IMAGES).then_some(())
    });
    wait_for("every stage to be done", 90, || {
        stack.is_quiet().then_some(())
    });
    let denied = stack.events("image.promotion_denied");
    let ids: BTreeSet<String> = denied.iter().map(|fact| fact["id"].to_string()).collect();
    assert_eq!((denied.len(), ids.len()), (IMAGES, IMAGES));
    assert_eq!(reconcile(&stack, &["promoter"])[0]["found"], 0);
}
