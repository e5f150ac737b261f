//! The promoter dies while it takes an image back, or flags it.

use sluice_events::time_to_wire;
use sluice_events::wire::state::TagEntry;
use sluice_tests::Image;

use super::promote::{CLEAN, put_tag, scanned, then, until_target, verdict, was_promoted};
use super::{Play, dies};

/// Makes an image of two platforms that was promoted as these tags, and of which a bad thing is known now.
fn promoted(play: &Play, tags: &[&str]) -> [Image; 3] {
    until_target(play, "official/app");
    let mut images = None;
    for (account, repository) in [("mirror-worker", "hub/app"), ("promoter", "official/app")] {
        let writer = play.stack.as_service(account);
        let amd64 = writer.image(repository, "amd64", "amd64 content");
        let arm64 = writer.image(repository, "arm64", "arm64 content");
        let index = writer.index(repository, &[("amd64", &amd64), ("arm64", &arm64)]);
        images = Some([index, amd64, arm64]);
    }
    let images = images.unwrap();
    let [index, amd64, arm64] = &images;
    let hub = play.stack.as_service("mirror-worker");
    hub.put("hub/app", "1.0", index);
    let entry = TagEntry {
        repository: "hub/app".to_owned(),
        tag: "1.0".to_owned(),
        digest: index.digest.clone(),
        generation: 1,
        arrived_at: Some(time_to_wire(then())),
        ..Default::default()
    };
    put_tag(play, &entry);
    let official = play.stack.as_service("promoter");
    for tag in tags {
        official.put("official/app", tag, index);
        // The decision names the last one.
        was_promoted(play, tag, index);
    }
    verdict(play, amd64, 1);
    verdict(play, arm64, 0);
    scanned(play, index);
    images
}

/// An image that a template with the time brought twice is taken back, both tags and every manifest.
fn withdrawal(at: &str) {
    let mut play = Play::of("promoter");
    let policy = format!("{CLEAN}tag: '%n-%Y'\nrecall: withdraw\n");
    play.stack.apply(&policy);
    let images = promoted(&play, &["1.0-2019", "1.0-2020"]);
    play.may_be_unauthorised = !at.is_empty();
    play.run(at, &[]);
    play.expect_published(&[
        ("scan.succeeded", 1),
        ("image.promotion_denied", 1),
        ("image.withdrawn", 2),
    ]);
    let reader = play.stack.reader();
    for tag in ["1.0-2019", "1.0-2020"] {
        assert_eq!(reader.get("official/app", tag), None, "{tag}");
        assert_eq!(play.tag("official/app", tag).digest, "", "{tag}");
    }
    for image in &images {
        assert_eq!(reader.get("official/app", &image.digest), None);
        assert_eq!(reader.get("hub/app", &image.digest).unwrap(), image.raw);
    }
    let decision = play.decision("clean", "1.0", &images[0]);
    assert!(decision.published && decision.promoted_at.is_none());
}

dies!(withdrawal:
    an_image_is_taken_back_without_a_death at "",
    an_image_is_taken_back_after_the_decision at "promoter.decided",
    an_image_is_taken_back_after_the_claim_of_a_tag at "tags.claimed",
    an_image_is_taken_back_after_a_tombstone_was_noted at "tags.tombstone_recorded",
    an_image_is_taken_back_after_a_tombstone_was_put at "registry.tombstone_put",
    an_image_is_taken_back_after_a_tag_was_deleted at "tags.written",
    an_image_is_taken_back_before_a_tag_is_settled at "tags.checked",
    an_image_is_taken_back_between_two_tags at "tags.recorded:1",
    an_image_is_taken_back_after_its_tags at "tags.recorded:2",
    an_image_is_taken_back_between_its_manifests at "promoter.manifest_deleted:1",
    an_image_is_taken_back_before_its_last_manifest at "promoter.manifest_deleted:2",
    an_image_is_taken_back_after_its_manifests at "promoter.manifest_deleted:3",
    an_image_is_taken_back_before_it_is_told at "bus.handled",
    an_image_is_taken_back_after_the_refusal_was_told at "bus.fact_published:1",
    an_image_is_taken_back_between_its_two_facts at "bus.fact_published:2",
    an_image_is_taken_back_after_it_was_told at "bus.fact_published:3",
    an_image_is_taken_back_after_the_record at "bus.recorded",
    an_image_is_taken_back_before_the_acknowledgement at "bus.finished",
);

/// An image that no longer passes is flagged and stays.
fn flag(at: &str) {
    let mut play = Play::of("promoter");
    play.stack.apply(&format!("{CLEAN}recall: flag\n"));
    let images = promoted(&play, &["1.0"]);
    play.run(at, &[]);
    play.expect_published(&[
        ("scan.succeeded", 1),
        ("image.promotion_denied", 1),
        ("image.flagged", 1),
    ]);
    let raw = play.stack.reader().get("official/app", "1.0");
    assert_eq!(raw.unwrap(), images[0].raw);
    let decision = play.decision("clean", "1.0", &images[0]);
    assert!(decision.published && decision.promoted_at.is_some());
    assert!(decision.flagged.contains("scan.critical"));
}

dies!(flag:
    an_image_is_flagged_without_a_death at "",
    an_image_is_flagged_after_the_decision at "promoter.decided",
    an_image_is_flagged_between_the_refusal_and_the_flag at "bus.fact_published:1",
    an_image_is_flagged_after_the_flag_was_told at "bus.fact_published:2",
    an_image_is_flagged_after_the_record at "bus.recorded",
);
