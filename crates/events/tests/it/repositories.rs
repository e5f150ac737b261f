//! The subject of each event, and the repositories by which webhooks select it; `UPDATE=1` adds those of new events.

use std::fs;

use sluice_events::Event;

use crate::protocol::{root, update};
use crate::samples;

/// The registry of a remote target.
const REMOTE_HOST: &str = "127.0.0.1:5000";
const REMOTE: &str = "\
sluice.v1.image.promoted.127=2E0=2E0=2E1=3A5000.official/alpine hub/alpine 127.0.0.1:5000/official/alpine
sluice.v1.image.promotion_denied.hub.alpine hub/alpine 127.0.0.1:5000/official/alpine
sluice.v1.image.flagged.127=2E0=2E0=2E1=3A5000.official/alpine 127.0.0.1:5000/official/alpine
sluice.v1.image.withdrawn.127=2E0=2E0=2E1=3A5000.official/alpine 127.0.0.1:5000/official/alpine
sluice.v1.image.unauthorised.127=2E0=2E0=2E1=3A5000.official/alpine 127.0.0.1:5000/official/alpine
";

#[test]
fn each_event_is_of_its_source_and_of_its_target() {
    let file = root().join("tests/contract/golden/subjects.txt");
    let released = fs::read_to_string(&file).unwrap();
    let described = described(&samples::events());
    for line in released.lines() {
        let is_there = described.lines().any(|now| now == line);
        assert!(
            is_there,
            "`{line}` was released, and now there is\n{described}"
        );
    }
    if update() {
        fs::write(&file, &described).unwrap();
    }
    let released = fs::read_to_string(&file).unwrap();
    assert!(
        released == described,
        "run with UPDATE=1 to add:\n{described}"
    );
}

#[test]
fn a_target_in_a_remote_registry_is_named_with_its_host() {
    let remote: Vec<Event> = samples::events().into_iter().filter_map(remote).collect();
    assert_eq!(described(&remote), REMOTE);
}

#[test]
fn an_event_of_a_mirror_or_of_a_remote_target_names_the_remote_registry() {
    for event in samples::events() {
        let source = event.to_json()["source"].clone();
        let upstream = source.as_str().filter(|source| source.contains('.'));
        let registry = event.remote_registry().map(|host| host.to_string());
        let expected = upstream.and_then(|source| source.split('/').next());
        assert_eq!(registry.as_deref(), expected, "{}", event.name());
        if let Some(event) = remote(event) {
            let registry = event.remote_registry().map(|host| host.to_string());
            assert_eq!(registry.as_deref(), Some(REMOTE_HOST));
        }
    }
}

/// Returns a line for each event: its subject and its repositories.
fn described(events: &[Event]) -> String {
    let line = |event: &Event| {
        let mut words = vec![event.subject()];
        words.extend(event.repositories().iter().map(ToString::to_string));
        words.join(" ") + "\n"
    };
    events.iter().map(line).collect()
}

/// Returns the event with a target in a remote registry, if its type can have one.
fn remote(mut event: Event) -> Option<Event> {
    let registry = match &mut event {
        Event::ImagePromoted(fact) => &mut fact.registry,
        Event::ImagePromotionDenied(fact) => &mut fact.registry,
        Event::ImageFlagged(fact) => &mut fact.registry,
        Event::ImageWithdrawn(fact) => &mut fact.registry,
        Event::ImageUnauthorised(fact) => &mut fact.registry,
        _ => return None,
    };
    *registry = Some(REMOTE_HOST.parse().unwrap());
    Some(event)
}
