//! Promoted images that no longer pass: flagged or withdrawn, as the policy says, and never for want of knowledge.

use chrono::Utc;
use sluice_events::time_to_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome};
use sluice_tests::wait_for;

use super::scene::{CLEAN, Scan, Scene};

#[test]
fn a_promoted_image_that_no_longer_passes_is_flagged_once_or_withdrawn() {
    let mut scene = Scene::start();
    scene.policy(
        "name: flags\nfrom: hub/*\nto: official/{name}\nwhen: scan.critical == 0\n---\nkind: PromotionPolicy\n\
         name: withdraws\nfrom: hub/*\nto: strict/{name}\nwhen: scan.critical == 0\nrecall: withdraw\n---\n\
         kind: PromotionPolicy\nname: ignores\nfrom: hub/*\nto: loose/{name}\nwhen: scan.critical == 0\n\
         recall: ignore\n",
    );
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "content");
    scene.scan("app", "1.0", &image, CLEAN);
    scene.expect_published("image.promoted", 3);
    // A scan that fails says nothing of the image.
    scene.scan("app", "1.0", &image, Scan::Failed);
    scene.expect_published("image.promotion_denied", 3);
    scene.expect_published("image.flagged", 0);
    scene.expect_published("image.withdrawn", 0);
    for repository in ["official/app", "strict/app", "loose/app"] {
        assert_eq!(scene.status(repository, "1.0"), 200, "{repository}");
    }
    scene.scan("app", "1.0", &image, Scan::Critical(1));
    let flagged = scene.events("image.flagged", 1);
    assert_eq!(flagged[0]["data"]["policy"], "flags");
    let reason = flagged[0]["data"]["reason"].as_str().unwrap();
    assert!(reason.contains("scan.critical == 0"), "{reason}");
    let withdrawn = scene.events("image.withdrawn", 1);
    assert_eq!(withdrawn[0]["data"]["repository"], "strict/app");
    scene.quiet();
    for (repository, expected) in [
        ("official/app", 200),
        ("strict/app", 404),
        ("loose/app", 200),
    ] {
        assert_eq!(scene.status(repository, "1.0"), expected, "{repository}");
        assert_eq!(
            scene.status(repository, &image.digest),
            expected,
            "{repository}"
        );
    }
    assert_eq!(scene.status("hub/app", "1.0"), 200, "the source stays");
    // It gets worse; that it does not pass is known.
    scene.scan("app", "1.0", &image, Scan::Critical(2));
    scene.expect_published("image.flagged", 1);
    scene.expect_published("image.withdrawn", 1);
    let explained = scene.stack.sluice(&["explain", "strict/app:1.0"]);
    for told in ["image.withdrawn", "flagged", "scan.critical = 2"] {
        assert!(explained.contains(told), "{told}: {explained}");
    }
    // Repaired, it comes back.
    scene.scan("app", "1.0", &image, CLEAN);
    scene.expect_published("image.promoted", 6);
    assert_eq!(scene.status("strict/app", "1.0"), 200);
}

#[test]
fn a_withdrawal_leaves_what_another_image_or_policy_needs() {
    let mut scene = Scene::start();
    scene.policy(
        "name: low\nfrom: hub/*\nto: official/{name}\nwhen: scan.critical == 0\nrecall: withdraw\nshares_target: true\n---\n\
         kind: PromotionPolicy\nname: high\nfrom: hub/*\nto: official/{name}\ntag: 'high-%n'\n\
         when: scan.critical < 3\nrecall: withdraw\nshares_target: true\n",
    );
    scene.stack.service("promoter", &[]);
    let publisher = scene.stack.publisher();
    let [index, amd64, arm64] = scene.publish_index("app", "1.0");
    let single = publisher.index("library/app", &[("amd64", &amd64)]);
    publisher.put("library/app", "single", &single);
    scene.mirror("app");
    scene.mirrored("app", "1.0", &index);
    scene.mirrored("app", "single", &single);
    for child in [&amd64, &arm64] {
        scene.verdict(child, CLEAN);
    }
    scene.tell_scanned("app", "1.0", &index);
    scene.tell_scanned("app", "single", &single);
    scene.expect_published("image.promoted", 4);
    // One policy still allows it under its own tag, so it stays there, and goes from the other one.
    scene.verdict(&arm64, Scan::Critical(1));
    scene.tell_scanned("app", "1.0", &index);
    scene.expect_published("image.promotion_denied", 1);
    scene.expect_published("image.withdrawn", 1);
    assert_eq!(scene.status("official/app", "1.0"), 404);
    for stays in ["high-1.0", &index.digest, &arm64.digest] {
        assert_eq!(scene.status("official/app", stays), 200, "{stays}");
    }
    // No policy allows it any more: both tags are gone, and the child that is in no other image.
    scene.verdict(&arm64, Scan::Critical(3));
    scene.tell_scanned("app", "1.0", &index);
    scene.expect_published("image.withdrawn", 2);
    for gone in ["1.0", "high-1.0", &index.digest, &arm64.digest] {
        assert_eq!(scene.status("official/app", gone), 404, "{gone}");
    }
    for stays in ["single", "high-single", &single.digest, &amd64.digest] {
        assert_eq!(scene.status("official/app", stays), 200, "{stays}");
    }
    for image in [&index, &amd64, &arm64] {
        assert_eq!(
            scene.status("hub/app", &image.digest),
            200,
            "the source stays"
        );
    }
}

#[test]
fn a_promoted_digest_is_withdrawn_although_its_tag_has_moved_on() {
    let mut scene = Scene::start();
    scene.policy(&format!("{}recall: withdraw\n", super::CLEAN_TO_OFFICIAL));
    scene.stack.service("promoter", &[]);
    let first = scene.arrived("app", "1.0", "first");
    scene.scan("app", "1.0", &first, CLEAN);
    scene.expect_published("image.promoted", 1);
    let second = scene.publish("app", "1.0", "second");
    scene.mirrored("app", "1.0", &second);
    scene.scan("app", "1.0", &second, Scan::Critical(1));
    scene.expect_published("image.promotion_denied", 1);
    assert_eq!(
        scene.reader().get("official/app", "1.0").unwrap(),
        first.raw,
        "the last good one stays"
    );
    scene.scan("app", "1.0", &first, Scan::Critical(1));
    wait_for("the image to go", 30, || {
        (scene.status("official/app", "1.0") == 404).then_some(())
    });
    scene.expect_published("image.withdrawn", 1);
    assert_eq!(scene.status("official/app", &first.digest), 404);
}

#[test]
fn an_image_that_was_refused_before_it_was_copied_is_not_flagged() {
    let mut scene = Scene::start();
    scene.policy("name: clean\nfrom: hub/*\nto: official/{name}\nwhen: scan.critical == 0\n");
    let image = scene.arrived("app", "1.0", "content");
    // As a promoter leaves it that dies between its decision and the copy.
    let then = Some(time_to_wire(Utc::now()));
    scene.decision(&Decision {
        policy: "clean".to_owned(),
        repository: "hub/app".to_owned(),
        tag: "1.0".to_owned(),
        digest: image.digest.clone(),
        target: "official/app".to_owned(),
        target_tag: "1.0".to_owned(),
        outcome: DecisionOutcome::Allow.into(),
        decided_at: then,
        promoted_at: then,
        ..Default::default()
    });
    scene.scan("app", "1.0", &image, Scan::Critical(1));
    scene.stack.service("promoter", &[]);
    scene.expect_published("image.promotion_denied", 1);
    scene.expect_published("image.flagged", 0);
    scene.expect_published("image.promoted", 0);
    assert_eq!(scene.status("official/app", &image.digest), 404);
}
