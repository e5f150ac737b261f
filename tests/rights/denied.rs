//! What is missing is told at once and by name, and costs no message.

use std::convert::Infallible;
use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use sluice_bus::{Bus, Cause, ConsumeSettings, Handler, Outcome, topology};
use sluice_domain::{Class, Classify};
use sluice_events::commands::PollMirror;
use sluice_events::facts::ResourceApplied;
use sluice_events::{Decode, Event, Message, UnexpectedMessage};
use sluice_tests::servers::Process;
use sluice_tests::{binary, wait_for};
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Scene;

/// A fact that only the gateway may publish.
fn of_the_gateway() -> ResourceApplied {
    ResourceApplied {
        kind: "Mirror".to_owned(),
        name: "a".parse().unwrap(),
        revision: 1,
        removed: false,
        actor: String::new(),
    }
}

/// Says that this was refused sooner than a request gives up that nobody answers (5 s), whom and what.
fn refused(error: &sluice_bus::Error, since: Instant, user: &str, subject: &str) {
    let told = error.to_string();
    assert!(since.elapsed() < Duration::from_secs(3), "{told}");
    for part in [&format!("`{user}`"), subject, "sluice nats-config"] {
        assert!(told.contains(part), "{told}");
    }
    assert!(matches!(error.class(), Class::Unavailable { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_the_user_and_the_subject_at_once() {
    let scene = tokio::task::spawn_blocking(Scene::new).await.unwrap();
    let bus = Bus::connect(&scene.settings("poller"), "poller")
        .await
        .unwrap();
    let since = Instant::now();
    let event: Event = of_the_gateway().into();
    let error = bus.publish(&event, &Cause::root(), "1").await.unwrap_err();
    refused(
        &error,
        since,
        "poller",
        "sluice.v1.resource.applied.mirror.a",
    );
    let verdicts = bus.bucket("verdicts").await.unwrap();
    for (subject, operation) in [
        ("$KV.verdicts.k", 0),
        ("DIRECT.GET.KV_verdicts", 1),
        ("CONSUMER.CREATE.KV_verdicts", 2),
    ] {
        let since = Instant::now();
        let error = match operation {
            0 => verdicts.put("k", "x".into()).await.unwrap_err(),
            1 => verdicts.get("k").await.unwrap_err(),
            _ => verdicts.list(">").await.unwrap_err(),
        };
        refused(&error, since, "poller", subject);
    }
    let since = Instant::now();
    let error = bus.schedules("prune").await.unwrap_err();
    refused(&error, since, "poller", "STREAM.INFO.SCHEDULES_pruner");
    let upstream = bus.bucket("upstream").await.unwrap();
    upstream.put("k", "x".into()).await.unwrap();
}

struct Any;

impl Decode for Any {
    fn decode(_: Message) -> Result<Self, UnexpectedMessage> {
        Ok(Self)
    }
}

#[derive(Debug, Error)]
#[error(transparent)]
struct Never(#[from] Infallible);

impl Classify for Never {
    fn class(&self) -> Class {
        Class::Permanent
    }
}

/// Tells what its user may not tell.
struct Forger;

impl Handler for Forger {
    type Input = Any;
    type Error = Never;

    const SPAN: &'static str = "test";

    async fn handle(&self, _: Any, _: &Cause) -> Result<Outcome, Never> {
        Ok(Outcome::done().fact(of_the_gateway()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_lacks_a_right_waits_without_spending_its_attempts() {
    let scene = tokio::task::spawn_blocking(Scene::new).await.unwrap();
    let admin = Bus::connect(&scene.settings("admin"), "test")
        .await
        .unwrap();
    let bus = Bus::connect(&scene.settings("poller"), "poller")
        .await
        .unwrap();
    let mirror = "a".parse().unwrap();
    admin
        .command(
            &PollMirror {
                mirror,
                urgent: false,
            }
            .into(),
            &Cause::root(),
        )
        .await
        .unwrap();
    let stopping = CancellationToken::new();
    let settings = ConsumeSettings {
        concurrency: 1,
        handler_timeout: Duration::from_secs(5),
    };
    let consume = bus.consume(&topology::POLLER, Forger, settings, stopping.clone());
    let watch = async {
        for _ in 0..200 {
            let status = admin.stage_status().await.unwrap();
            let poller = status.iter().filter(|one| one.stage == "poller");
            if poller.map(|one| one.later).sum::<u64>() == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let kept = admin.schedules("retry.poller").await.unwrap();
        assert_eq!(kept.len(), 1, "the message waits with the scheduler");
        assert!(admin.dead_letters(10).await.unwrap().is_empty());
        stopping.cancel();
    };
    let (consumed, ()) = tokio::join!(consume, watch);
    consumed.unwrap();
}

#[test]
fn a_service_with_the_rights_of_another_does_not_start_and_says_why() {
    let scene = Scene::new();
    let log = scene.folder.path().join("log");
    let child = Command::new(binary("sluice-poller"))
        .env("SLUICE__HTTP__LISTEN", "127.0.0.1:0")
        .env("SLUICE__BUS__URL", &scene.nats.url)
        .env("SLUICE__BUS__USER", "pruner")
        .env(
            "SLUICE__BUS__PASSWORD_FILE",
            scene.keys.nats_password("pruner"),
        )
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut process = Process(child);
    // Requests that nobody answers would take ten seconds each.
    let status = wait_for("the poller to end", 8, || process.0.try_wait().unwrap());
    let told = std::fs::read_to_string(&log).unwrap();
    assert_eq!(status.code(), Some(1), "{told}");
    for part in [
        "user `pruner` may not use",
        "SCHEDULES_poller",
        "sluice nats-config",
    ] {
        assert!(told.contains(part), "{told}");
    }
}
