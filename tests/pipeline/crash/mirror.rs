//! The mirror worker dies while it copies, while it points a tag, and while it removes one.

use chrono::{TimeDelta, Utc};
use sluice_domain::RemoteRepository;
use sluice_events::facts::{UpstreamTagGone, UpstreamTagMoved};
use sluice_events::time_to_wire;
use sluice_events::wire::state::{Claim, TagEntry, UpstreamTag};
use sluice_state::key;
use sluice_tests::Image;

use super::{Play, dies};

fn source(play: &Play, name: &str) -> RemoteRepository {
    let host = &play.stack.upstream.host;
    format!("{host}/library/{name}").parse().unwrap()
}

pub(super) fn moved(play: &Play, tag: &str, image: &Image) -> UpstreamTagMoved {
    UpstreamTagMoved {
        mirror: "app".parse().unwrap(),
        source: source(play, "app"),
        repository: "hub/app".parse().unwrap(),
        tag: tag.parse().unwrap(),
        digest: image.digest.parse().unwrap(),
        previous: None,
        move_number: 1,
        first_seen_at: Utc::now(),
        urgent: false,
    }
}

/// An index of two platforms arrives.
fn arrival(at: &str) {
    let mut play = Play::of("mirror-worker");
    let publisher = play.stack.publisher();
    let amd64 = publisher.image("library/app", "amd64", "amd64 content");
    let arm64 = publisher.image("library/app", "arm64", "arm64 content");
    let index = publisher.index("library/app", &[("amd64", &amd64), ("arm64", &arm64)]);
    play.stack.apply(&play.stack.upstream_resource());
    play.bus.publish(moved(&play, "1.0", &index), "1");
    play.run(at, &[]);
    play.expect_published(&[("upstream.tag_moved", 1), ("tag.mirrored", 1)]);
    let reader = play.stack.reader();
    assert_eq!(reader.get("hub/app", "1.0").unwrap(), index.raw);
    for manifest in [&index, &amd64, &arm64] {
        let raw = reader.get("hub/app", &manifest.digest).unwrap();
        assert_eq!(raw, manifest.raw);
    }
    let entry = play.tag("hub/app", "1.0");
    assert_eq!(entry.digest, index.digest);
    assert_eq!((entry.mirror.as_str(), entry.move_number), ("app", 1));
}

dies!(arrival:
    an_index_arrives_without_a_death at "",
    an_index_arrives_after_an_upload_was_begun at "copy.upload_begun",
    an_index_arrives_after_a_blob at "copy.blob_arrived:2",
    an_index_arrives_after_a_child at "copy.manifest_put:1",
    an_index_arrives_before_its_top at "copy.manifest_put:2",
    an_index_arrives_after_its_top at "copy.manifest_put:3",
    an_index_arrives_after_the_copy at "mirror-worker.copied",
    an_index_arrives_after_it_was_described at "images.described",
    an_index_arrives_after_the_claim at "tags.claimed",
    an_index_arrives_after_the_tag_was_put at "tags.written",
    an_index_arrives_before_the_tag_is_settled at "tags.checked",
    an_index_arrives_after_the_tag_was_settled at "tags.recorded",
    an_index_arrives_before_it_is_told at "bus.handled",
    an_index_arrives_after_it_was_told at "bus.fact_published",
    an_index_arrives_before_the_acknowledgement at "bus.finished",
);

/// A tag goes; its sibling with the same digest stays.
fn removal(at: &str) {
    let mut play = Play::of("mirror-worker");
    let image = play.hold("hub/app", "1.0", "content", 2);
    play.hold("hub/app", "2.0", "content", 1);
    let gone = UpstreamTagGone {
        mirror: "app".parse().unwrap(),
        source: source(&play, "app"),
        repository: "hub/app".parse().unwrap(),
        tag: "1.0".parse().unwrap(),
        last_digest: image.digest.parse().ok(),
        move_number: 2,
        remove: true,
    };
    play.bus.publish(gone, "2");
    play.run(at, &[]);
    play.expect_published(&[("upstream.tag_gone", 1)]);
    let reader = play.stack.reader();
    assert_eq!(reader.get("hub/app", "1.0"), None);
    assert_eq!(reader.get("hub/app", "2.0").unwrap(), image.raw);
    assert_eq!(play.tag("hub/app", "1.0").digest, "");
    assert_eq!(play.tag("hub/app", "2.0").digest, image.digest);
}

dies!(removal:
    a_tag_goes_without_a_death at "",
    a_tag_goes_after_the_claim at "tags.claimed",
    a_tag_goes_after_its_tombstone_was_noted at "tags.tombstone_recorded",
    a_tag_goes_after_its_tombstone_was_put at "registry.tombstone_put",
    a_tag_goes_after_it_was_deleted at "tags.written",
    a_tag_goes_before_it_is_settled at "tags.checked",
    a_tag_goes_after_it_was_settled at "tags.recorded",
);

/// A worker pointed the tag to an older move after a newer one had been settled.
fn taking_back(at: &str) {
    let mut play = Play::of("mirror-worker");
    let newer = play.hold("hub/app", "1.0", "newer", 2);
    let writer = play.stack.as_service("mirror-worker");
    let late = writer.image("hub/app", "amd64", "late");
    writer.put("hub/app", "1.0", &late);
    let known = UpstreamTag {
        mirror: "app".to_owned(),
        repository: "hub/app".to_owned(),
        tag: "1.0".to_owned(),
        digest: newer.digest.clone(),
        move_number: 2,
        ..Default::default()
    };
    let key = key::upstream(&"app".parse().unwrap(), &"1.0".parse().unwrap());
    let put = play.bus.state.upstream.put(&key, &known);
    play.bus.run(put).unwrap();
    play.bus.publish(moved(&play, "1.0", &late), "1");
    play.run(at, &[]);
    play.expect_published(&[("upstream.tag_moved", 1)]);
    let raw = play.stack.reader().get("hub/app", "1.0");
    assert_eq!(raw.unwrap(), newer.raw);
    let entry = play.tag("hub/app", "1.0");
    assert_eq!((entry.digest, entry.claim), (newer.digest, None));
}

dies!(taking_back:
    a_late_tag_is_taken_back_without_a_death at "",
    a_late_tag_is_taken_back_after_the_claim at "tags.restore_claimed",
    a_late_tag_is_taken_back_after_it_was_restored at "tags.restored",
);

/// Somebody else is changing the tag, so the message waits.
fn waiting(at: &str) {
    let mut play = Play::of("mirror-worker");
    let image = play
        .stack
        .publisher()
        .image("library/app", "amd64", "content");
    play.stack.apply(&play.stack.upstream_resource());
    let entry = TagEntry {
        claim: Some(Claim {
            digest: image.digest.clone(),
            holder: "promoter/other".to_owned(),
            until: Some(time_to_wire(Utc::now() + TimeDelta::seconds(4))),
            ..Default::default()
        }),
        ..Default::default()
    };
    let key = key::tag(&"hub/app".parse().unwrap(), &"1.0".parse().unwrap());
    play.bus.run(play.bus.state.tags.put(&key, &entry)).unwrap();
    play.bus.publish(moved(&play, "1.0", &image), "1");
    play.run(at, &[]);
    play.expect_published(&[("upstream.tag_moved", 1), ("tag.mirrored", 1)]);
    assert_eq!(play.tag("hub/app", "1.0").digest, image.digest);
}

dies!(waiting:
    a_message_waits_without_a_death at "",
    a_message_waits_after_its_copy_was_left at "bus.retry_scheduled",
);

/// An image that is gone upstream fails for good.
fn failure(at: &str) {
    let mut play = Play::of("mirror-worker");
    play.stack.may_leave_messages();
    let publisher = play.stack.publisher();
    let image = publisher.image("library/app", "amd64", "content");
    publisher.delete("library/app", &image.digest);
    play.stack.apply(&play.stack.upstream_resource());
    play.bus.publish(moved(&play, "1.0", &image), "1");
    play.run(at, &[]);
    play.buried(&[("upstream.tag_moved", 1), ("tag.mirror_failed", 1)]);
}

dies!(failure:
    a_failure_is_told_without_a_death at "",
    a_failure_is_told_after_it_was_told at "mirror-worker.failure_published",
    a_failure_is_told_after_the_dead_letter at "bus.dead_lettered",
);
