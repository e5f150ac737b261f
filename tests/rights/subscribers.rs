//! A subscriber reads the events of its subjects through its own consumers, and nothing else.
//!
//! What it may not do is done by a user who may, so that a wrong subject cannot pass for a refusal.

use serde_json::{Value, json};
use sluice_bus::{Bus, Subscriber};
use sluice_tests::wait_for;

use crate::Scene;
use crate::confused_deputy::held;
use crate::raw::Raw;

const PROMOTED: &str = "sluice.v1.image.promoted.official.a";
const NEXT: &str = r#"{"batch":1,"no_wait":true}"#;

/// A server with two subscribers: one reads promotions, the other scans and pulls.
fn scene() -> Scene {
    let subscribers = [
        ("images", vec!["sluice.v1.image.promoted.>"]),
        ("scans", vec!["sluice.v1.scan.>", "sluice.v1.tag.pulled.>"]),
    ];
    let subscribers = subscribers.map(|(name, subjects)| {
        let subjects = subjects.into_iter().map(ToOwned::to_owned).collect();
        Subscriber::new(name, subjects).unwrap()
    });
    let scene = Scene::with(|keys| {
        for subscriber in &subscribers {
            keys.add_subscriber(subscriber).unwrap();
        }
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let settings = scene.settings("admin");
        let bus = Bus::connect(&settings, "test").await.unwrap();
        for subscriber in &subscribers {
            bus.add_subscriber(subscriber).await.unwrap();
        }
    });
    scene
}

fn publish(scene: &Scene, user: &str, subject: &str, body: &str) {
    let stored = scene.user(user).ask(subject, &[], body).unwrap();
    assert!(stored.body.contains("\"stream\":"), "{}", stored.body);
}

/// Publishes one event of each kind that a test needs.
fn publish_all(scene: &Scene) {
    publish(scene, "promoter", PROMOTED, "promoted");
    publish(
        scene,
        "promoter",
        "sluice.v1.image.flagged.official.a",
        "flagged",
    );
    publish(
        scene,
        "scanner-adapter",
        "sluice.v1.scan.failed.hub.a",
        "failed",
    );
    publish(scene, "gateway", "sluice.v1.tag.pulled.hub.a", "pulled");
}

fn next(stream: &str, consumer: &str) -> String {
    format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}")
}

/// Returns what the server says of a consumer.
fn info(scene: &Scene, consumer: &str) -> Value {
    let subject = format!("$JS.API.CONSUMER.INFO.EVENTS.{consumer}");
    let answer = scene.user("admin").ask(&subject, &[], "").unwrap();
    serde_json::from_str(&answer.body).unwrap()
}

/// Asserts that the subscriber `images` is refused where another user is not.
fn refused(scene: &Scene, permitted: &str, subject: &str, body: &str) {
    assert_eq!(
        scene.user(permitted).publish(subject, body),
        None,
        "{permitted}: {subject}"
    );
    let refusal = scene.user("subscriber-images").publish(subject, body);
    assert!(refusal.is_some(), "`{subject}` is permitted");
}

#[test]
fn a_subscriber_reads_and_acknowledges_the_events_of_its_subjects_and_no_others() {
    let scene = scene();
    publish_all(&scene);
    let mut images = scene.user("subscriber-images");
    let fetch = |raw: &mut Raw, stream: &str, consumer: &str| {
        let subject = next(stream, consumer);
        raw.ask(&subject, &[], NEXT).unwrap()
    };
    let first = fetch(&mut images, "EVENTS", "subscriber-images");
    assert!(first.body.ends_with("promoted"), "{}", first.body);
    // There is no other event for it, although the stream has two more.
    let second = fetch(&mut images, "EVENTS", "subscriber-images");
    assert!(second.body.contains("404"), "{}", second.body);
    let mut scans = scene.user("subscriber-scans");
    let failed = fetch(&mut scans, "EVENTS", "subscriber-scans");
    assert!(failed.body.ends_with("failed"), "{}", failed.body);
    let pulled = fetch(&mut scans, "PULLS", "subscriber-scans");
    assert!(pulled.body.ends_with("pulled"), "{}", pulled.body);

    assert_eq!(info(&scene, "subscriber-images")["num_ack_pending"], 1);
    assert_eq!(images.publish(&first.reply, ""), None);
    assert_eq!(info(&scene, "subscriber-images")["num_ack_pending"], 0);
}

#[test]
fn a_subscriber_cannot_widen_its_subjects_or_create_another_consumer() {
    let scene = scene();
    let create = "$JS.API.CONSUMER.CREATE.EVENTS";
    for subject in [
        create.to_owned(),
        format!("{create}.subscriber-images"),
        format!("{create}.subscriber-images.sluice.v1.>"),
        format!("{create}.mine.sluice.v1.image.promoted.>"),
        "$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.subscriber-images".to_owned(),
        "$JS.API.STREAM.INFO.EVENTS".to_owned(),
        "$JS.API.DIRECT.GET.EVENTS".to_owned(),
        "$JS.API.STREAM.MSG.GET.EVENTS".to_owned(),
    ] {
        refused(&scene, "admin", &subject, "");
    }
    // The last, as it is carried out.
    refused(
        &scene,
        "admin",
        "$JS.API.CONSUMER.DELETE.EVENTS.subscriber-images",
        "",
    );
}

#[test]
fn a_subscriber_takes_nothing_from_a_stage_or_another_subscriber() {
    let scene = scene();
    publish_all(&scene);
    for (owner, consumer) in [
        ("promoter", "promoter"),
        ("subscriber-scans", "subscriber-scans"),
    ] {
        refused(
            &scene,
            owner,
            &format!("$JS.API.CONSUMER.INFO.EVENTS.{consumer}"),
            "",
        );
        let mut owner = scene.user(owner);
        let delivered = owner.ask(&next("EVENTS", consumer), &[], NEXT).unwrap();
        let unacknowledged = || info(&scene, consumer)["num_ack_pending"].as_u64().unwrap();
        assert_eq!(unacknowledged(), 1, "{consumer}");
        let mut images = scene.user("subscriber-images");
        assert!(images.publish(&delivered.reply, "").is_some());
        assert!(images.ask(&next("EVENTS", consumer), &[], NEXT).is_err());
        // Nor by an answer that is sent there.
        let own = "$JS.API.CONSUMER.INFO.EVENTS.subscriber-images";
        for answer in [delivered.reply.as_str(), &next("EVENTS", consumer)] {
            images.publish_with(own, answer, &[], "");
        }
        assert_eq!(unacknowledged(), 1, "{consumer}");
        assert_eq!(owner.publish(&delivered.reply, ""), None);
        assert_eq!(unacknowledged(), 0, "{consumer}");
    }
}

#[test]
fn a_subscriber_publishes_nothing_and_reads_no_state() {
    let scene = scene();
    for (permitted, subject) in [
        ("promoter", PROMOTED),
        ("gateway", "sluice.v1.resource.applied.mirror.a"),
        ("admin", "sluice.do.scan"),
        ("promoter", "sluice.dead.promoter"),
        ("promoter", "$KV.decisions.a"),
        (
            "promoter",
            "$JS.API.DIRECT.GET.KV_decisions.$KV.decisions.a",
        ),
        ("gateway", "$JS.API.DIRECT.GET.KV_resources.$KV.resources.a"),
        ("promoter", "$JS.API.CONSUMER.CREATE.KV_decisions"),
        ("admin", "$JS.API.STREAM.NAMES"),
        (
            "scanner-adapter",
            "$JS.API.DIRECT.GET.OBJ_reports.$O.reports.M.a",
        ),
    ] {
        refused(&scene, permitted, subject, "");
    }
    let mut images = scene.user("subscriber-images");
    for subject in [
        ">",
        "sluice.>",
        "sluice.v1.>",
        "_INBOX.>",
        "$JS.>",
        "_INBOX_subscriber.>",
    ] {
        assert!(images.subscribe(subject).is_some(), "{subject}");
    }
    assert_eq!(images.subscribe("_INBOX_subscriber-images.x"), None);
    assert!(images.subscribe("_INBOX_subscriber-scans.x").is_some());
}

#[test]
fn a_subscriber_cannot_have_its_events_sent_into_the_log_or_a_bucket() {
    let scene = scene();
    let mut admin = scene.user("admin");
    let targets = [
        ("EVENTS", PROMOTED),
        ("KV_verdicts", "$KV.verdicts.k"),
        ("WORK", "sluice.do.scan"),
    ];
    for _ in targets {
        publish(&scene, "promoter", PROMOTED, "promoted");
    }
    let before = targets.map(|(stream, _)| held(&mut admin, stream));
    let mut images = scene.user("subscriber-images");
    let own = next("EVENTS", "subscriber-images");
    for (_, answer) in targets {
        assert_eq!(images.publish_with(&own, answer, &[], NEXT), None);
    }
    // This is answered after the others.
    images.ask(&own, &[], NEXT).unwrap();
    let after = targets.map(|(stream, _)| held(&mut admin, stream));
    assert_eq!(before, after);
    // In the account of the streams it works.
    assert_eq!(admin.publish_with(&own, "sluice.do.scan", &[], NEXT), None);
    wait_for("the event to be a command", 10, || {
        (held(&mut admin, "WORK") == before[2] + 1).then_some(())
    });
}

#[test]
fn a_subscriber_cannot_have_an_answer_delete_or_acknowledge_for_it() {
    let scene = scene();
    publish_all(&scene);
    let of = |consumer: &str| {
        let delivered = scene
            .user(consumer)
            .ask(&next("EVENTS", consumer), &[], NEXT);
        (consumer.to_owned(), delivered.unwrap().reply)
    };
    let consumers = [of("promoter"), of("subscriber-scans")];
    let attack = |user: &str, own: &str| {
        let mut raw = scene.user(user);
        for (consumer, acknowledgement) in &consumers {
            let delete = format!("CONSUMER.DELETE.EVENTS.{consumer}");
            let targets = ["$JS.API.", "sluice.api."].map(|api| format!("{api}{delete}"));
            for answer in targets.iter().chain([acknowledgement]) {
                // There is nothing left: the answer is a status without a body, which is a whole request to delete.
                raw.publish_with(own, answer, &[], NEXT);
            }
        }
        // This is answered after the others.
        raw.ask(own, &[], NEXT).unwrap();
    };
    // The user `subscriber` has a consumer of its own, and may delete consumers that are not of a stage.
    let create = "$JS.API.CONSUMER.CREATE.EVENTS.mine.sluice.v1.scan.succeeded.>";
    let config = json!({"stream_name": "EVENTS", "config": {
        "name": "mine", "ack_policy": "explicit", "filter_subject": "sluice.v1.scan.succeeded.>"}});
    let mut other = scene.user("subscriber");
    let created = other.ask(create, &[], &config.to_string()).unwrap();
    assert!(!created.body.contains("\"error\""), "{}", created.body);
    let own = next("EVENTS", "subscriber-images");
    scene
        .user("subscriber-images")
        .ask(&own, &[], NEXT)
        .unwrap();
    attack("subscriber-images", &own);
    attack("subscriber", &next("EVENTS", "mine"));
    for (consumer, _) in &consumers {
        assert_eq!(info(&scene, consumer)["num_ack_pending"], 1, "{consumer}");
    }
    // In the account of the streams it works.
    attack("admin", &own);
    wait_for("the consumers to be deleted", 10, || {
        let is_deleted = |consumer: &str| info(&scene, consumer)["error"]["code"] == 404;
        consumers
            .iter()
            .all(|(name, _)| is_deleted(name))
            .then_some(())
    });
}

#[test]
fn no_service_takes_the_events_of_a_subscriber() {
    let scene = scene();
    publish_all(&scene);
    let consumer = "subscriber-images";
    let mut images = scene.user(consumer);
    let delivered = images.ask(&next("EVENTS", consumer), &[], NEXT).unwrap();
    for user in [
        "subscriber",
        "gateway",
        "webhook-dispatcher",
        "scanner-adapter",
        "promoter",
    ] {
        let mut raw = scene.user(user);
        for request in ["INFO", "MSG.NEXT", "CREATE", "DELETE"] {
            let subject = format!("$JS.API.CONSUMER.{request}.EVENTS.{consumer}");
            assert!(raw.publish(&subject, "").is_some(), "{user}: {subject}");
        }
        let subject = format!("$JS.API.CONSUMER.CREATE.EVENTS.{consumer}.sluice.v1.>");
        assert!(raw.publish(&subject, "").is_some(), "{user}: {subject}");
        assert!(raw.publish(&delivered.reply, "").is_some(), "{user}");
    }
    assert_eq!(info(&scene, consumer)["num_ack_pending"], 1);
}
