//! What a user could have the server do in its place: answer into another's subject, deliver there, fire there, empty.

use serde_json::{Value, json};
use sluice_bus::{Bus, Cause};
use sluice_events::Event;
use sluice_events::facts::ScanFailed;

use crate::Scene;
use crate::raw::Raw;
use crate::tables::SERVICES;

/// Returns how many messages a stream holds.
pub(crate) fn held(admin: &mut Raw, stream: &str) -> u64 {
    let answer = admin
        .ask(&format!("$JS.API.STREAM.INFO.{stream}"), &[], "")
        .unwrap();
    let (_, json) = answer.body.split_once('{').unwrap();
    let info: Value = serde_json::from_str(&format!("{{{json}")).unwrap();
    info["state"]["messages"].as_u64().unwrap()
}

#[test]
fn an_answer_cannot_be_sent_into_the_log_or_a_bucket_of_another() {
    let scene = Scene::new();
    let mut admin = scene.user("admin");
    admin.publish("$KV.resources.k", "of a person");
    let forged = [
        ("ce-type", "sluice.events.v1.ScanSucceeded"),
        ("ce-id", "forged"),
    ];
    let mut poller = scene.user("poller");
    assert_eq!(
        poller.publish_with("$KV.upstream.k", "", &forged, "forged"),
        None
    );
    let before =
        ["EVENTS", "KV_verdicts", "WORK", "KV_tags"].map(|stream| held(&mut admin, stream));
    for service in SERVICES
        .into_iter()
        .filter(|name| *name != "scanner-adapter")
    {
        let mut raw = scene.user(service);
        for answer in [
            "sluice.v1.scan.succeeded.hub.a",
            "$KV.verdicts.k",
            "sluice.do.scan",
        ] {
            let mut requests = vec![
                "$JS.API.DIRECT.GET.KV_resources.$KV.resources.k".to_owned(),
                "$JS.API.STREAM.INFO.KV_resources".to_owned(),
            ];
            if service == "poller" {
                requests.push("$JS.API.DIRECT.GET.KV_upstream.$KV.upstream.k".to_owned());
                requests.push("$KV.upstream.other".to_owned());
            }
            for request in requests {
                assert_eq!(
                    raw.publish_with(&request, answer, &forged, ""),
                    None,
                    "{service}: {request}"
                );
            }
        }
    }
    // What is asked last is answered last, so everything before it has arrived where it arrives.
    let arrived = poller
        .ask("$JS.API.DIRECT.GET.KV_upstream.$KV.upstream.k", &[], "")
        .unwrap();
    assert!(arrived.body.contains("forged"), "{arrived:?}");
    let after = ["EVENTS", "KV_verdicts", "WORK", "KV_tags"].map(|stream| held(&mut admin, stream));
    assert_eq!(before, after);
}

#[test]
fn a_consumer_cannot_deliver_into_the_log_or_a_bucket_of_another() {
    let scene = Scene::new();
    let (mut admin, mut poller) = (scene.user("admin"), scene.user("poller"));
    let forged = [
        ("ce-type", "sluice.events.v1.ScanSucceeded"),
        ("ce-id", "forged"),
    ];
    for deliver in ["sluice.v1.scan.succeeded.hub.a", "$KV.verdicts.k"] {
        let config = json!({"stream_name": "KV_upstream", "config": {
            "deliver_subject": deliver, "deliver_policy": "all", "ack_policy": "none", "idle_heartbeat": 200_000_000,
            "flow_control": true,
        }});
        let made = poller
            .ask(
                "$JS.API.CONSUMER.CREATE.KV_upstream",
                &[],
                &config.to_string(),
            )
            .unwrap();
        assert!(!made.body.contains("\"error\""), "{}", made.body);
        assert_eq!(
            poller.publish_with("$KV.upstream.k", "", &forged, "forged"),
            None
        );
    }
    // Those who may listen get theirs, and by then the others would have had it too.
    let config = json!({"stream_name": "KV_upstream", "config": {
        "deliver_subject": "_INBOX_poller.w", "deliver_policy": "all", "ack_policy": "none"}});
    let delivered = poller.listen("_INBOX_poller.w", |poller| {
        poller
            .ask(
                "$JS.API.CONSUMER.CREATE.KV_upstream",
                &[],
                &config.to_string(),
            )
            .unwrap();
    });
    assert!(delivered.body.contains("forged"), "{delivered:?}");
    for stream in ["EVENTS", "KV_verdicts"] {
        assert_eq!(held(&mut admin, stream), 0, "{stream}");
    }
}

#[test]
fn a_subscriber_cannot_have_events_delivered_into_the_work_or_a_bucket_of_another() {
    let scene = Scene::new();
    let (mut admin, mut subscriber) = (scene.user("admin"), scene.user("subscriber"));
    let published = admin.publish("sluice.v1.resource.applied.a", "of a person");
    assert_eq!(published, None);
    let create = |name: &str, deliver: &str| {
        let config = json!({"stream_name": "EVENTS", "config": {
            "name": name, "filter_subject": "sluice.v1.resource.>", "deliver_subject": deliver,
            "deliver_policy": "all", "ack_policy": "none"}});
        let subject = format!("$JS.API.CONSUMER.CREATE.EVENTS.{name}.sluice.v1.resource.>");
        (subject, config.to_string())
    };
    for (name, deliver) in [
        ("one", "$KV.verdicts.k"),
        ("two", "sluice.do.scan"),
        ("three", "$KV.decisions.k"),
    ] {
        let (subject, config) = create(name, deliver);
        let made = subscriber.ask(&subject, &[], &config).unwrap();
        assert!(!made.body.contains("\"error\""), "{}", made.body);
    }
    // What may be delivered is, and by then the others would have been too.
    let (subject, config) = create("mine", "_INBOX_subscriber.w");
    let delivered = subscriber.listen("_INBOX_subscriber.w", |subscriber| {
        subscriber.ask(&subject, &[], &config).unwrap();
    });
    assert!(delivered.body.contains("of a person"), "{delivered:?}");
    for stream in ["KV_verdicts", "WORK", "KV_decisions"] {
        assert_eq!(held(&mut admin, stream), 0, "{stream}");
    }
}

#[test]
fn a_consumer_that_reads_the_log_cannot_become_that_of_a_stage() {
    let scene = Scene::new();
    let (mut admin, mut gateway) = (scene.user("admin"), scene.user("gateway"));
    let promoter = "$JS.API.CONSUMER.INFO.EVENTS.promoter";
    let before = admin.ask(promoter, &[], "").unwrap().body;
    let create = "$JS.API.CONSUMER.CREATE.EVENTS";
    for name in ["durable_name", "name"] {
        let config = json!({"stream_name": "EVENTS", "config": {
            name: "promoter", "filter_subject": "sluice.v1.tag.>", "ack_policy": "explicit"}});
        let config = config.to_string();
        // Without a name in the subject the server takes the one of the body, whosoever consumer that is.
        assert!(gateway.ask(create, &[], &config).is_err());
        let by_name = format!("{create}.promoter.sluice.v1.tag.>");
        assert!(gateway.ask(&by_name, &[], &config).is_err());
        // With one, that is the consumer that is made.
        let another = format!("{create}.reader.sluice.v1.tag.>");
        gateway.ask(&another, &[], &config).unwrap();
    }
    let after = admin.ask(promoter, &[], "").unwrap().body;
    let config = |text: &str| {
        text.split("\"config\"")
            .nth(1)
            .unwrap()
            .split("\"delivered\"")
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(config(&before), config(&after));
}

#[test]
fn an_id_that_another_service_took_drops_no_message() {
    let scene = Scene::new();
    let event: Event = ScanFailed {
        repository: "hub/a".parse().unwrap(),
        tag: None,
        digest: format!("sha256:{}", "a".repeat(64)).parse().unwrap(),
        scanner: "trivy".parse().unwrap(),
        reason: "it is vulnerable".to_owned(),
        unsupported: false,
        platform: None,
    }
    .into();
    // The stream knows an id whoever sent it, and everybody can find out which the next message will have.
    let id = event.id("1").to_string();
    let taken = scene
        .user("pruner")
        .ask(
            "sluice.v1.prune.completed.hub.a",
            &[("Nats-Msg-Id", &id)],
            "x",
        )
        .unwrap();
    assert!(
        taken.body.contains("\"stream\":\"EVENTS\""),
        "{}",
        taken.body
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let settings = scene.settings("scanner-adapter");
        for expected in [false, true] {
            let bus = Bus::connect(&settings, "scanner-adapter").await.unwrap();
            let published = bus.publish(&event, &Cause::root(), "1").await.unwrap();
            assert_eq!(published.duplicate, expected);
        }
    });
}

#[test]
fn a_timer_fires_for_its_own_stage_only_and_empties_no_stream_but_its_own() {
    let scene = Scene::new();
    let (mut admin, mut poller, mut promoter) = (
        scene.user("admin"),
        scene.user("poller"),
        scene.user("promoter"),
    );
    let at = "@at 2100-01-01T00:00:00Z";
    let of_promoter = [
        ("Nats-Schedule", at),
        ("Nats-Schedule-Target", "sluice.due.retry.promoter"),
    ];
    promoter
        .ask("sluice.schedule.retry.promoter.EVENTS.1", &of_promoter, "x")
        .unwrap();
    for target in [
        "sluice.due.prune.a",
        "sluice.due.retry.promoter",
        "sluice.v1.scan.succeeded.a.b",
        "$KV.verdicts.k",
    ] {
        let headers = [
            ("Nats-Schedule", "@at 2020-01-01T00:00:00Z"),
            ("Nats-Schedule-Target", target),
        ];
        let answer = poller.ask("sluice.schedule.poll.a", &headers, "x").unwrap();
        assert!(
            answer.body.contains("\"error\""),
            "{target}: {}",
            answer.body
        );
    }
    for headers in [
        vec![("Nats-Rollup", "all")],
        vec![
            ("Nats-Scheduler", "sluice.schedule.retry.promoter.EVENTS.1"),
            ("Nats-Schedule-Next", "purge"),
        ],
    ] {
        poller.ask("sluice.schedule.poll.a", &headers, "").unwrap();
        assert_eq!(held(&mut admin, "SCHEDULES_promoter"), 1, "{headers:?}");
    }
    // Where nothing rolls up, the header is refused.
    let emptied = scene
        .user("poller")
        .ask(
            "sluice.v1.upstream.tag_moved.a.b",
            &[("Nats-Rollup", "all")],
            "",
        )
        .unwrap();
    assert!(emptied.body.contains("\"error\""), "{}", emptied.body);
}
