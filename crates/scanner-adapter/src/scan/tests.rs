//! What is scanned without being asked.

use chrono::Utc;
use sluice_domain::resources::{Kind, Resource};

use super::*;

fn digest() -> Digest {
    format!("sha256:{}", "a".repeat(64)).parse().unwrap()
}

fn pushed(repository: &str, actor: &str) -> Input {
    Input::Pushed(TagPushed {
        registry: "registry.internal".parse().unwrap(),
        repository: repository.parse().unwrap(),
        tag: "1.0".parse().unwrap(),
        digest: digest(),
        media_type: String::new(),
        size_bytes: 0,
        actor: actor.to_owned(),
        at: Utc::now(),
    })
}

fn asked(repository: &str) -> Input {
    Input::Scan(ScanImage {
        repository: repository.parse().unwrap(),
        tag: None,
        digest: digest(),
    })
}

fn catalog() -> Snapshot {
    let mut snapshot = Snapshot::default();
    let settings = r#"{"name":"manual/*","scan":"manual"}"#;
    let policy = r#"{"name":"p","from":"hub/*","to":"official/{name}","tag":"%n","when":"true"}"#;
    for (kind, json) in [
        (Kind::Repository, settings),
        (Kind::PromotionPolicy, policy),
    ] {
        match Resource::from_json(kind, json).unwrap() {
            Resource::Repository(resource) => {
                drop(
                    snapshot
                        .repositories
                        .insert(resource.name.clone(), resource),
                );
            }
            Resource::PromotionPolicy(resource) => {
                drop(snapshot.policies.insert(resource.name.clone(), resource));
            }
            other => panic!("{other:?}"),
        }
    }
    snapshot
}

#[test]
fn what_is_scanned_without_being_asked() {
    let catalog = catalog();
    for (input, scanned) in [
        (pushed("hub/app", "alice"), true),
        (pushed("hub/app", ""), true),
        (pushed("hub/app", "mirror-worker"), false),
        (pushed("official/app", "alice"), false),
        (pushed("manual/app", "alice"), false),
        (asked("manual/app"), true),
        (asked("official/app"), true),
    ] {
        let told = format!("{input:?}");
        assert_eq!(input.target(&catalog).is_some(), scanned, "{told}");
    }
}
