//! The promoter dies while it pushes an image into a remote registry, or takes it back from there.

use sluice_domain::Target;
use sluice_events::time_to_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome, Promotion, TagEntry};
use sluice_state::key;
use sluice_tests::{Image, PARTNER, Registry, Upstream};

use super::promote::{scanned, then, verdict};
use super::{Play, dies};

/// A stack with a remote registry that a policy promotes into.
struct Push {
    play: Play,
    remote: Registry,
}

impl Push {
    fn of(more: &str) -> Self {
        let play = Play::of("promoter");
        let remote = Registry::private(true);
        let host = &remote.host;
        play.stack.apply(&format!(
            "kind: Registry\nname: partner\n{}---\n\
             kind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: {host}/team/{{name}}\nwhen: scan.critical == 0\n{more}",
            play.stack.login(host, PARTNER),
        ));
        Self { play, remote }
    }

    fn there(&self) -> Upstream {
        Upstream::with_account(&self.remote.host, PARTNER.0, PARTNER.1)
    }

    fn target(&self) -> Target {
        Target {
            registry: self.remote.host.parse().ok(),
            repository: "team/app".parse().unwrap(),
        }
    }

    fn key(&self) -> String {
        key::target_tag(&self.target(), &"1.0".parse().unwrap())
    }

    fn entry(&self) -> TagEntry {
        let tags = &self.play.bus.state.tags;
        let entry = self.play.bus.run(tags.get(&self.key())).unwrap();
        entry.map(|entry| entry.value).unwrap_or_default()
    }

    /// Puts an image there, with the decision and the entry of its promotion.
    fn was_pushed(&self, content: &str) -> Image {
        let image = self.there().image("team/app", "amd64", content);
        self.there().put("team/app", "1.0", &image);
        let from = Promotion {
            policy: "clean".to_owned(),
            repository: "hub/app".to_owned(),
            tag: "1.0".to_owned(),
            decided_at: Some(time_to_wire(then())),
        };
        let state = &self.play.bus.state;
        // It was judged by the policy as it is.
        let policy = key::resource("PromotionPolicy", &"clean".parse().unwrap());
        let policy = self.play.bus.run(state.resources.get(&policy)).unwrap();
        let decision = Decision {
            policy_revision: policy.unwrap().revision,
            policy: from.policy.clone(),
            repository: from.repository.clone(),
            tag: from.tag.clone(),
            digest: image.digest.clone(),
            target: self.target().stored(),
            target_tag: "1.0".to_owned(),
            outcome: DecisionOutcome::Allow.into(),
            decided_at: Some(time_to_wire(then())),
            promoted_at: Some(time_to_wire(then())),
            published: true,
            was_allowed: true,
            ..Default::default()
        };
        let key = key::decision(
            &"clean".parse().unwrap(),
            &"hub/app".parse().unwrap(),
            &"1.0".parse().unwrap(),
            &image.digest.parse().unwrap(),
        );
        self.play
            .bus
            .run(state.decisions.put(&key, &decision))
            .unwrap();
        let entry = TagEntry {
            repository: self.target().stored(),
            tag: "1.0".to_owned(),
            digest: image.digest.clone(),
            generation: 1,
            arrived_at: Some(time_to_wire(then())),
            promoted_from: Some(from),
            ..Default::default()
        };
        self.play
            .bus
            .run(state.tags.put(&self.key(), &entry))
            .unwrap();
        image
    }
}

/// A clean image takes a remote tag that named another one before.
fn push(at: &str) {
    let mut push = Push::of("");
    let old = push.was_pushed("old");
    let image = push.play.hold("hub/app", "1.0", "new", 1);
    verdict(&push.play, &image, 0);
    scanned(&push.play, &image);
    push.play.run(at, &[]);
    push.play
        .expect_published(&[("scan.succeeded", 1), ("image.promoted", 1)]);
    let raw = push.there().get("team/app", "1.0");
    assert_eq!(raw.unwrap(), image.raw);
    let entry = push.entry();
    assert_eq!(
        (entry.digest, entry.previous),
        (image.digest.clone(), old.digest)
    );
    assert!(push.play.decision("clean", "1.0", &image).published);
}

dies!(push:
    an_image_is_pushed_without_a_death at "",
    an_image_is_pushed_after_the_decision at "promoter.decided",
    an_image_is_pushed_after_a_blob at "copy.blob_arrived",
    an_image_is_pushed_after_its_manifest at "copy.manifest_put",
    an_image_is_pushed_after_the_copy at "promoter.copied",
    an_image_is_pushed_after_the_claim at "tags.claimed",
    an_image_is_pushed_after_the_tag_was_put at "tags.written",
    an_image_is_pushed_before_the_tag_is_settled at "tags.checked",
    an_image_is_pushed_after_the_tag_was_settled at "tags.recorded",
    an_image_is_pushed_after_it_was_told at "bus.fact_published",
    an_image_is_pushed_before_the_acknowledgement at "bus.finished",
);

/// A pushed image of which a bad thing is known now is taken back.
fn pull_back(at: &str) {
    let mut push = Push::of("recall: withdraw\n");
    let image = push.play.hold("hub/app", "1.0", "content", 1);
    assert_eq!(push.was_pushed("content").digest, image.digest);
    verdict(&push.play, &image, 1);
    scanned(&push.play, &image);
    push.play.run(at, &[]);
    push.play.expect_published(&[
        ("scan.succeeded", 1),
        ("image.promotion_denied", 1),
        ("image.withdrawn", 1),
    ]);
    for reference in ["1.0", &image.digest] {
        assert_eq!(push.there().get("team/app", reference), None, "{reference}");
    }
    assert_eq!(push.entry().digest, "");
    let raw = push.play.stack.reader().get("hub/app", "1.0");
    assert_eq!(raw.unwrap(), image.raw, "the source stays");
}

dies!(pull_back:
    a_pushed_image_is_taken_back_without_a_death at "",
    a_pushed_image_is_taken_back_after_the_decision at "promoter.decided",
    a_pushed_image_is_taken_back_after_the_claim_of_its_tag at "tags.claimed",
    a_pushed_image_is_taken_back_after_a_tombstone_was_put at "registry.tombstone_put",
    a_pushed_image_is_taken_back_after_its_tag_was_deleted at "tags.written",
    a_pushed_image_is_taken_back_after_its_tag_was_settled at "tags.recorded",
    a_pushed_image_is_taken_back_after_a_manifest_was_deleted at "promoter.manifest_deleted",
);

/// Somebody else wrote over a pushed tag, and that is told.
fn strange(at: &str) {
    let mut push = Push::of("");
    let image = push.play.hold("hub/app", "1.0", "content", 1);
    push.was_pushed("content");
    verdict(&push.play, &image, 0);
    let other = push.there().image("team/app", "amd64", "theirs");
    push.there().put("team/app", "1.0", &other);
    push.play.run(at, &[]);
    push.play.expect_published(&[("image.unauthorised", 1)]);
    assert_eq!(push.there().get("team/app", "1.0").unwrap(), other.raw);
    let note = push.play.decision("clean", "1.0", &image).note;
    assert!(note.contains(&other.digest), "{note}");
}

dies!(strange:
    what_somebody_wrote_over_a_pushed_tag_is_told_without_a_death at "",
    what_somebody_wrote_over_a_pushed_tag_is_told_after_the_fact at "promoter.event_published",
);
