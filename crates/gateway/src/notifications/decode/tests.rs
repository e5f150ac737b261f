//! Tests of the events of notifications, with bodies as Distribution 2.8 sends them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn digest() -> String {
    format!("sha256:{}", "d6".repeat(32))
}

/// A notification with this action, method, actor, tag and media type; empty ones are left out as Distribution does.
fn body(action: &str, method: &str, actor: &str, target: &Value) -> Value {
    let mut body = json!({
        "id": "ef063fd8-4f17-4ab2-89b5-62e17d977064", "timestamp": "2026-11-23T22:01:52.846817515Z", "action": action,
        "target": { "repository": "hub/app" },
        "request": { "id": "r", "addr": "127.0.0.1:1", "host": "evil.example", "method": method, "useragent": "x" },
        "actor": {}, "source": { "addr": "vm:5003", "instanceID": "i" }
    });
    if !actor.is_empty() {
        body["actor"]["name"] = actor.into();
    }
    for (key, value) in target.as_object().unwrap() {
        body["target"][key] = value.clone();
    }
    body
}

fn by_digest() -> Value {
    json!({ "mediaType": MANIFEST, "size": 427, "digest": digest(), "length": 427, "url": "/v2/x" })
}

fn by_tag() -> Value {
    let mut target = by_digest();
    target["tag"] = "v1".into();
    target
}

fn blob() -> Value {
    json!({ "mediaType": BLOB, "size": 9, "digest": digest() })
}

fn decode(body: Value) -> Result<Option<DecodedNotification>, InvalidNotification> {
    let notification: Notification = serde_json::from_value(body).unwrap();
    notification.decode(&"registry.internal".parse().unwrap())
}

fn names(decoded: Option<DecodedNotification>) -> Vec<&'static str> {
    decoded
        .map(|decoded| decoded.events.iter().map(Event::name).collect())
        .unwrap_or_default()
}

#[test]
fn an_event_of_a_leap_second_is_decoded_from_the_wire_as_it_was_encoded() {
    let mut body = body("delete", "DELETE", "ci", &json!({ "tag": "v1" }));
    body["timestamp"] = "2016-12-31T23:59:60.5Z".into();
    let events = decode(body).unwrap().unwrap().events;
    let event = events.first().unwrap();
    let again = Event::decode(event.type_name(), &event.encode());
    assert_eq!(again.unwrap().unwrap(), *event);
}

#[test]
fn each_notification_has_the_events_of_the_table() {
    let digest_only = json!({ "digest": digest() });
    let tag_only = json!({ "tag": "v1" });
    let nothing: &[&str] = &[];
    for (action, method, actor, target, events) in [
        (
            "push",
            "PUT",
            "ci",
            by_tag(),
            &["manifest.pushed", "tag.pushed"][..],
        ),
        ("push", "PUT", "ci", by_digest(), &["manifest.pushed"]),
        (
            "push",
            "PUT",
            "promoter",
            by_tag(),
            &["manifest.pushed", "tag.pushed"],
        ),
        ("push", "PUT", "ci", blob(), nothing),
        ("mount", "POST", "ci", blob(), nothing),
        (
            "pull",
            "GET",
            "",
            by_tag(),
            &["manifest.pulled", "tag.pulled"],
        ),
        ("pull", "", "", by_tag(), &["manifest.pulled", "tag.pulled"]),
        ("pull", "GET", "ci", by_digest(), &["manifest.pulled"]),
        ("pull", "HEAD", "ci", by_tag(), &["tag.pulled"]),
        ("pull", "HEAD", "ci", by_digest(), nothing),
        ("pull", "GET", "ci", blob(), nothing),
        ("pull", "GET", "scanner-adapter", by_tag(), nothing),
        (
            "delete",
            "DELETE",
            "ci",
            digest_only.clone(),
            &["manifest.deleted"],
        ),
        (
            "delete",
            "DELETE",
            "pruner",
            digest_only,
            &["manifest.deleted"],
        ),
        ("delete", "DELETE", "ci", tag_only, &["tag.deleted"]),
    ] {
        let decoded = decode(body(action, method, actor, &target)).unwrap();
        assert_eq!(names(decoded), events, "{action} {method} {actor} {target}");
    }
}

#[test]
fn an_event_says_who_what_where_and_when() {
    let decoded = decode(body("push", "PUT", "ci", &by_tag()))
        .unwrap()
        .unwrap();
    assert_eq!(decoded.id, "ef063fd8-4f17-4ab2-89b5-62e17d977064");
    assert_eq!(decoded.digest, Some(digest().parse().unwrap()));
    assert_eq!(
        decoded.events[1].to_json(),
        json!({
            "registry": "registry.internal", "repository": "hub/app", "tag": "v1", "digest": digest(),
            "mediaType": MANIFEST, "sizeBytes": 427, "actor": "ci", "at": "2026-11-23T22:01:52.846817515Z"
        })
    );
}

#[test]
fn only_a_deletion_by_somebody_else_may_be_one_of_a_blob() {
    for (action, actor, target, may) in [
        ("delete", "ci", json!({ "digest": digest() }), true),
        ("delete", "", json!({ "digest": digest() }), true),
        ("delete", "pruner", json!({ "digest": digest() }), false),
        ("delete", "ci", json!({ "tag": "v1" }), false),
        ("push", "ci", by_tag(), false),
    ] {
        let decoded = decode(body(action, "", actor, &target)).unwrap().unwrap();
        assert_eq!(decoded.may_be_blob, may, "{action} {actor} {target}");
    }
}

#[test]
fn an_invalid_notification_is_distinguished_from_one_without_events() {
    let mut nameless = body("push", "PUT", "ci", &by_tag());
    nameless["id"] = "".into();
    let mut long = body("push", "PUT", "ci", &by_tag());
    long["id"] = "x".repeat(129).into();
    for wrong in [
        nameless,
        long,
        body("fly", "PUT", "ci", &by_tag()),
        body("push", "PUT", "ci", &json!({ "tag": "v1" })),
        body("delete", "DELETE", "ci", &json!({})),
        body("push", "PUT", "ci", &json!({ "digest": "sha512:00" })),
        body("delete", "DELETE", "ci", &json!({ "tag": "-v1" })),
        body(
            "delete",
            "DELETE",
            "ci",
            &json!({ "repository": "HUB", "tag": "v1" }),
        ),
    ] {
        assert!(decode(wrong.clone()).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn an_event_has_the_names_of_its_notification_or_there_is_none(
        action in "(push|pull|delete|mount|\\PC{0,5})",
        method in "(HEAD|GET|PUT)?",
        repository in "([a-z0-9/._-]{1,12}|\\PC{0,9})",
        tag in "([A-Za-z0-9._-]{0,9}|\\PC{0,9})",
        has_digest in any::<bool>(),
        actor in "(mirror-worker|promoter|\\PC{0,9})",
        size in any::<u64>(),
    ) {
        let digest = if has_digest { digest() } else { tag.clone() };
        let target = json!({ "digest": digest, "tag": tag, "repository": repository, "size": size, "mediaType": MANIFEST });
        let mut notification = body(&action, &method, &actor, &json!({}));
        notification["target"] = target;
        if let Ok(Some(decoded)) = decode(notification) {
            prop_assert!((1..=2).contains(&decoded.events.len()));
            for event in &decoded.events {
                let subject = event.subject();
                let parsed: Repository = repository.parse().unwrap();
                prop_assert!(subject.ends_with(&sluice_events::subject::of_repository(&parsed)), "{}", subject);
            }
            prop_assert!(!(action == "pull" && is_service_account(&actor)));
        }
    }

    #[test]
    fn no_body_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), cut in any::<prop::sample::Index>(), junk in any::<u8>()) {
        drop(serde_json::from_slice::<Envelope>(&bytes));
        let text = json!({ "events": [body("push", "PUT", "someone", &by_tag())] }).to_string();
        let mut bytes = text.into_bytes();
        let place = cut.index(bytes.len());
        bytes[place] = junk;
        if let Ok(envelope) = serde_json::from_slice::<Envelope>(&bytes) {
            for notification in envelope.events {
                drop(notification.decode(&"registry.internal".parse().unwrap()));
            }
        }
    }
}
