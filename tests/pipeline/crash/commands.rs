//! The command dies between two writes; the person gives it again.

use chrono::Utc;
use sluice_events::Event;
use sluice_events::facts::UpstreamTagMoved;

use super::{Play, dies};

/// Gives a command that dies at the point, and then again.
fn give(play: &Play, at: &str, arguments: &[&str]) {
    if !at.is_empty() {
        play.stack.sluice_dying(at, arguments);
    }
    play.stack.sluice(arguments);
}

fn applied(play: &Play) -> Vec<bool> {
    let facts = play.events("resource.applied").into_iter();
    facts
        .map(|event| match event {
            Event::ResourceApplied(fact) => fact.removed,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn apply(at: &str) {
    let play = Play::of("poller");
    let file = play.stack.folder().join("one.yaml");
    std::fs::write(&file, play.stack.upstream_resource()).unwrap();
    give(&play, at, &["apply", "-f", file.to_str().unwrap()]);
    assert_eq!(applied(&play), [false]);
    // Once more changes nothing, and tells nothing.
    play.stack.sluice(&["apply", "-f", file.to_str().unwrap()]);
    assert_eq!(applied(&play), [false]);
    assert!(
        play.stack
            .sluice(&["get", "registries"])
            .contains("upstream")
    );
}

dies!(apply:
    a_resource_is_applied_without_a_death at "",
    a_resource_is_applied_after_it_was_stored at "resources.stored",
);

fn delete(at: &str) {
    let play = Play::of("poller");
    play.stack.apply(&play.stack.upstream_resource());
    give(&play, at, &["delete", "registry", "upstream"]);
    assert_eq!(applied(&play), [false, true]);
    assert!(
        !play
            .stack
            .sluice(&["get", "registries"])
            .contains("upstream")
    );
}

dies!(delete:
    a_resource_is_removed_without_a_death at "",
    a_resource_is_removed_after_that_was_told at "resources.removal_published",
);

/// What could not be mirrored is driven again once its image is there.
fn retry(at: &str) {
    let mut play = Play::of("mirror-worker");
    play.stack.apply(&play.stack.upstream_resource());
    let publisher = play.stack.publisher();
    let image = publisher.image("library/app", "amd64", "content");
    publisher.delete("library/app", &image.digest);
    let host = &play.stack.upstream.host;
    let moved = UpstreamTagMoved {
        mirror: "app".parse().unwrap(),
        source: format!("{host}/library/app").parse().unwrap(),
        repository: "hub/app".parse().unwrap(),
        tag: "1.0".parse().unwrap(),
        digest: image.digest.parse().unwrap(),
        previous: None,
        move_number: 1,
        first_seen_at: Utc::now(),
        urgent: false,
    };
    play.bus.publish(moved, "1");
    play.run("", &[]);
    play.buried(&[("upstream.tag_moved", 1), ("tag.mirror_failed", 1)]);
    publisher.put("library/app", &image.digest, &image);
    give(&play, at, &["dead-letters", "retry", "--all"]);
    play.expect_published(&[
        ("upstream.tag_moved", 1),
        ("tag.mirror_failed", 1),
        ("tag.mirrored", 1),
    ]);
    let raw = play.stack.reader().get("hub/app", "1.0");
    assert_eq!(raw.unwrap(), image.raw);
}

dies!(retry:
    a_dead_letter_is_driven_again_without_a_death at "",
    a_dead_letter_is_driven_again_after_it_was_sent at "dead-letters.redriven",
);
