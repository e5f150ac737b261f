//! The subject of each event, and the repositories by which webhooks select it.

use sluice_events::Event;

use crate::samples;

const LOCAL: &str = "\
sluice.v1.upstream.tag_moved.hub.alpine hub/alpine
sluice.v1.upstream.tag_gone.hub.alpine hub/alpine
sluice.v1.upstream.poll_failed.hub.alpine hub/alpine
sluice.v1.upstream.poll_recovered.hub.alpine hub/alpine
sluice.v1.tag.mirrored.hub.alpine hub/alpine
sluice.v1.tag.mirror_failed.hub.alpine hub/alpine
sluice.v1.tag.move_refused.hub.alpine hub/alpine
sluice.v1.tag.repaired.hub.alpine hub/alpine
sluice.v1.tag.pushed.hub.app hub/app
sluice.v1.tag.pulled.official.alpine official/alpine
sluice.v1.tag.deleted.hub.app hub/app
sluice.v1.manifest.pushed.hub.app hub/app
sluice.v1.manifest.pulled.official.alpine official/alpine
sluice.v1.manifest.deleted.hub.app hub/app
sluice.v1.scan.succeeded.hub.alpine hub/alpine
sluice.v1.scan.failed.hub.x hub/x
sluice.v1.scan.findings_changed.official.alpine official/alpine
sluice.v1.scanner.database_updated._.trivy
sluice.v1.image.promoted.official.alpine hub/alpine official/alpine
sluice.v1.image.promotion_denied.hub.alpine hub/alpine official/alpine
sluice.v1.image.flagged.official.alpine official/alpine
sluice.v1.image.withdrawn.official.alpine official/alpine
sluice.v1.image.unauthorised.official.alpine official/alpine
sluice.v1.prune.completed.hub.alpine hub/alpine
sluice.v1.webhook.delivered._.slack-images
sluice.v1.webhook.failed._.slack-images
sluice.v1.resource.applied.repository.hub/=2A
";

const REMOTE: &str = "\
sluice.v1.image.promoted.127=2E0=2E0=2E1=3A5000.official/alpine hub/alpine 127.0.0.1:5000/official/alpine
sluice.v1.image.promotion_denied.hub.alpine hub/alpine 127.0.0.1:5000/official/alpine
sluice.v1.image.flagged.127=2E0=2E0=2E1=3A5000.official/alpine 127.0.0.1:5000/official/alpine
sluice.v1.image.withdrawn.127=2E0=2E0=2E1=3A5000.official/alpine 127.0.0.1:5000/official/alpine
sluice.v1.image.unauthorised.127=2E0=2E0=2E1=3A5000.official/alpine 127.0.0.1:5000/official/alpine
";

#[test]
fn each_event_is_of_its_source_and_of_its_target() {
    assert_eq!(described(&samples::events()), LOCAL);
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
            assert_eq!(event.remote_registry(), Some(samples::host()));
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
    *registry = Some("127.0.0.1:5000".parse().unwrap());
    Some(event)
}
