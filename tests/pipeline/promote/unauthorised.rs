//! What somebody brings into a target past the policies is told, and by setting put right; everything else stays.

use chrono::{TimeDelta, Utc};
use sluice_bus::topology;
use sluice_events::commands::Reconcile;
use sluice_events::wire::state::{Claim, TagEntry};
use sluice_events::{time_from_wire, time_to_wire};
use sluice_state::key;
use sluice_state::reconcile::{self, reason};
use sluice_tests::{skopeo, wait_for};

use super::CLEAN_TO_OFFICIAL;
use super::scene::{CLEAN, Scene};

impl Scene {
    /// Says what becomes of unauthorised images, which also has the promoter look at once.
    pub(super) fn unauthorised(&self, setting: &str, visibility: &str) {
        self.stack.apply(&format!(
            "kind: Repository\nname: official/*\nvisibility: {visibility}\nunauthorised: {setting}\n"
        ));
    }
}

/// Starts a promoter, with `official/app:1.0` promoted.
fn promoted() -> (Scene, sluice_tests::Image) {
    let mut scene = Scene::start();
    scene.policy(CLEAN_TO_OFFICIAL);
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "content");
    scene.scan("app", "1.0", &image, CLEAN);
    scene.expect_published("image.promoted", 1);
    (scene, image)
}

#[test]
fn an_image_that_was_pushed_into_a_target_is_told_once_and_removed_if_that_is_wanted() {
    let (scene, image) = promoted();
    // Whoever holds the promoter's password comes past every rule of the registry.
    let evil = scene.publish("evil", "1.0", "backdoor");
    let password = std::fs::read_to_string(scene.stack.keys.password("promoter")).unwrap();
    let push = |to: &str| {
        let from = format!("docker://{}/library/evil:1.0", scene.stack.upstream.host);
        let to = format!("docker://{}/{to}", scene.stack.internal.host);
        let credentials = format!("--dest-creds=promoter:{}", password.trim());
        let options = [
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            "--preserve-digests",
            &credentials,
        ];
        let pushed = skopeo("copy", &options, &[&from, &to]);
        assert!(pushed.status.success(), "{pushed:?}");
    };
    push("official/app:evil");
    // No entry and no decision names this repository; only the registry knows it.
    push("official/unheard-of:1.0");
    // It shares the manifest of what was promoted.
    let thief = scene.stack.as_service("promoter");
    let index = thief.index("official/app", &[("amd64", &image)]);
    thief.put("official/app", "index", &index);
    scene.unauthorised("report", "private");
    let found = scene.events("image.unauthorised", 3);
    for fact in &found {
        assert_eq!(fact["data"]["reverted"], false, "{fact}");
        assert_eq!(fact["data"]["pushedBy"], fact_pusher(fact), "{fact}");
        let reason = fact["data"]["reason"].as_str().unwrap();
        assert!(reason.contains("no decision allows it"), "{reason}");
    }
    let subjects: Vec<_> = found.iter().map(|fact| &fact["subject"]).collect();
    assert!(
        subjects
            .iter()
            .any(|subject| *subject == "sluice.v1.image.unauthorised.official.unheard-of")
    );
    // A second look finds the same and another one, and says nothing new of the same.
    push("official/late:1.0");
    scene.unauthorised("report", "public");
    scene.events("image.unauthorised", 4);
    scene.expect_published("image.unauthorised", 4);
    for (repository, tag) in [("app", "evil"), ("app", "index"), ("unheard-of", "1.0")] {
        assert_eq!(scene.status(&format!("official/{repository}"), tag), 200);
    }
    scene.unauthorised("revert", "public");
    let told = scene.events("image.unauthorised", 8);
    assert!(
        told[4..]
            .iter()
            .all(|fact| fact["data"]["reverted"] == true)
    );
    for (repository, reference) in [
        ("official/app", "evil"),
        ("official/app", evil.digest.as_str()),
        ("official/app", "index"),
        ("official/app", index.digest.as_str()),
        ("official/unheard-of", "1.0"),
        ("official/unheard-of", evil.digest.as_str()),
    ] {
        assert_eq!(scene.status(repository, reference), 404, "{reference}");
    }
    let reader = scene.reader();
    assert_eq!(reader.get("official/app", "1.0").unwrap(), image.raw);
    assert_eq!(
        reader.get("official/app", &image.digest).unwrap(),
        image.raw
    );
    // Brought back, it is another happening.
    push("official/app:evil");
    scene.unauthorised("revert", "private");
    let told = scene.events("image.unauthorised", 9);
    assert_eq!(told[8]["data"]["reverted"], true);
    assert_eq!(scene.status("official/app", "evil"), 404);
    scene.expect_published("image.unauthorised", 9);
    scene.expect_published("image.promoted", 1);
}

/// The log has only the last push to a repository at hand.
fn fact_pusher(fact: &serde_json::Value) -> &'static str {
    match fact["data"]["tag"].as_str().unwrap() {
        "evil" => "",
        _ => "promoter",
    }
}

#[test]
fn a_tag_that_was_moved_in_a_target_is_put_back() {
    let (scene, image) = promoted();
    let other = scene.publish("app", "2.0", "another");
    scene.mirrored("app", "2.0", &other);
    scene.scan("app", "2.0", &other, CLEAN);
    scene.expect_published("image.promoted", 2);
    scene.unauthorised("revert", "private");
    let thief = scene.stack.as_service("promoter");
    let evil = thief.image("official/app", "amd64", "backdoor");
    thief.put("official/app", "1.0", &evil);
    // What is allowed as 2.0 is not allowed as 3.0.
    thief.put("official/app", "3.0", &other);
    scene.unauthorised("revert", "public");
    let mut told = scene.events("image.unauthorised", 2);
    told.sort_by_key(|fact| fact["data"]["tag"].to_string());
    assert_eq!(told[0]["data"]["digest"], evil.digest);
    assert_eq!(told[0]["data"]["expected"], image.digest);
    assert_eq!(told[1]["data"]["tag"], "3.0");
    let expected = &told[1]["data"]["expected"];
    assert!(expected.as_str().is_none_or(str::is_empty), "{expected}");
    scene.expect_published("image.unauthorised", 2);
    let reader = scene.reader();
    assert_eq!(reader.get("official/app", "1.0").unwrap(), image.raw);
    assert_eq!(reader.get("official/app", "2.0").unwrap(), other.raw);
    assert_eq!(scene.status("official/app", "3.0"), 404);
    assert_eq!(scene.status("official/app", &evil.digest), 404);
    scene.expect_published("image.promoted", 2);
    scene.expect_published("image.withdrawn", 0);
}

#[test]
fn what_many_searches_find_at_the_same_time_is_put_right_and_told_once() {
    let (scene, image) = promoted();
    scene.unauthorised("revert", "private");
    scene.quiet();
    let thief = scene.stack.as_service("promoter");
    let bus = scene.stack.bus();
    for round in 1..=2 {
        let evil = thief.image("official/app", "amd64", &format!("backdoor {round}"));
        thief.put("official/app", "1.0", &evil);
        for _ in 0..8 {
            bus.command(reconcile::command(&topology::PROMOTER, reason::ASKED));
        }
        scene.expect_published("image.unauthorised", round);
        assert_eq!(
            scene.reader().get("official/app", "1.0").unwrap(),
            image.raw
        );
    }
}

#[test]
fn a_comparison_goes_on_after_the_place_that_its_message_names() {
    let (scene, _) = promoted();
    let before = Utc::now();
    scene.unauthorised("report", "private");
    // The comparison that follows the change begins a little later, and would find both tags.
    wait_for("the comparison after the change", 60, || {
        let key = key::reconciliation("promoter");
        let last = scene.bus.run(scene.bus.state.reconciliations.get(&key));
        let last = last.unwrap()?.value;
        let ended_at = time_from_wire(last.ended_at.as_ref());
        (last.reason == reason::CHANGED && ended_at > Some(before)).then_some(())
    });
    scene.quiet();
    let thief = scene.stack.as_service("promoter");
    for tag in ["before", "later"] {
        let evil = thief.image("official/app", "amd64", tag);
        thief.put("official/app", tag, &evil);
    }
    let bus = scene.stack.bus();
    // As it comes again to a promoter that died in the middle of a comparison.
    bus.command(Reconcile {
        run: "a run".to_owned(),
        scan: 2,
        after_name: "official/app:c".to_owned(),
        ..reconcile::command(&topology::PROMOTER, reason::ASKED)
    });
    scene.expect_published("image.unauthorised", 1);
    let found = scene.events("image.unauthorised", 1);
    assert_eq!(found[0]["data"]["tag"], "later", "{found:?}");
    // The next one begins at the beginning, and tells nothing twice.
    bus.command(reconcile::command(&topology::PROMOTER, reason::ASKED));
    scene.expect_published("image.unauthorised", 2);
}

#[test]
fn what_a_promotion_copied_and_nothing_permits_is_removed_though_no_tag_names_it() {
    let (scene, image) = promoted();
    let promoter = scene.stack.as_service("promoter");
    let (repository, source) = ("official/app".parse().unwrap(), "hub/app".parse().unwrap());
    // As a promotion leaves it that died after its copy, and whose decision leads elsewhere by now.
    let left = promoter.image("official/app", "amd64", "left behind");
    promoter.put("official/app", &left.digest, &left);
    let digest = left.digest.parse().unwrap();
    let manifests = [digest, image.digest.parse().unwrap()];
    let state = &scene.bus.state;
    let record =
        state.record_target_image(&repository, &source, &manifests, "gone.hub/app.2=2E0.x");
    scene.bus.run(record).unwrap();
    let key = key::target_image(&repository, &manifests[0]);
    let entry = || scene.bus.run(state.target_images.get(&key)).unwrap();
    let compare = || {
        let command = reconcile::command(&topology::PROMOTER, reason::ASKED);
        scene.stack.bus().command(command);
    };
    compare();
    wait_for("the image that nothing permits to go", 60, || {
        (scene.status("official/app", &left.digest) == 404).then_some(())
    });
    scene.quiet();
    // A manifest that another image needs stays, and the record, because a copy may still be under way.
    assert_eq!(scene.status("official/app", "1.0"), 200);
    assert_eq!(scene.status("official/app", &image.digest), 200);
    assert!(entry().is_some());
    // After a day none is.
    scene
        .bus
        .run(
            state
                .target_images
                .delete(&key::target_image(&repository, &manifests[1])),
        )
        .unwrap();
    let mut old = entry().unwrap().value;
    old.manifests.truncate(1);
    old.copied_at = Some(time_to_wire(Utc::now() - TimeDelta::hours(25)));
    scene.bus.run(state.target_images.put(&key, &old)).unwrap();
    compare();
    wait_for("the record to go", 60, || entry().is_none().then_some(()));
    scene.expect_published("image.promoted", 1);
    scene.expect_published("image.unauthorised", 0);
}

#[test]
fn the_entry_of_a_tag_that_went_with_its_manifest_is_corrected() {
    let (scene, _) = promoted();
    let promoter = scene.stack.as_service("promoter");
    let image = promoter.image("official/app", "amd64", "settled too late");
    let (repository, tag) = ("official/app".parse().unwrap(), "late".parse().unwrap());
    let entries = &scene.bus.state.tags;
    let key = key::tag(&repository, &tag);
    // As a promotion leaves it whose manifest another one deletes by digest: the registry drops the tag with it.
    let entry = TagEntry {
        repository: "official/app".to_owned(),
        tag: "late".to_owned(),
        digest: image.digest.clone(),
        ..Default::default()
    };
    scene.bus.run(entries.put(&key, &entry)).unwrap();
    let command = reconcile::command(&topology::PROMOTER, reason::ASKED);
    scene.stack.bus().command(command);
    wait_for("the entry to name nothing", 60, || {
        let entry = scene.bus.run(entries.get(&key)).unwrap().unwrap().value;
        (entry.digest.is_empty() && entry.previous == image.digest).then_some(())
    });
    assert_eq!(scene.status("official/app", "1.0"), 200);
}

#[test]
fn what_a_promotion_is_about_to_settle_is_no_strangers() {
    let (scene, _) = promoted();
    let promoter = scene.stack.as_service("promoter");
    let image = promoter.image("official/app", "amd64", "in flight");
    promoter.put("official/app", "in-flight", &image);
    let (repository, tag) = (
        "official/app".parse().unwrap(),
        "in-flight".parse().unwrap(),
    );
    let claimed = TagEntry {
        repository: "official/app".to_owned(),
        tag: "in-flight".to_owned(),
        claim: Some(Claim {
            digest: image.digest.clone(),
            holder: "promoter/another".to_owned(),
            until: Some(time_to_wire(Utc::now() + TimeDelta::hours(1))),
            ..Default::default()
        }),
        ..Default::default()
    };
    let entries = &scene.bus.state.tags;
    scene
        .bus
        .run(entries.put(&key::tag(&repository, &tag), &claimed))
        .unwrap();
    let stranger = promoter.image("official/app", "amd64", "a stranger's");
    promoter.put("official/app", "strange", &stranger);
    scene.unauthorised("revert", "private");
    let told = scene.events("image.unauthorised", 1);
    assert_eq!(told[0]["data"]["tag"], "strange");
    scene.expect_published("image.unauthorised", 1);
    assert_eq!(scene.status("official/app", "in-flight"), 200);
    assert_eq!(scene.status("official/app", &image.digest), 200);
}
