//! Streams that are full: facts go, the oldest first, and of nothing else anything goes in silence.

use bytes::Bytes;
use sluice_bus::{Change, StreamUsage};
use sluice_events::facts::{ImageFlagged, TagPulled, TagPushed};

use super::*;

const MIB: u64 = 1 << 20;
/// Far more than fits into the smallest limit.
const MANY: usize = 400;

fn text() -> String {
    "x".repeat(16 << 10)
}

fn digest() -> sluice_domain::Digest {
    format!("sha256:{}", "0".repeat(64)).parse().unwrap()
}

fn pulled() -> Event {
    TagPulled {
        registry: "registry.example".parse().unwrap(),
        repository: "hub/app".parse().unwrap(),
        tag: "1.0".parse().unwrap(),
        digest: digest(),
        media_type: text(),
        size_bytes: 1,
        actor: String::new(),
        at: Utc::now(),
    }
    .into()
}

fn pushed() -> Event {
    TagPushed {
        registry: "registry.example".parse().unwrap(),
        repository: "hub/app".parse().unwrap(),
        tag: "1.0".parse().unwrap(),
        digest: digest(),
        media_type: text(),
        size_bytes: 1,
        actor: String::new(),
        at: Utc::now(),
    }
    .into()
}

async fn publish(bus: &Bus, event: &Event, number: usize) {
    let cause = Cause::root();
    let occurrence = number.to_string();
    bus.publish(event, &cause, &occurrence).await.unwrap();
}

async fn usage(bus: &Bus, stream: &str) -> StreamUsage {
    let all = bus.stream_usage().await.unwrap();
    *all.iter().find(|usage| usage.stream == stream).unwrap()
}

async fn count(bus: &Bus, filter: &str) -> usize {
    bus.facts(filter).await.unwrap().len()
}

fn is_outage(error: &sluice_bus::Error) -> bool {
    error.class().is_outage()
}

#[tokio::test]
async fn a_flood_of_pulls_drops_the_oldest_pulls_and_no_other_fact() {
    let (_nats, bus) = limited(&["PULLS=2MiB", "EVENTS=16MiB"]).await;
    publish(&bus, &pushed(), 0).await;
    for number in 0..MANY {
        publish(&bus, &pulled(), number).await;
    }
    let pulls = usage(&bus, topology::PULLS).await;
    assert!(
        pulls.bytes <= 2 * MIB && !pulls.rejects_when_full,
        "{pulls:?}"
    );
    assert!((50..MANY).contains(&count(&bus, "sluice.v1.tag.pulled.>").await));
    assert_eq!(count(&bus, "sluice.v1.tag.pushed.>").await, 1);
    // Whoever reads everything reads pulls, too.
    let all = bus.facts("sluice.v1.>").await.unwrap();
    assert_eq!(
        all.iter()
            .filter(|fact| fact.stream == topology::EVENTS)
            .count(),
        1
    );
    assert!(all.len() > 50);
}

#[tokio::test]
async fn a_full_log_drops_what_is_oldest() {
    let (_nats, bus) = limited(&["EVENTS=2MiB"]).await;
    for number in 0..MANY {
        publish(&bus, &pushed(), number).await;
    }
    let events = usage(&bus, topology::EVENTS).await;
    assert!(
        events.bytes <= 2 * MIB && events.percent() > 90,
        "{events:?}"
    );
    let facts = bus.facts("sluice.v1.tag.pushed.>").await.unwrap();
    assert_eq!(facts.last().unwrap().sequence, MANY as u64);
    assert!(facts.len() < MANY);
}

#[tokio::test]
async fn full_work_is_refused_until_there_is_room_and_nothing_that_waits_is_lost() {
    let (nats, bus) = limited(&["WORK=2MiB"]).await;
    let mirror: ResourceName = "alpine".parse().unwrap();
    let command = PollMirror {
        mirror,
        urgent: false,
    }
    .into();
    // A busy server may answer too late, and have stored the command all the same.
    let (mut stored, mut unanswered) = (0_u64, 0);
    let refused = loop {
        match bus.command(&command, &Cause::root()).await {
            Ok(_) => stored += 1,
            Err(error) if usage(&bus, topology::WORK).await.rejects_when_full => break error,
            Err(_) => unanswered += 1,
        }
        assert!(stored < 100_000);
    };
    assert!(is_outage(&refused), "{refused:?}");
    let waiting = || async {
        let all = bus.status_of(&topology::POLLER).await.unwrap();
        all.iter().map(|status| status.waiting).sum::<u64>()
    };
    assert!((stored..=stored + unanswered).contains(&waiting().await));
    nats.purge("WORK");
    bus.command(&command, &Cause::root()).await.unwrap();
}

#[tokio::test]
async fn a_full_bucket_refuses_what_is_new_and_keeps_and_changes_what_is_there() {
    let (_nats, bus) = limited(&["KV_tags=2MiB"]).await;
    let bucket = bus.bucket("tags").await.unwrap();
    let value = Bytes::from(text());
    let mut stored = 0;
    let refused = loop {
        match bucket.put(&format!("key.{stored}"), value.clone()).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < MANY);
    };
    assert!(is_outage(&refused), "{refused:?}");
    assert!(stored > 50);
    for number in [0, stored - 1] {
        let entry = bucket.get(&format!("key.{number}")).await.unwrap();
        assert_eq!(entry.unwrap().value, value);
    }
    // What makes room is taken.
    bucket.put("key.0", "small".into()).await.unwrap();
    bucket.delete("key.1").await.unwrap();
    bucket.put("key.new", "small".into()).await.unwrap();
}

#[tokio::test]
async fn a_full_object_store_refuses_what_is_new_and_keeps_what_is_there() {
    let (_nats, bus) = limited(&["OBJ_reports=2MiB"]).await;
    let reports = bus.reports().await.unwrap();
    let small = Bytes::from(vec![7; 1 << 20]);
    reports.put("small", small.clone()).await.unwrap();
    let large = Bytes::from(vec![8; 4 << 20]);
    let refused = reports.put("large", large).await.unwrap_err();
    assert!(is_outage(&refused), "{refused:?}");
    assert_eq!(reports.get("small").await.unwrap(), small);
    assert!(reports.get("large").await.is_err());
}

#[tokio::test]
async fn full_schedules_are_refused_and_fire_all_the_same() {
    let (_nats, bus) = limited(&["SCHEDULES_poller=2MiB"]).await;
    let schedule = |number: usize| Schedule {
        name: format!("poll.mirror-{number}"),
        timing: Timing::Cron("0 0 1 1 *".to_owned()),
        command: PollMirror {
            mirror: format!("mirror-{number}").parse().unwrap(),
            urgent: false,
        }
        .into(),
    };
    let mut stored = 0;
    let refused = loop {
        match bus.put_schedule(&schedule(stored)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100_000);
    };
    assert!(is_outage(&refused), "{refused:?}");
    assert_eq!(bus.schedules("poll").await.unwrap().len(), stored);
    // Others have streams of their own.
    let command = Command::from(PollMirror {
        mirror: "other".parse().unwrap(),
        urgent: false,
    });
    bus.command(&command, &Cause::root()).await.unwrap();
}

#[tokio::test]
async fn a_full_audit_loses_nothing_and_goes_on_where_it_stopped_once_there_is_room() {
    let (_nats, bus) = limited(&["AUDIT=2MiB", "EVENTS=64MiB"]).await;
    let flagged: Event = ImageFlagged {
        policy: "clean".parse().unwrap(),
        repository: "official/app".parse().unwrap(),
        tag: "1.0".parse().unwrap(),
        digest: digest(),
        reason: text(),
        registry: None,
    }
    .into();
    for number in 0..MANY {
        publish(&bus, &flagged, number).await;
    }
    let audited = || async {
        let streams = bus.streams().await.unwrap();
        let audit = streams.iter().find(|one| one.name == topology::AUDIT);
        audit.unwrap().messages
    };
    until("the audit to be full", || async {
        usage(&bus, topology::AUDIT).await.percent() >= 98
    })
    .await;
    assert!(audited().await < MANY as u64);
    bus.provision(with(&["AUDIT=64MiB"])).await.unwrap();
    until("the audit to go on", || async {
        audited().await == MANY as u64
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_waits_while_there_is_no_room_for_dead_letters() {
    let (nats, bus) = limited(&["DEAD_LETTERS=2MiB"]).await;
    nats.reconfigure("DEAD_LETTERS", |config| config["max_msgs"] = 1.into());
    let stage = Stage::default();
    ask(&bus, "permanent").await;
    ask(&bus, "permanent").await;
    let stopping = CancellationToken::new();
    let settings = ConsumeSettings {
        concurrency: 2,
        handler_timeout: Duration::from_secs(5),
    };
    let (working, stop) = (bus.clone(), stopping.clone());
    let working = tokio::spawn(async move {
        working
            .consume(&topology::POLLER, stage, settings, stop)
            .await
    });
    let letters = || async { bus.dead_letters(10).await.unwrap().len() };
    until("the first letter", || async { letters().await == 1 }).await;
    let in_flight = || async {
        let all = bus.status_of(&topology::POLLER).await.unwrap();
        all.iter().map(|status| status.in_flight).sum::<u64>()
    };
    until("the other to wait", || async { in_flight().await == 1 }).await;
    nats.reconfigure("DEAD_LETTERS", |config| config["max_msgs"] = (-1).into());
    until("the second letter", || async { letters().await == 2 }).await;
    stopping.cancel();
    working.await.unwrap().unwrap();
    nothing_is_left(&bus).await;
}

#[tokio::test]
async fn an_installation_without_limits_and_with_pulls_in_its_log_is_brought_up_to_date() {
    let (nats, bus) = provisioned().await;
    nats.remove_stream("PULLS");
    for stream in topology::backup_order() {
        if stream == topology::PULLS {
            continue;
        }
        nats.reconfigure(stream, |config| {
            config["max_bytes"] = (-1).into();
            if stream == topology::EVENTS {
                config["subjects"] = serde_json::json!(["sluice.v1.>"]);
            }
            if !stream.starts_with("KV_") && !stream.starts_with("OBJ_") {
                config["discard"] = "old".into();
            }
        });
    }
    nats.remove_consumer("EVENTS", "webhook-dispatcher");
    nats.consumer(
        "EVENTS",
        "webhook-dispatcher",
        &["sluice.v1.tag.>", "sluice.v1.image.>"],
    );
    publish(&bus, &pushed(), 0).await;
    let told = bus.stream_usage().await.unwrap_err();
    assert!(told.to_string().contains("PULLS"), "{told}");
    let changes = bus.provision(ProvisionOptions::default()).await.unwrap();
    assert!(
        changes.contains(&Change::Created("PULLS".to_owned())),
        "{changes:?}"
    );
    for usage in bus.stream_usage().await.unwrap() {
        assert!(usage.limit_bytes.is_some(), "{usage:?}");
    }
    assert_eq!(
        bus.provision(ProvisionOptions::default()).await.unwrap(),
        []
    );
    publish(&bus, &pulled(), 0).await;
    assert_eq!(usage(&bus, topology::PULLS).await.percent(), 0);
    assert_eq!(count(&bus, "sluice.v1.tag.pulled.>").await, 1);
    assert_eq!(count(&bus, "sluice.v1.tag.pushed.>").await, 1);
}

#[tokio::test]
async fn a_limit_below_what_a_stream_holds_is_refused_and_changes_nothing() {
    let (_nats, bus) = provisioned().await;
    for number in 0..MANY {
        publish(&bus, &pushed(), number).await;
    }
    let refused = bus.provision(with(&["EVENTS=2MiB", "WORK=4MiB"])).await;
    let refused = refused.unwrap_err();
    assert!(refused.to_string().contains("EVENTS"), "{refused}");
    assert_eq!(count(&bus, "sluice.v1.tag.pushed.>").await, MANY);
    assert_ne!(usage(&bus, topology::WORK).await.limit_bytes, Some(4 * MIB));
    // What somebody chose stays when nobody names it.
    bus.provision(with(&["WORK=4MiB"])).await.unwrap();
    bus.provision(ProvisionOptions::default()).await.unwrap();
    assert_eq!(usage(&bus, topology::WORK).await.limit_bytes, Some(4 * MIB));
}
