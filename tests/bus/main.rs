//! The consume loop, schedules and buckets on a real nats-server.
#![allow(clippy::disallowed_methods, reason = "a test joins what it spawns")]

mod backup;
mod budgets;
mod cluster;
mod limits;
mod start;
mod tags;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::Utc;
use sluice_bus::{
    Bus, Cause, ConsumeSettings, Handler, Outcome, ProvisionOptions, Schedule, Timing, topology,
};
use sluice_domain::{Class, Classify, ResourceName};
use sluice_events::commands::PollMirror;
use sluice_events::facts::ResourceApplied;
use sluice_events::{Command, Decode, Event, Message, UnexpectedMessage};
use sluice_service::BusSettings;
use sluice_tests::Nats;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Error)]
#[error("as the test wants it")]
struct Failure(Class);

impl Classify for Failure {
    fn class(&self) -> Class {
        self.0
    }
}

struct Input(ResourceName);

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, UnexpectedMessage> {
        match message {
            Message::Command(Command::PollMirror(command)) => Ok(Self(command.mirror)),
            other => Err(other.unexpected()),
        }
    }
}

/// Fails as the name of the mirror says, and tells what it finished.
#[derive(Default, Clone)]
struct Stage {
    calls: Arc<AtomicU32>,
    last_attempt: Arc<AtomicU32>,
    recorded: Arc<AtomicU32>,
    waits: Arc<AtomicU32>,
    /// Lets the mirror `stuck` go on that failed twice.
    unstuck: Arc<tokio::sync::Notify>,
    /// Held by a test for as long as the handler is to be in the middle of its work.
    held: Arc<tokio::sync::Mutex<()>>,
}

impl Handler for Stage {
    type Input = Input;
    type Error = Failure;

    const SPAN: &'static str = "test";

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, Failure> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.last_attempt.store(cause.attempt, Ordering::SeqCst);
        self.waits.store(cause.waits, Ordering::SeqCst);
        drop(self.held.lock().await);
        match (input.0.as_str(), call) {
            ("permanent", _) => return Err(Failure(Class::Permanent)),
            ("once", 1) | ("stuck", 1 | 2) => return Err(Failure(Class::TRANSIENT)),
            ("stuck", _) => self.unstuck.notified().await,
            ("lost", 1 | 2) | ("away", 1) => return Err(Failure(Class::OUTAGE)),
            ("panics", 1) => panic!("as the test wants it"),
            ("waits", 1) | ("waits-often", 1..=5) => {
                return Err(Failure(Class::Unavailable {
                    until: Utc::now() + Duration::from_secs(1),
                }));
            }
            _ => {}
        }
        let recorded = self.recorded.clone();
        let recordable = input.0.as_str() != "unrecordable";
        let fact = ResourceApplied {
            kind: "Mirror".to_owned(),
            name: input.0,
            revision: 1,
            removed: false,
            actor: String::new(),
        };
        Ok(Outcome::done().fact(fact).then(async move {
            recorded.fetch_add(1, Ordering::SeqCst);
            recordable.then_some(()).ok_or(Failure(Class::Permanent))
        }))
    }
}

async fn provisioned() -> (Nats, Bus) {
    limited(&[]).await
}

/// Provisions a server with these limits, as in `EVENTS=2MiB`.
async fn limited(limits: &[&str]) -> (Nats, Bus) {
    let nats = tokio::task::spawn_blocking(Nats::start).await.unwrap();
    let bus = connect(&nats).await;
    bus.provision(with(limits)).await.unwrap();
    (nats, bus)
}

async fn connect(nats: &Nats) -> Bus {
    let settings = BusSettings {
        url: nats.url.clone(),
        user: String::new(),
        password_file: None,
        credentials_file: None,
        ca_file: None,
        allow_plain_text: false,
    };
    Bus::connect(&settings, "test").await.unwrap()
}

fn with(limits: &[&str]) -> ProvisionOptions {
    let mut options = ProvisionOptions::default();
    for limit in limits {
        options.limits.set(limit).unwrap();
    }
    options
}

async fn ask(bus: &Bus, mirror: &str) {
    let command = PollMirror {
        mirror: mirror.parse().unwrap(),
        urgent: false,
    };
    bus.command(&command.into(), &Cause::root()).await.unwrap();
}

async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    for _ in 0..1_800 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited in vain for: {what}");
}

/// Works through what was asked until `count` facts are told, then drains.
async fn work(bus: &Bus, stage: &Stage, count: usize) {
    let stopping = CancellationToken::new();
    let settings = ConsumeSettings {
        concurrency: 2,
        handler_timeout: Duration::from_secs(5),
    };
    let loop_ = tokio::spawn({
        let (bus, stage, stopping) = (bus.clone(), stage.clone(), stopping.clone());
        async move {
            bus.consume(&topology::POLLER, stage, settings, stopping)
                .await
        }
    });
    until("the facts", || async { told(bus).await.len() == count }).await;
    stopping.cancel();
    loop_.await.unwrap().unwrap();
}

async fn told(bus: &Bus) -> Vec<String> {
    // A server that is away has told nothing so far.
    let facts = bus.facts("sluice.v1.resource.>").await.unwrap_or_default();
    let name = |event| match event {
        Some(Event::ResourceApplied(fact)) => fact.name.to_string(),
        other => panic!("{other:?}"),
    };
    facts.into_iter().map(|fact| name(fact.event)).collect()
}

async fn nothing_is_left(bus: &Bus) {
    until("nothing to be left", || async {
        bus.stage_status()
            .await
            .unwrap()
            .iter()
            .all(|s| s.stage != "poller" || s.waiting + s.in_flight + s.later == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_passes_is_tried_again_and_told_once() {
    for name in ["once", "panics"] {
        let (_nats, bus) = provisioned().await;
        let stage = Stage::default();
        ask(&bus, name).await;
        work(&bus, &stage, 1).await;
        assert_eq!(stage.last_attempt.load(Ordering::SeqCst), 2);
        assert_eq!(stage.recorded.load(Ordering::SeqCst), 1);
        nothing_is_left(&bus).await;
        assert!(bus.dead_letters(10).await.unwrap().is_empty());
    }
}

/// It has killed no process, however often it failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_failed_often_keeps_nobody_else_from_work() {
    let (_nats, bus) = provisioned().await;
    let stage = Stage::default();
    ask(&bus, "stuck").await;
    let others = async {
        until("the third attempt", || async {
            stage.calls.load(Ordering::SeqCst) == 3
        })
        .await;
        assert_eq!(stage.last_attempt.load(Ordering::SeqCst), 3);
        ask(&bus, "fine").await;
        let waiting = until("the other message to be done", || async {
            told(&bus).await == ["fine"]
        });
        // Sooner than the handler's own limit, which would end the attempt that is stuck.
        tokio::time::timeout(Duration::from_secs(3), waiting)
            .await
            .unwrap();
        stage.unstuck.notify_one();
    };
    tokio::join!(others, work(&bus, &stage, 2));
    nothing_is_left(&bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_can_never_be_written_is_not_tried_again() {
    let (_nats, bus) = provisioned().await;
    let stage = Stage::default();
    ask(&bus, "unrecordable").await;
    work(&bus, &stage, 1).await;
    let letters = bus.dead_letters(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "as the test wants it");
    assert_eq!(stage.recorded.load(Ordering::SeqCst), 1);
    nothing_is_left(&bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_is_not_an_attempt() {
    let (_nats, bus) = provisioned().await;
    let stage = Stage::default();
    ask(&bus, "waits").await;
    work(&bus, &stage, 1).await;
    assert_eq!(stage.calls.load(Ordering::SeqCst), 2);
    assert_eq!(stage.last_attempt.load(Ordering::SeqCst), 1);
    nothing_is_left(&bus).await;
}

/// It goes from one place to the other while somebody looks at both.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_off_is_never_taken_for_done() {
    let (_nats, bus) = provisioned().await;
    let stage = Stage::default();
    ask(&bus, "waits-often").await;
    let looking = async {
        // The server tells a consumer of a message a moment after it has stored it.
        until("the work to begin", || async {
            stage.calls.load(Ordering::SeqCst) > 0
        })
        .await;
        loop {
            let status = bus.status_of(&topology::POLLER).await.unwrap();
            if status
                .iter()
                .all(|s| s.waiting + s.in_flight + s.later == 0)
            {
                return told(&bus).await;
            }
        }
    };
    let (told, ()) = tokio::join!(looking, work(&bus, &stage, 1));
    assert_eq!(told, ["waits-often"]);
    assert_eq!(stage.calls.load(Ordering::SeqCst), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_waited_for_ever_longer_and_is_no_attempt() {
    let (_nats, bus) = provisioned().await;
    let stage = Stage::default();
    ask(&bus, "away").await;
    work(&bus, &stage, 1).await;
    assert_eq!(stage.calls.load(Ordering::SeqCst), 2);
    assert_eq!(stage.last_attempt.load(Ordering::SeqCst), 1);
    assert_eq!(stage.waits.load(Ordering::SeqCst), 1);
    nothing_is_left(&bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_under_the_work_costs_no_attempt() {
    // A failure is counted once although it could not be settled, and a success is not repeated.
    for (name, attempts) in [("once", 2), ("fine", 1)] {
        let (mut nats, bus) = provisioned().await;
        let stage = Stage::default();
        let held = stage.held.clone().lock_owned().await;
        ask(&bus, name).await;
        let killing = async {
            until("the work to begin", || async {
                stage.calls.load(Ordering::SeqCst) == 1
            })
            .await;
            nats.kill();
            drop(held);
            tokio::time::sleep(Duration::from_secs(2)).await;
            tokio::task::block_in_place(|| nats.restart());
        };
        tokio::join!(killing, work(&bus, &stage, 1));
        assert_eq!(
            stage.last_attempt.load(Ordering::SeqCst),
            attempts,
            "{name}"
        );
        nothing_is_left(&bus).await;
        assert!(bus.dead_letters(10).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_a_delivery_no_more_keeps_nobody_from_work() {
    let (nats, bus) = provisioned().await;
    let stage = Stage::default();
    let held = stage.held.clone().lock_owned().await;
    // As many as the stage works on at once.
    ask(&bus, "lost").await;
    ask(&bus, "lost").await;
    let losing = async {
        until("the work to begin", || async {
            stage.calls.load(Ordering::SeqCst) == 2
        })
        .await;
        // As a server that was started anew after its disk was full, which had delivered more than it had stored.
        tokio::task::block_in_place(|| nats.remove_stream("WORK"));
        bus.provision(ProvisionOptions::default()).await.unwrap();
        drop(held);
        ask(&bus, "fine").await;
    };
    // What was kept of both goes on too.
    tokio::join!(losing, work(&bus, &stage, 3));
    nothing_is_left(&bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_buried_with_its_reason_and_its_neighbour_goes_through() {
    let (_nats, bus) = provisioned().await;
    let stage = Stage::default();
    ask(&bus, "permanent").await;
    ask(&bus, "fine").await;
    work(&bus, &stage, 1).await;
    until("the dead letter", || async {
        bus.dead_letters(10).await.unwrap().len() == 1
    })
    .await;
    let letters = bus.dead_letters(10).await.unwrap();
    assert_eq!(
        (letters[0].stage.as_str(), letters[0].reason.as_str()),
        ("poller", "as the test wants it")
    );
    assert_eq!(told(&bus).await, ["fine"]);
    bus.redrive(letters[0].sequence).await.unwrap();
    assert!(bus.dead_letters(10).await.unwrap().is_empty());
    let waiting = bus
        .stage_status()
        .await
        .unwrap()
        .iter()
        .map(|s| s.waiting)
        .sum::<u64>();
    assert!(waiting >= 1, "the stage has it again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_happening_is_held_once() {
    let (_nats, bus) = provisioned().await;
    let fact: Event = ResourceApplied {
        kind: "Mirror".to_owned(),
        name: "a".parse().unwrap(),
        revision: 1,
        removed: false,
        actor: String::new(),
    }
    .into();
    let cause = Cause::root();
    assert!(!bus.publish(&fact, &cause, "1").await.unwrap().duplicate);
    assert!(bus.publish(&fact, &cause, "1").await.unwrap().duplicate);
    assert!(!bus.publish(&fact, &cause, "2").await.unwrap().duplicate);
    // The one that the stream held already is not counted.
    let counted = format!(
        r#"sluice_events_published_total{{event="{}",registry="",service="#,
        fact.name()
    );
    let metrics = sluice_telemetry::metrics::render();
    let line = metrics.lines().find(|line| line.starts_with(&counted));
    assert!(line.is_some_and(|line| line.ends_with(" 2")), "{metrics}");
    assert_eq!(told(&bus).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_put_once_fires_and_is_removed() {
    let (_nats, bus) = provisioned().await;
    let command: Command = PollMirror {
        mirror: "a.b".parse().unwrap(),
        urgent: false,
    }
    .into();
    let timing = Timing::Every(Duration::from_secs(1));
    let schedule = Schedule {
        name: "poll.a=2Eb".to_owned(),
        timing,
        command,
    };
    assert!(bus.put_schedule(&schedule).await.unwrap());
    assert!(
        !bus.put_schedule(&schedule).await.unwrap(),
        "an equal schedule would start its interval anew"
    );
    assert_eq!(bus.schedules("poll").await.unwrap(), ["poll.a=2Eb"]);
    let stage = Stage::default();
    work(&bus, &stage, 2).await;
    bus.remove_schedule("poll.a=2Eb").await.unwrap();
    assert!(bus.schedules("poll").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_leaves_out_nothing_that_is_overwritten_meanwhile() {
    const KEYS: usize = 20;
    let (_nats, bus) = provisioned().await;
    let bucket = bus.bucket("tags").await.unwrap();
    for key in 0..KEYS {
        bucket.put(&format!("a.{key}"), "0".into()).await.unwrap();
    }
    let writer = bucket.clone();
    let writer = tokio::spawn(async move {
        for turn in 0.. {
            let key = format!("a.{}", turn * 7 % KEYS);
            writer.put(&key, turn.to_string().into()).await.unwrap();
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
    });
    for _ in 0..100 {
        assert_eq!(bucket.list("a.*").await.unwrap().len(), KEYS);
        let (mut keys, mut after) = (HashSet::new(), Some(0));
        while let Some(place) = after {
            let page = bucket.page("a.*", place, 7).await.unwrap();
            keys.extend(page.entries.into_iter().map(|entry| entry.key));
            after = page.next;
        }
        assert_eq!(keys.len(), KEYS);
    }
    writer.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_listed_as_often_as_one_likes() {
    let (_nats, bus) = provisioned().await;
    let bucket = bus.bucket("upstream").await.unwrap();
    bucket.put("a.b", "x".into()).await.unwrap();
    // A server keeps no more consumers of a stream than this, and a poll of each mirror lists what is known of it.
    for _ in 0..1_100 {
        assert_eq!(bucket.list("a.*").await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_forgotten_only_as_it_was_read_and_can_be_made_again() {
    let (_nats, bus) = provisioned().await;
    let bucket = bus.bucket("verdicts").await.unwrap();
    let first = bucket.write("a.b", "1".into(), None).await.unwrap();
    let other = bucket.write("a.c", "1".into(), None).await.unwrap();
    let second = bucket.write("a.b", "2".into(), Some(first)).await.unwrap();
    // Somebody wrote it since it was read.
    assert!(!bucket.purge_if_unchanged("a.b", first).await.unwrap());
    assert_eq!(bucket.get("a.b").await.unwrap().unwrap().revision, second);
    assert!(bucket.purge_if_unchanged("a.b", second).await.unwrap());
    assert!(!bucket.purge_if_unchanged("a.b", second).await.unwrap());
    assert_eq!(bucket.get("a.b").await.unwrap(), None);
    assert_eq!(bucket.get("a.c").await.unwrap().unwrap().revision, other);
    assert_eq!(bucket.count().await.unwrap(), 1, "no mark is left of it");
    // Whoever read it before does not write it back by mistake.
    let late = bucket.write("a.b", "3".into(), Some(second)).await;
    assert!(late.unwrap_err().is_conflict());
    let again = bucket.write("a.b", "4".into(), None).await.unwrap();
    assert_eq!(bucket.last_revision().await.unwrap(), again);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_forgotten_only_as_it_was_listed() {
    let (_nats, bus) = provisioned().await;
    let reports = bus.reports().await.unwrap();
    let listed = async || {
        let mut listed = Vec::new();
        let each = reports.for_each(|object| {
            listed.push(object);
            ControlFlow::Continue(())
        });
        each.await.unwrap();
        listed
    };
    let large = vec![b'x'; 300 << 10];
    for name in ["sha256:a", "sha256:b"] {
        reports.put(name, large.clone().into()).await.unwrap();
    }
    let before = listed().await;
    let names: Vec<_> = before.iter().map(|object| object.name.as_str()).collect();
    assert_eq!(names, ["sha256:a", "sha256:b"]);
    // A scanner stores the same report again.
    reports.put("sha256:b", large.clone().into()).await.unwrap();
    assert!(reports.purge_if_unchanged(&before[0]).await.unwrap());
    assert!(!reports.purge_if_unchanged(&before[1]).await.unwrap());
    assert!(reports.get("sha256:a").await.is_err());
    assert_eq!(reports.get("sha256:b").await.unwrap(), large);
    assert_eq!(listed().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_of_an_entry_cannot_both_win() {
    let (_nats, bus) = provisioned().await;
    let bucket = bus.bucket("tags").await.unwrap();
    let first = bucket.write("a.b", "1".into(), None).await.unwrap();
    assert!(
        bucket
            .write("a.b", "2".into(), None)
            .await
            .unwrap_err()
            .is_conflict()
    );
    let second = bucket.write("a.b", "2".into(), Some(first)).await.unwrap();
    assert!(
        bucket
            .write("a.b", "3".into(), Some(first))
            .await
            .unwrap_err()
            .is_conflict()
    );
    bucket.write("a.c", "x".into(), None).await.unwrap();
    bucket.write("b.b", "x".into(), None).await.unwrap();
    let listed = bucket.list("a.*").await.unwrap();
    assert_eq!(
        listed
            .iter()
            .map(|entry| entry.key.as_str())
            .collect::<Vec<_>>(),
        ["a.b", "a.c"]
    );
    assert_eq!(listed[0].revision, second);
    bucket.delete("a.b").await.unwrap();
    assert_eq!(bucket.list("a.*").await.unwrap().len(), 1);
    assert!(bucket.list("none.*").await.unwrap().is_empty());
    assert!(
        bucket.write("a.b", "again".into(), None).await.is_ok(),
        "a removed entry can be made again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn provisioning_again_changes_nothing_that_is_there() {
    let (_nats, bus) = provisioned().await;
    ask(&bus, "kept").await;
    bus.provision(ProvisionOptions::default()).await.unwrap();
    let stage = Stage::default();
    work(&bus, &stage, 1).await;
    assert_eq!(told(&bus).await, ["kept"]);
}
