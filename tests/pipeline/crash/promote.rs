//! The promoter dies between its decision, the copy, the tag, the fact and the record.

use chrono::{DateTime, Utc};
use sluice_domain::SeverityCounts;
use sluice_events::facts::ScanSucceeded;
use sluice_events::wire::events::SeverityCounts as WireCounts;
use sluice_events::wire::state::{
    Decision, DecisionOutcome, Promotion, TagEntry, Verdict, VerdictStatus,
};
use sluice_events::{Event, EventId, time_to_wire};
use sluice_state::key;
use sluice_tests::{Image, wait_for};

use super::{Play, dies};

pub(super) const CLEAN: &str = "kind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: official/{name}\nwhen: scan.critical == 0\n";

/// Waits until the gateway lets the promoter write to a repository, because it is a target.
pub(super) fn until_target(play: &Play, repository: &str) {
    let promoter = play.stack.as_service("promoter");
    wait_for("the gateway to know the target", 20, || {
        (promoter.try_upload(repository) == 202).then_some(())
    });
}

/// Stores a verdict with so many critical findings.
pub(super) fn verdict(play: &Play, manifest: &Image, critical: u64) {
    let verdict = Verdict {
        digest: manifest.digest.clone(),
        scanner: key::SCANNER.to_owned(),
        database_version: "database 7".to_owned(),
        status: VerdictStatus::Covered.into(),
        counts: Some(WireCounts {
            critical,
            ..Default::default()
        }),
        packages: 12,
        os: "debian 12.5".to_owned(),
        scanned_at: Some(time_to_wire(Utc::now())),
        ..Default::default()
    };
    let key = key::verdict(&manifest.digest.parse().unwrap());
    let verdicts = &play.bus.state.verdicts;
    play.bus.run(verdicts.put(&key, &verdict)).unwrap();
}

/// Tells that `hub/app:1.0` was scanned.
pub(super) fn scanned(play: &Play, image: &Image) {
    let fact = ScanSucceeded {
        repository: "hub/app".parse().unwrap(),
        tag: "1.0".parse().ok(),
        digest: image.digest.parse().unwrap(),
        scanner: key::SCANNER.parse().unwrap(),
        scanner_version: "1".to_owned(),
        database_version: "database 7".to_owned(),
        counts: SeverityCounts::default(),
        children: Vec::new(),
    };
    let occurrence = EventId::random().to_string();
    play.bus.publish(fact, &occurrence);
}

/// Puts an entry of a tag.
pub(super) fn put_tag(play: &Play, entry: &TagEntry) {
    let key = key::tag(
        &entry.repository.parse().unwrap(),
        &entry.tag.parse().unwrap(),
    );
    play.bus.run(play.bus.state.tags.put(&key, entry)).unwrap();
}

/// Returns the time at which an image was promoted long ago.
pub(super) fn then() -> DateTime<Utc> {
    "2020-02-03T04:05:06Z".parse().unwrap()
}

/// Stores that `hub/app:1.0` was promoted as this image, with the entry of that.
pub(super) fn was_promoted(play: &Play, tag: &str, image: &Image) {
    let from = Promotion {
        policy: "clean".to_owned(),
        repository: "hub/app".to_owned(),
        tag: "1.0".to_owned(),
        ..Default::default()
    };
    let decision = Decision {
        policy: from.policy.clone(),
        repository: from.repository.clone(),
        tag: from.tag.clone(),
        digest: image.digest.clone(),
        target: "official/app".to_owned(),
        target_tag: tag.to_owned(),
        outcome: DecisionOutcome::Allow.into(),
        decided_at: Some(time_to_wire(then())),
        promoted_at: Some(time_to_wire(then())),
        published: true,
        ..Default::default()
    };
    let key = key::decision(
        &from.policy.parse().unwrap(),
        &from.repository.parse().unwrap(),
        &from.tag.parse().unwrap(),
        &image.digest.parse().unwrap(),
    );
    let decisions = &play.bus.state.decisions;
    play.bus.run(decisions.put(&key, &decision)).unwrap();
    put_tag(
        play,
        &TagEntry {
            repository: "official/app".to_owned(),
            tag: tag.to_owned(),
            digest: image.digest.clone(),
            generation: 1,
            arrived_at: Some(time_to_wire(then())),
            promoted_from: Some(from),
            ..Default::default()
        },
    );
}

/// A clean image takes a tag that named another one before.
fn promotion(at: &str) {
    let mut play = Play::of("promoter");
    play.stack.apply(CLEAN);
    until_target(&play, "official/app");
    let promoter = play.stack.as_service("promoter");
    let old = promoter.image("official/app", "amd64", "old");
    promoter.put("official/app", "1.0", &old);
    was_promoted(&play, "1.0", &old);
    verdict(&play, &old, 0);
    let image = play.hold("hub/app", "1.0", "new", 1);
    verdict(&play, &image, 0);
    scanned(&play, &image);
    play.run(at, &[]);
    play.expect_published(&[("scan.succeeded", 1), ("image.promoted", 1)]);
    let Some(Event::ImagePromoted(promoted)) = play.events("image.promoted").pop() else {
        panic!("it was counted");
    };
    assert_eq!(promoted.digest.as_str(), image.digest);
    assert_eq!(promoted.previous, old.digest.parse().ok());
    let raw = play.stack.reader().get("official/app", "1.0");
    assert_eq!(raw.unwrap(), image.raw);
    assert_eq!(play.tag("official/app", "1.0").digest, image.digest);
    let decision = play.decision("clean", "1.0", &image);
    assert!(decision.published);
    assert_eq!(decision.decided_at, Some(time_to_wire(promoted.decided_at)));
}

dies!(promotion:
    an_image_is_promoted_without_a_death at "",
    an_image_is_promoted_after_the_decision at "promoter.decided",
    an_image_is_promoted_after_a_blob at "copy.blob_arrived",
    an_image_is_promoted_after_the_copy at "promoter.copied",
    an_image_is_promoted_after_the_claim at "tags.claimed",
    an_image_is_promoted_after_the_tag_was_put at "tags.written",
    an_image_is_promoted_before_the_tag_is_settled at "tags.checked",
    an_image_is_promoted_after_the_tag_was_settled at "tags.recorded",
    an_image_is_promoted_before_it_is_told at "bus.handled",
    an_image_is_promoted_after_it_was_told at "bus.fact_published",
    an_image_is_promoted_after_the_record at "bus.recorded",
    an_image_is_promoted_before_the_acknowledgement at "bus.finished",
);

/// An image waits for its soak time first.
fn soak(at: &str) {
    let mut play = Play::of("promoter");
    play.stack.apply(&format!("{CLEAN}soak: 3s\n"));
    let image = play.hold("hub/app", "1.0", "new", 0);
    verdict(&play, &image, 0);
    scanned(&play, &image);
    play.run(at, &[]);
    play.expect_published(&[("scan.succeeded", 1), ("image.promoted", 1)]);
    let raw = play.stack.reader().get("official/app", "1.0");
    assert_eq!(raw.unwrap(), image.raw);
    let timers = play.bus.run(play.bus.bus.schedules("judge")).unwrap();
    assert!(timers.is_empty(), "{timers:?}");
}

dies!(soak:
    an_image_soaks_without_a_death at "",
    an_image_soaks_after_the_decision at "promoter.decided",
    an_image_soaks_after_its_timer_was_put at "promoter.timer_scheduled",
    an_image_soaks_before_the_timer_is_acknowledged at "bus.finished:2",
    an_image_soaks_after_its_timer_was_removed at "promoter.timer_removed",
);

/// What one policy promotes is what the next one judges.
fn chain(at: &str) {
    let mut play = Play::of("promoter");
    let further = "---\nkind: PromotionPolicy\nname: further\nfrom: official/*\nto: further/{name}\nwhen: scan.critical == 0\n";
    play.stack.apply(&format!("{CLEAN}{further}"));
    let image = play.hold("hub/app", "1.0", "new", 1);
    verdict(&play, &image, 0);
    scanned(&play, &image);
    play.run(at, &[]);
    play.expect_published(&[("scan.succeeded", 1), ("image.promoted", 2)]);
    let raw = play.stack.reader().get("further/app", "1.0");
    assert_eq!(raw.unwrap(), image.raw);
}

dies!(chain:
    policies_follow_one_another_without_a_death at "",
    policies_follow_one_another_after_the_fact at "bus.fact_published",
    policies_follow_one_another_after_the_command at "bus.command_published",
);

/// One policy fails for good; what another one has to tell must not wait for it.
fn partly(at: &str) {
    let mut play = Play::of("promoter");
    play.stack.may_leave_messages();
    let others = "---\nkind: PromotionPolicy\nname: fails\nfrom: hub/*\nto: blocked/{name}\nwhen: scan.critical == 0\n\
        ---\nkind: PromotionPolicy\nname: further\nfrom: official/*\nto: further/{name}\nwhen: scan.critical == 0\n";
    play.stack.apply(&format!("{CLEAN}{others}"));
    until_target(&play, "official/app");
    let image = play.hold("hub/app", "1.0", "new", 1);
    // It is in place in one target already, and its layer is missing for the other.
    let promoter = play.stack.as_service("promoter");
    promoter.image("official/app", "amd64", "new");
    promoter.put("official/app", "1.0", &image);
    put_tag(
        &play,
        &TagEntry {
            repository: "official/app".to_owned(),
            tag: "1.0".to_owned(),
            digest: image.digest.clone(),
            generation: 1,
            ..Default::default()
        },
    );
    let manifest: serde_json::Value = serde_json::from_slice(&image.raw).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let owner = play.stack.as_service("mirror-worker");
    assert_eq!(owner.try_delete_blob("hub/app", layer), 202);
    verdict(&play, &image, 0);
    scanned(&play, &image);
    play.run(at, &[]);
    // A promoter that comes again looks again at what is not finished; each such question is a letter more.
    play.ended(&[("scan.succeeded", 1), ("image.promoted", 2)]);
    let letters = play.bus.run(play.bus.bus.dead_letters(10)).unwrap();
    let named = letters
        .iter()
        .filter(|letter| letter.reason.contains("does not exist"));
    assert!(
        named.count() == letters.len() && !letters.is_empty(),
        "{letters:?}"
    );
    assert!(play.decision("clean", "1.0", &image).published);
    assert!(!play.decision("fails", "1.0", &image).published);
}

dies!(partly:
    one_policy_fails_without_a_death at "",
    one_policy_fails_after_the_fact_of_another at "promoter.event_published",
    one_policy_fails_after_the_command_of_another at "promoter.command_published",
    one_policy_fails_after_the_record_of_another at "promoter.recorded",
);
