//! Images that were pushed and no longer pass.

use sluice_tests::{Registry, wait_for};

use super::super::scene::{CLEAN, Scan, Scene};
use super::Remote;

#[test]
fn a_pushed_image_that_no_longer_passes_is_withdrawn_and_what_others_have_there_stays() {
    let mut scene = Scene::start();
    let remote = Remote::start();
    remote.push(&scene, "partners", "hub/*", "recall: withdraw\n");
    scene.stack.service("promoter", &[]);
    let [index, amd64, arm64] = scene.publish_index("app", "1.0");
    scene.mirror("app");
    scene.mirrored("app", "1.0", &index);
    scene.verdict(&amd64, CLEAN);
    scene.verdict(&arm64, CLEAN);
    scene.tell_scanned("app", "1.0", &index);
    remote.has("team/app", "1.0", &index);
    scene.expect_published("image.promoted", 1);
    // Somebody else keeps one of its images under a tag that is not ours.
    remote.reader().put("team/app", "theirs", &amd64);
    scene.verdict(&arm64, Scan::Critical(1));
    scene.tell_scanned("app", "1.0", &index);
    let withdrawn = &scene.events("image.withdrawn", 1)[0]["data"];
    assert_eq!(withdrawn["registry"], remote.host);
    assert_eq!(withdrawn["repository"], "team/app");
    scene.expect_published("image.withdrawn", 1);
    for gone in ["1.0", &index.digest, &arm64.digest] {
        assert_eq!(remote.get("team/app", gone), None, "{gone}");
    }
    for stays in ["theirs", &amd64.digest] {
        assert_eq!(remote.get("team/app", stays).unwrap(), amd64.raw, "{stays}");
    }
    assert_eq!(scene.status("hub/app", "1.0"), 200, "the source stays");
    // Repaired, it comes back.
    scene.verdict(&arm64, CLEAN);
    scene.tell_scanned("app", "1.0", &index);
    remote.has("team/app", "1.0", &index);
    scene.expect_published("image.promoted", 2);
}

#[test]
fn what_a_remote_registry_does_not_let_go_is_flagged_with_that_once() {
    let mut scene = Scene::start();
    let registry = Registry::private(false);
    let host = registry.host.clone();
    let remote = Remote { registry, host };
    remote.push(&scene, "partners", "hub/*", "recall: withdraw\n");
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "content");
    scene.scan("app", "1.0", &image, CLEAN);
    scene.expect_published("image.promoted", 1);
    scene.scan("app", "1.0", &image, Scan::Critical(1));
    let flagged = &scene.events("image.flagged", 1)[0]["data"];
    assert_eq!(flagged["registry"], remote.host);
    let reason = flagged["reason"].as_str().unwrap();
    for told in ["scan.critical = 1", "cannot be withdrawn", "405"] {
        assert!(reason.contains(told), "{reason}");
    }
    // It is tried again when it is judged again, and told once.
    scene.scan("app", "1.0", &image, Scan::Critical(2));
    scene.stack.sluice(&["reconcile", "promoter"]);
    scene.expect_published("image.promotion_denied", 2);
    scene.expect_published("image.flagged", 1);
    scene.expect_published("image.withdrawn", 0);
    assert_eq!(remote.get("team/app", "1.0").unwrap(), image.raw);
    let letters = scene.stack.sluice(&["dead-letters", "list"]);
    assert!(!letters.contains("promoter"), "{letters}");
}

#[test]
fn a_flag_does_not_wait_for_a_remote_registry_that_is_away() {
    let mut scene = Scene::start();
    let mut remote = Remote::start();
    remote.push(&scene, "partners", "hub/*", "");
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "content");
    scene.scan("app", "1.0", &image, CLEAN);
    scene.expect_published("image.promoted", 1);
    remote.registry.stop();
    scene.scan("app", "1.0", &image, Scan::Critical(1));
    let flagged = wait_for("the flag", 20, || scene.stack.events("image.flagged").pop());
    assert_eq!(flagged["data"]["registry"], remote.host);
    scene.expect_published("image.flagged", 1);
}
