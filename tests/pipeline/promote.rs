//! What is clean reaches its target, byte for byte; what is not stays out, and it is told why.

mod accounts;
mod attached;
mod immutable;
mod policies;
mod push;
mod recall;
mod restore;
mod scene;
mod unauthorised;

use serde_json::Value;
use sluice_events::wire::state::{Decision, DecisionOutcome};

use scene::{CLEAN, Scan, Scene};

pub(crate) const CLEAN_TO_OFFICIAL: &str =
    "name: clean\nfrom: hub/*\nto: official/{name}\nwhen: scan.critical == 0\n";

#[test]
fn a_clean_index_is_promoted_byte_for_byte_with_every_child() {
    let mut scene = Scene::start();
    scene.policy(CLEAN_TO_OFFICIAL);
    scene.stack.service("promoter", &[]);
    let images = scene.publish_index("multi", "1.0");
    scene.mirror("multi");
    scene.mirrored("multi", "1.0", &images[0]);
    for child in &images[1..] {
        scene.verdict(child, CLEAN);
    }
    scene.tell_scanned("multi", "1.0", &images[0]);
    let promoted = scene.events("image.promoted", 1);
    assert_eq!(promoted[0]["data"]["digest"], images[0].digest);
    assert_eq!(
        promoted[0]["subject"],
        "sluice.v1.image.promoted.official.multi"
    );
    let reader = scene.reader();
    assert_eq!(reader.get("official/multi", "1.0").unwrap(), images[0].raw);
    for image in &images {
        let raw = reader.get("official/multi", &image.digest).unwrap();
        assert_eq!(raw, image.raw);
    }
    // The target knows where it came from, and the other way round.
    for asked in ["hub/multi:1.0", "official/multi:1.0"] {
        let explained = scene.stack.sluice(&["explain", asked]);
        for told in [
            "upstream.tag_moved",
            "tag.mirrored",
            "scan.succeeded",
            "image.promoted",
            "linux/arm64",
            "scan.critical == 0",
            "allowed",
            &images[0].digest,
        ] {
            assert!(explained.contains(told), "{told}: {explained}");
        }
    }
    let yaml = scene
        .stack
        .sluice(&["explain", "official/multi:1.0", "-o", "yaml"]);
    assert!(yaml.contains("policy: clean"), "{yaml}");
    // The same scan told again changes nothing.
    scene.tell_scanned("multi", "1.0", &images[0]);
    scene.expect_published("image.promoted", 1);
    scene.expect_published("image.promotion_denied", 0);
}

#[test]
fn what_is_not_known_to_be_clean_is_absent_by_tag_and_digest_and_explained() {
    let mut scene = Scene::start();
    scene.policy(CLEAN_TO_OFFICIAL);
    scene.stack.service("promoter", &[]);
    let vulnerable = scene.publish_index("vulnerable", "1.0");
    scene.mirror("vulnerable");
    let scratch = scene.arrived("scratch", "1.0", "no system");
    let unscanned = scene.arrived("unscanned", "1.0", "nobody looked");
    scene.mirrored("vulnerable", "1.0", &vulnerable[0]);
    scene.verdict(&vulnerable[1], CLEAN);
    scene.verdict(&vulnerable[2], Scan::Critical(3));
    scene.tell_scanned("vulnerable", "1.0", &vulnerable[0]);
    scene.scan("scratch", "1.0", &scratch, Scan::Unsupported);
    // The event alone says that all is well; it is the verdict that counts.
    scene.tell_scanned("unscanned", "1.0", &unscanned);
    scene.events("image.promotion_denied", 3);
    scene.expect_published("image.promotion_denied", 3);
    scene.expect_published("image.promoted", 0);
    let absent: Vec<(&str, &str)> = vulnerable
        .iter()
        .map(|image| ("official/vulnerable", image.digest.as_str()))
        .chain([
            ("official/vulnerable", "1.0"),
            ("official/scratch", "1.0"),
            ("official/scratch", &scratch.digest),
            ("official/unscanned", "1.0"),
            ("official/unscanned", &unscanned.digest),
        ])
        .collect();
    for (repository, reference) in absent {
        assert_eq!(
            scene.status(repository, reference),
            404,
            "{repository} {reference}"
        );
    }
    for (asked, told) in [
        (
            "hub/vulnerable:1.0",
            ["scan.critical == 0", "scan.critical = 3", "12 packages"],
        ),
        (
            "official/vulnerable:1.0",
            ["scan.critical == 0", "linux/arm64", "denied"],
        ),
        (
            "official/scratch:1.0",
            ["coverage", "does not understand", "unsupported"],
        ),
        (
            "hub/unscanned:1.0",
            ["coverage", "no scan result", "not scanned"],
        ),
    ] {
        let explained = scene.stack.sluice(&["explain", asked]);
        for told in told {
            assert!(explained.contains(told), "{told}: {explained}");
        }
    }
    let json = scene
        .stack
        .sluice(&["explain", "hub/vulnerable:1.0", "-o", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["decisions"][0]["outcome"], "denied");
    assert_eq!(json["verdicts"][1]["counts"]["critical"], 3);
}

#[test]
fn a_killed_promoter_leaves_no_image_behind_and_tells_each_once() {
    let mut scene = Scene::quick();
    scene.policy(CLEAN_TO_OFFICIAL);
    let images: Vec<_> = (0..10)
        .map(|number| {
            let tag = format!("1.{number}");
            (tag.clone(), scene.publish("app", &tag, &tag))
        })
        .collect();
    scene.mirror("app");
    for (tag, image) in &images {
        scene.mirrored("app", tag, image);
        scene.verdict(image, CLEAN);
        scene.tell_scanned("app", tag, image);
    }
    // It works through all of them at once, and dies when the first is told.
    let promoter = scene.stack.service("promoter", &[]);
    scene.events("image.promoted", 1);
    scene.stack.kill(promoter);
    scene.stack.service("promoter", &[]);
    scene.events("image.promoted", 10);
    scene.expect_published("image.promoted", 10);
    let reader = scene.reader();
    for (tag, image) in &images {
        assert_eq!(reader.get("official/app", tag).unwrap(), image.raw);
    }
}

#[test]
fn a_decision_that_was_left_behind_is_carried_out_as_of_its_time() {
    let mut scene = Scene::start();
    scene.policy(&format!("{CLEAN_TO_OFFICIAL}tag: '%n-%Y%m%d'\n"));
    let image = scene.arrived("app", "1.0", "content");
    let then = "2020-02-03T04:05:06Z".parse().unwrap();
    let then = Some(sluice_events::time_to_wire(then));
    scene.decision(&Decision {
        policy: "clean".to_owned(),
        repository: "hub/app".to_owned(),
        tag: "1.0".to_owned(),
        digest: image.digest.clone(),
        target: "official/app".to_owned(),
        target_tag: "1.0-20200203".to_owned(),
        outcome: DecisionOutcome::Allow.into(),
        decided_at: then,
        promoted_at: then,
        ..Default::default()
    });
    scene.verdict(&image, CLEAN);
    // Nobody triggers it: the promoter finds at its start what is not finished.
    scene.stack.service("promoter", &[]);
    let promoted = scene.events("image.promoted", 1);
    assert_eq!(promoted[0]["data"]["targetTag"], "1.0-20200203");
    assert_eq!(promoted[0]["data"]["decidedAt"], "2020-02-03T04:05:06Z");
    assert_eq!(scene.status("official/app", "1.0-20200203"), 200);
    scene.expect_published("image.promoted", 1);
}

#[test]
fn two_promoters_tell_each_image_once() {
    let mut scene = Scene::start();
    scene.policy(CLEAN_TO_OFFICIAL);
    scene.stack.service("promoter", &[]);
    scene.stack.service("promoter", &[]);
    let images: Vec<_> = (0..8)
        .map(|number| {
            let tag = format!("1.{number}");
            (tag.clone(), scene.publish("app", &tag, &tag))
        })
        .collect();
    // The same digest at a second tag is judged for both by each of their events.
    let twin = images[0].1.clone();
    scene.stack.publisher().put("library/app", "twin", &twin);
    scene.mirror("app");
    for (tag, image) in images.iter().chain([&("twin".to_owned(), twin)]) {
        scene.mirrored("app", tag, image);
    }
    for (tag, image) in &images {
        scene.scan("app", tag, image, CLEAN);
    }
    scene.tell_scanned("app", "twin", &images[0].1);
    scene.events("image.promoted", 9);
    scene.expect_published("image.promoted", 9);
}

#[test]
fn a_digest_that_its_tag_has_left_is_not_promoted() {
    let mut scene = Scene::start();
    scene.policy(CLEAN_TO_OFFICIAL);
    scene.stack.service("promoter", &[]);
    let first = scene.arrived("app", "1.0", "first");
    let second = scene.publish("app", "1.0", "second");
    scene.mirrored("app", "1.0", &second);
    scene.scan("app", "1.0", &first, CLEAN);
    scene.quiet();
    assert_eq!(scene.status("official/app", "1.0"), 404);
    assert_eq!(scene.status("official/app", &first.digest), 404);
    scene.scan("app", "1.0", &second, CLEAN);
    let promoted = scene.events("image.promoted", 1);
    assert_eq!(promoted[0]["data"]["digest"], second.digest);
    assert_eq!(scene.status("official/app", &first.digest), 404);
}

#[test]
fn rules_of_dtr_and_its_templates_are_followed() {
    let mut scene = Scene::start();
    scene.policy(
        "name: dtr\nfrom: hub/*\nto: official/{name}\ntag: '%n-%Y'\nrules:\n\
         - { field: vulnerability_critical, operator: lte, values: ['1'] }\n\
         - { field: tag, operator: sw, values: ['1.'] }\n",
    );
    scene.stack.service("promoter", &[]);
    let good = scene.publish("app", "1.0", "good");
    let many = scene.publish("app", "1.1", "two criticals");
    let other = scene.publish("app", "2.0", "another tag");
    scene.mirror("app");
    for (tag, image, critical) in [("1.0", &good, 1), ("1.1", &many, 2), ("2.0", &other, 0)] {
        scene.mirrored("app", tag, image);
        scene.scan("app", tag, image, Scan::Critical(critical));
    }
    let promoted = scene.events("image.promoted", 1);
    scene.events("image.promotion_denied", 2);
    let year = promoted[0]["data"]["decidedAt"].as_str().unwrap()[..4].to_owned();
    assert_eq!(promoted[0]["data"]["targetTag"], format!("1.0-{year}"));
    let reader = scene.reader();
    assert_eq!(
        reader.get("official/app", &format!("1.0-{year}")).unwrap(),
        good.raw
    );
    assert_eq!(scene.status("official/app", &many.digest), 404);
    assert_eq!(scene.status("official/app", &other.digest), 404);
    scene.expect_published("image.promoted", 1);
}

#[test]
fn an_image_soaks_and_is_promoted_when_its_time_has_come() {
    let mut scene = Scene::start();
    scene.policy(&format!("{CLEAN_TO_OFFICIAL}soak: 6s\n"));
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "new");
    scene.scan("app", "1.0", &image, CLEAN);
    let explained = sluice_tests::wait_for("the image to wait", 6, || {
        let explained = scene.stack.sluice(&["explain", "hub/app:1.0"]);
        explained.contains("waits").then_some(explained)
    });
    assert!(explained.contains("soak"), "{explained}");
    assert_eq!(scene.status("official/app", &image.digest), 404);
    scene.events("image.promoted", 1);
    scene.expect_published("image.promoted", 1);
    scene.expect_published("image.promotion_denied", 0);
    assert_eq!(scene.status("official/app", "1.0"), 200);
}

#[test]
fn a_policy_that_comes_later_or_changes_judges_what_is_there() {
    let mut scene = Scene::start();
    scene.stack.service("promoter", &[]);
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "content");
    scene.scan("app", "1.0", &image, Scan::Critical(1));
    scene.quiet();
    scene.policy(CLEAN_TO_OFFICIAL);
    scene.events("image.promotion_denied", 1);
    scene.policy(&CLEAN_TO_OFFICIAL.replace("== 0", "<= 1"));
    scene.events("image.promoted", 1);
    assert_eq!(scene.status("official/app", "1.0"), 200);
    scene.expect_published("image.promotion_denied", 1);
    scene.expect_published("image.promoted", 1);
}

#[test]
fn the_newest_decision_has_the_tag_that_two_sources_want() {
    let mut scene = Scene::start();
    scene.policy("name: one\nfrom: hub/*\nto: official/one\nwhen: scan.critical == 0\n");
    scene.stack.service("promoter", &[]);
    let first = scene.arrived("first", "1.0", "first");
    let second = scene.arrived("second", "1.0", "second");
    scene.scan("first", "1.0", &first, CLEAN);
    scene.events("image.promoted", 1);
    scene.scan("second", "1.0", &second, CLEAN);
    let promoted = scene.events("image.promoted", 2);
    assert_eq!(promoted[1]["data"]["previous"], first.digest);
    let reader = scene.reader();
    assert_eq!(reader.get("official/one", "1.0").unwrap(), second.raw);
    // The older decision is looked at again, and must not take the tag back.
    scene.tell_scanned("first", "1.0", &first);
    scene.expect_published("image.promoted", 2);
    assert_eq!(reader.get("official/one", "1.0").unwrap(), second.raw);
}

#[test]
fn what_is_missing_in_the_target_is_mended_and_not_told_again() {
    let mut scene = Scene::start();
    scene.policy(CLEAN_TO_OFFICIAL);
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "content");
    scene.scan("app", "1.0", &image, CLEAN);
    scene.expect_published("image.promoted", 1);
    scene
        .stack
        .as_service("promoter")
        .delete("official/app", &image.digest);
    assert_eq!(scene.status("official/app", "1.0"), 404);
    scene.tell_scanned("app", "1.0", &image);
    sluice_tests::wait_for("the image to be back", 30, || {
        (scene.status("official/app", "1.0") == 200).then_some(())
    });
    assert_eq!(scene.status("official/app", &image.digest), 200);
    scene.expect_published("image.promoted", 1);
}

#[test]
fn what_cannot_be_told_is_told_as_such_and_stays_out() {
    let mut scene = Scene::start();
    scene.policy(
        "name: teams\nfrom: hub/*\nto: official/{name}\nwhen: scan.critical == 0 && image.labels.team == 'web'\n",
    );
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "without labels");
    scene.scan("app", "1.0", &image, CLEAN);
    let denied = scene.events("image.promotion_denied", 1);
    let reasons = denied[0]["data"]["reasons"].as_array().unwrap();
    let open: Vec<_> = reasons
        .iter()
        .filter(|reason| reason["undetermined"] == true)
        .collect();
    assert_eq!(open.len(), 1, "{reasons:#?}");
    assert_eq!(open[0]["passed"], false);
    assert_eq!(scene.status("official/app", &image.digest), 404);
    let explained = scene.stack.sluice(&["explain", "hub/app:1.0"]);
    assert!(explained.contains("undetermined"), "{explained}");
    scene.expect_published("image.promotion_denied", 1);
}

#[test]
fn policies_follow_one_another() {
    let mut scene = Scene::start();
    scene.policy(
        "name: first\nfrom: hub/*\nto: staging/{name}\nwhen: scan.critical == 0\n---\nkind: PromotionPolicy\n\
         name: second\nfrom: staging/*\nto: official/{name}\nwhen: scan.critical == 0\n",
    );
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "content");
    scene.scan("app", "1.0", &image, CLEAN);
    scene.events("image.promoted", 2);
    for repository in ["staging/app", "official/app"] {
        let raw = scene.reader().get(repository, "1.0").unwrap();
        assert_eq!(raw, image.raw, "{repository}");
    }
    scene.expect_published("image.promoted", 2);
}
