//! A backup of a running stack, and what a restored state does where the registry is newer than it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sluice_bus::topology::PROMOTER;
use sluice_events::commands::{JudgeImage, PruneRepositories, Reconcile};
use sluice_state::reconcile::{self, reason};
use sluice_tests::{Image, wait_for};

use super::CLEAN_TO_OFFICIAL;
use super::scene::{CLEAN, Scan, Scene};

impl Scene {
    /// Makes a backup beside everything else.
    fn backup(&self) -> PathBuf {
        let folder = self.stack.folder().join("backup");
        self.stack.sluice(&["backup", folder.to_str().unwrap()]);
        folder
    }

    /// Loses all state and restores a backup; only the gateway runs then.
    fn lose_and_restore(&mut self, backup: &Path) {
        self.stack.kill_all();
        self.stack.nats.start_empty();
        let told = self.stack.sluice(&["restore", backup.to_str().unwrap()]);
        assert!(told.contains("paused"), "{told}");
        self.stack.restart_gateway();
    }

    fn is_paused(&self) -> bool {
        !self.stack.status()["control"]["paused"].is_null()
    }

    /// Returns how many messages a stage left for later.
    fn later(&self, stage: &str) -> u64 {
        let status = self.stack.status();
        let stages = status["stages"].as_array().unwrap().iter();
        stages
            .filter(|one| one["stage"] == stage)
            .map(|one| one["later"].as_u64().unwrap())
            .sum()
    }

    fn remembered(&self) -> usize {
        let found = &self.bus.state.unauthorised;
        self.bus.run(found.list("unauthorised.>")).unwrap().len()
    }

    fn judge(&self, name: &str, tag: &str, image: &Image) {
        self.bus.command(JudgeImage {
            repository: format!("hub/{name}").parse().unwrap(),
            tag: tag.parse().unwrap(),
            digest: image.digest.parse().unwrap(),
        });
    }
}

#[test]
fn a_backup_of_a_running_stack_leads_to_the_same_end() {
    let mut scene = Scene::start();
    scene.policy(CLEAN_TO_OFFICIAL);
    scene.unauthorised("revert", "private");
    scene.stack.service("promoter", &[]);
    scene.stack.service("pruner", &[]);
    let tags: Vec<String> = (0..12).map(|number| format!("1.{number}")).collect();
    let images: Vec<Image> = tags
        .iter()
        .map(|tag| scene.publish("app", tag, tag))
        .collect();
    scene.mirror("app");
    for (tag, image) in tags.iter().zip(&images) {
        scene.mirrored("app", tag, image);
    }
    for (number, (tag, image)) in tags.iter().zip(&images).enumerate() {
        scene.verdict(image, CLEAN);
        scene.tell_scanned("app", tag, image);
        if number == 3 {
            scene.events("image.promoted", 4);
        }
    }
    // Eight promotions are under way.
    let backup = scene.backup();
    scene.lose_and_restore(&backup);
    for service in ["poller", "mirror-worker", "promoter", "pruner"] {
        scene.stack.service(service, &[]);
    }
    wait_for("the targets to be compared", 60, || {
        (!scene.is_paused()).then_some(())
    });
    scene.events("image.promoted", 12);
    scene.expect_published("image.promoted", 12);
    scene.expect_published("image.withdrawn", 0);
    let reader = scene.reader();
    for (tag, image) in tags.iter().zip(&images) {
        for repository in ["hub/app", "official/app"] {
            assert_eq!(reader.get(repository, tag).unwrap(), image.raw, "{tag}");
        }
    }
    let reverted = scene.stack.events("image.unauthorised");
    assert!(
        reverted
            .iter()
            .all(|fact| fact["data"]["reverted"] == false)
    );
    let status = scene.stack.status();
    let stages: Vec<_> = status["control"]["restored"]["reconciled"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["stage"].clone())
        .collect();
    assert_eq!(stages, ["promoter"]);
}

#[test]
fn a_backup_that_is_older_than_the_registry_moves_nothing_back_and_removes_nothing() {
    let mut scene = Scene::start();
    scene.policy(&format!("{CLEAN_TO_OFFICIAL}recall: withdraw\n"));
    scene.unauthorised("revert", "private");
    let promoter = scene.stack.service("promoter", &[]);
    let old = scene.arrived("app", "1.0", "old");
    let gone = scene.arrived("gone", "1.0", "found to be bad");
    for (name, image) in [("app", &old), ("gone", &gone)] {
        scene.scan(name, "1.0", image, CLEAN);
    }
    scene.expect_published("image.promoted", 2);
    // One promotion is due when the backup is made, and its source moves on before it is carried out.
    scene.stack.kill(promoter);
    let due = scene.publish("app", "moved", "due");
    scene.mirrored("app", "moved", &due);
    scene.scan("app", "moved", &due, CLEAN);
    let backup = scene.backup();
    let moved_on = scene.publish("app", "moved", "moved on");
    scene.mirrored("app", "moved", &moved_on);
    scene.stack.service("promoter", &[]);
    // Three promotions, one move and a withdrawal that the backup does not know.
    let tags = ["new-1", "new-2", "new-3", "1.0"];
    let images: Vec<Image> = tags
        .iter()
        .map(|tag| {
            let image = scene.publish("app", tag, &format!("newer {tag}"));
            scene.mirrored("app", tag, &image);
            scene.scan("app", tag, &image, CLEAN);
            image
        })
        .collect();
    let newer = &images[3];
    scene.expect_published("image.promoted", 6);
    scene.scan("gone", "1.0", &gone, Scan::Critical(1));
    scene.expect_published("image.withdrawn", 1);
    scene.lose_and_restore(&backup);
    let as_left = |scene: &Scene| {
        let reader = scene.reader();
        for (tag, image) in tags.iter().zip(&images) {
            for repository in ["hub/app", "official/app"] {
                assert_eq!(reader.get(repository, tag).unwrap(), image.raw, "{tag}");
            }
        }
        assert_eq!(reader.get("hub/app", "moved").unwrap(), moved_on.raw);
        assert!(reader.get("official/app", "moved").is_none());
        assert!(reader.get("official/app", &due.digest).is_none());
        assert!(reader.get("official/gone", "1.0").is_none());
    };
    // Old news of both stages: the verdicts in the restored state still allow the old digest.
    scene.tell_scanned("app", "1.0", &old);
    scene.judge("gone", "1.0", &gone);
    let moves = scene
        .bus
        .run(scene.bus.bus.facts("sluice.v1.upstream.tag_moved.hub.app"))
        .unwrap();
    let moved = moves[0].event.clone().unwrap();
    scene.bus.publish(moved, "again");
    scene.stack.service("promoter", &[]);
    scene.stack.service("mirror-worker", &[]);
    let found = scene.events("image.unauthorised", 4);
    for fact in &found {
        assert_eq!(fact["data"]["reverted"], false);
        let reason = fact["data"]["reason"].as_str().unwrap();
        assert!(reason.contains("newer than the backup"), "{reason}");
    }
    wait_for("the pause to end", 60, || {
        (!scene.is_paused()).then_some(())
    });
    let open = scene.events("image.promotion_denied", 1);
    assert_eq!(open[0]["data"]["repository"], "hub/gone");
    assert_eq!(open[0]["data"]["reasons"][0]["rule"], "restore");
    wait_for("the old move to wait for a poll", 60, || {
        (scene.later("mirror-worker") > 0).then_some(())
    });
    // Another look, with the pause over and the setting on, still takes none of them.
    scene.unauthorised("revert", "public");
    scene.judge("app", "1.0", &old);
    scene.judge("gone", "1.0", &gone);
    wait_for("the promoter to be done", 60, || {
        let stages = scene.stack.status()["stages"].clone();
        let stages = stages.as_array().unwrap().clone();
        let idle = |one: &Value| one["waiting"] == 0 && one["inFlight"] == 0;
        stages
            .iter()
            .filter(|one| one["stage"] == "promoter")
            .all(idle)
            .then_some(())
    });
    as_left(&scene);
    assert_eq!(scene.remembered(), 4);
    // The world is asked again, and everything finds its place without having moved.
    scene.stack.service("poller", &[]);
    for (tag, image) in tags.iter().zip(&images) {
        scene.mirrored("app", tag, image);
        scene.scan("app", tag, image, CLEAN);
    }
    scene.events("image.promoted", 6);
    as_left(&scene);
    scene.unauthorised("revert", "private");
    wait_for("all of them to be adopted", 60, || {
        (scene.remembered() == 0).then_some(())
    });
    as_left(&scene);
    let adopted = scene.stack.events("image.promoted");
    let moved = adopted
        .iter()
        .find(|fact| fact["data"]["digest"] == newer.digest);
    assert_eq!(moved.unwrap()["data"]["previous"], old.digest);
    scene.mirrored("app", "moved", &moved_on);
    scene.scan("app", "moved", &moved_on, CLEAN);
    scene.expect_published("image.promoted", 7);
    // What had left its target comes back only when a scanner has looked at it since.
    scene.scan("gone", "1.0", &gone, CLEAN);
    scene.expect_published("image.promoted", 8);
    assert_eq!(scene.status("official/gone", "1.0"), 200);
    scene.expect_published("image.withdrawn", 0);
    scene.expect_published("image.unauthorised", 4);
}

#[test]
fn nothing_is_promoted_or_deleted_after_a_restore_before_the_targets_were_compared() {
    let mut scene = Scene::start();
    scene.policy(CLEAN_TO_OFFICIAL);
    scene
        .stack
        .apply("kind: Repository\nname: hub/*\nkeep: 1\n");
    let first = scene.arrived("app", "1.0", "first");
    let second = scene.publish("app", "2.0", "second");
    scene.mirrored("app", "2.0", &second);
    scene.scan("app", "2.0", &second, CLEAN);
    // The tag limit and the promotion are due, and nobody has taken care of either.
    let backup = scene.backup();
    scene.lose_and_restore(&backup);
    scene.bus.command(PruneRepositories {
        policy: None,
        repository: Some("hub/app".parse().unwrap()),
    });
    scene.stack.service("pruner", &[]);
    wait_for("the pruner to wait", 60, || {
        (scene.later("pruner") > 0).then_some(())
    });
    assert_eq!(scene.status("hub/app", &first.digest), 200);
    let reader = scene.reader();
    assert_eq!(reader.get("hub/app", "1.0").unwrap(), first.raw);
    let status = scene.stack.sluice(&["status"]);
    assert!(status.contains("restored from a backup of"), "{status}");
    let refused = scene.stack.try_sluice(&["resume"]);
    assert!(
        !refused.status.success(),
        "a person's resume ends no restore"
    );
    scene.stack.service("promoter", &[]);
    scene.events("image.promoted", 1);
    wait_for("the tag limit to be kept", 90, || {
        (scene.status("hub/app", "1.0") == 404).then_some(())
    });
    assert_eq!(reader.get("official/app", "2.0").unwrap(), second.raw);
    scene.stack.service("poller", &[]);
    scene.stack.service("mirror-worker", &[]);
    scene.expect_published("prune.completed", 1);
}

#[test]
fn a_pause_by_hand_holds_up_promotion_and_deletion_until_somebody_resumes() {
    let mut scene = Scene::start();
    scene.policy(&format!("{CLEAN_TO_OFFICIAL}recall: withdraw\n"));
    scene.stack.service("promoter", &[]);
    let bad = scene.arrived("bad", "1.0", "bad");
    scene.scan("bad", "1.0", &bad, CLEAN);
    scene.expect_published("image.promoted", 1);
    scene.stack.sluice(&["pause", "incident 7"]);
    assert!(scene.stack.sluice(&["status"]).contains("incident 7"));
    let image = scene.arrived("app", "1.0", "content");
    scene.scan("app", "1.0", &image, CLEAN);
    scene.scan("bad", "1.0", &bad, Scan::Critical(1));
    wait_for("both to wait", 60, || {
        (scene.later("promoter") >= 2).then_some(())
    });
    // They are judged, and nothing follows.
    assert_eq!(scene.status("official/app", "1.0"), 404);
    assert_eq!(scene.status("official/app", &image.digest), 404);
    assert_eq!(scene.status("official/bad", "1.0"), 200);
    let explained = scene.stack.sluice(&["explain", "hub/app:1.0"]);
    assert!(explained.contains("allowed"), "{explained}");
    scene.stack.sluice(&["resume"]);
    scene.events("image.promoted", 2);
    scene.events("image.withdrawn", 1);
    assert_eq!(scene.status("official/app", "1.0"), 200);
    assert_eq!(scene.status("official/bad", "1.0"), 404);
}

#[test]
fn a_damaged_backup_is_refused_and_nothing_is_touched() {
    let mut scene = Scene::start();
    scene.policy(CLEAN_TO_OFFICIAL);
    scene.arrived("app", "1.0", "content");
    let backup = scene.backup();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&backup), 0o700);
    assert_eq!(mode(&backup.join("EVENTS.snapshot")), 0o600);
    let refused = |scene: &Scene, arguments: &[&str], told: &str| {
        let output = scene.stack.try_sluice(arguments);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(complaint.contains(told), "{complaint}");
    };
    let folder = backup.to_str().unwrap().to_owned();
    let restore = ["restore", folder.as_str(), "--replace"];
    refused(&scene, &["backup", &folder], "exists");
    refused(&scene, &restore, "services are running");
    scene.stack.kill_all();
    wait_for("nobody to wait for work any more", 60, || {
        let working = scene.bus.run(scene.bus.bus.running_stages()).unwrap();
        working.is_empty().then_some(())
    });
    refused(&scene, &restore[..2], "`--replace` would delete");
    let before = scene.stack.sluice(&["events"]);
    for (file, told) in [
        ("EVENTS.snapshot", "does not match its checksum"),
        ("KV_tags.snapshot", "does not match its checksum"),
        ("manifest.json", "does not match its checksum"),
    ] {
        let path = backup.join(file);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        fs::write(&path, flipped).unwrap();
        refused(&scene, &restore, told);
        fs::write(&path, &whole[..middle]).unwrap();
        refused(&scene, &restore, "corrupt");
        fs::remove_file(&path).unwrap();
        refused(&scene, &restore, "failed to read");
        fs::write(&path, whole).unwrap();
        assert_eq!(scene.stack.sluice(&["events"]), before, "{file}");
    }
    let told = scene.stack.sluice(&restore);
    assert!(told.contains("deleting AUDIT"), "{told}");
    assert_eq!(scene.stack.sluice(&["events"]), before);
    // Nobody runs who could end the pause, nor work off what is left.
    scene.stack.may_leave_messages();
}

#[test]
fn a_comparison_that_was_under_way_at_the_backup_does_not_end_the_pause() {
    let mut scene = Scene::start();
    scene.policy(CLEAN_TO_OFFICIAL);
    let backup = scene.backup();
    scene.lose_and_restore(&backup);
    scene.stack.internal.stop();
    scene.stack.service("promoter", &[]);
    // The last page of a search as the backup would bring it back: everything before it was compared before that.
    scene.bus.command(Reconcile {
        run: "before".to_owned(),
        scan: 3,
        ..reconcile::command(&PROMOTER, reason::START)
    });
    let went_on = || {
        let work = scene.bus.run(scene.bus.bus.stage_status()).unwrap();
        let promoter = work.iter().filter(|one| one.stage == "promoter");
        (promoter.map(|one| one.later).sum::<u64>() >= 2).then_some(())
    };
    wait_for("both searches to wait for the registry", 60, went_on);
    assert!(scene.is_paused());
    scene.stack.internal.restart();
    wait_for("the targets to be compared", 60, || {
        (!scene.is_paused()).then_some(())
    });
}
