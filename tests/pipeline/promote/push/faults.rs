//! A remote registry that refuses, is away, has enough for now, or is written by others.

use std::fs;

use sluice_events::wire::state::DecisionOutcome;
use sluice_tests::dishonest_registry::{Liar, Lie};
use sluice_tests::{Faults, PARTNER, Proxy, wait_for};

use super::super::scene::{CLEAN, Scan, Scene};
use super::Remote;

#[test]
fn a_wrong_password_ends_in_a_dead_letter_that_says_so_and_is_mended_by_another_try() {
    let mut scene = Scene::start();
    let remote = Remote::start();
    scene.stack.apply(&remote.resource(&scene, "wrong-secret"));
    scene.policy(&remote.policy("partners", "hub/*", ""));
    scene.policy(super::super::CLEAN_TO_OFFICIAL);
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "content");
    scene.scan("app", "1.0", &image, CLEAN);
    let letters = wait_for("the dead letter", 60, || {
        Some(scene.stack.sluice(&["dead-letters", "list"])).filter(|l| l.contains("promoter"))
    });
    assert!(letters.contains("401"), "{letters}");
    assert!(!letters.contains("wrong-secret"), "{letters}");
    // What another policy decides goes its way.
    scene.events("image.promoted", 1);
    assert_eq!(scene.status("official/app", "1.0"), 200);
    fs::write(scene.stack.folder().join("secrets/login"), PARTNER.1).unwrap();
    scene.stack.sluice(&["dead-letters", "retry", "--all"]);
    remote.has("team/app", "1.0", &image);
    scene.expect_published("image.promoted", 2);
}

#[test]
fn a_remote_registry_that_is_away_is_waited_for_and_holds_up_no_refusal() {
    let mut scene = Scene::start();
    let remote = Remote::start();
    let proxy = Proxy::between(&remote.host);
    let remote = remote.behind(&proxy.host);
    remote.push(&scene, "partners", "hub/*", "");
    scene.policy(super::super::CLEAN_TO_OFFICIAL);
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "content");
    let bad = scene.arrived("bad", "1.0", "bad");
    proxy.set(Faults {
        refuse: true,
        ..Faults::default()
    });
    scene.scan("app", "1.0", &image, CLEAN);
    scene.scan("bad", "1.0", &bad, Scan::Critical(1));
    // Both refusals are told, and what goes elsewhere goes.
    scene.events("image.promotion_denied", 2);
    scene.events("image.promoted", 1);
    assert_eq!(remote.get("team/app", "1.0"), None);
    let letters = scene.stack.sluice(&["dead-letters", "list"]);
    assert!(!letters.contains("promoter"), "{letters}");
    proxy.heal();
    remote.has("team/app", "1.0", &image);
    scene.expect_published("image.promoted", 2);
    let letters = scene.stack.sluice(&["dead-letters", "list"]);
    assert!(!letters.contains("promoter"), "{letters}");
}

#[test]
fn a_remote_registry_that_has_had_enough_is_left_alone_until_it_says() {
    let mut scene = Scene::start();
    let remote = Remote::start();
    let liar = Liar::before(&remote.host);
    let remote = remote.behind(&liar.host);
    remote.push(&scene, "partners", "hub/*", "");
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "content");
    liar.lie_times("/manifests/", Lie::Status(429, Some(3)), 1);
    scene.scan("app", "1.0", &image, CLEAN);
    remote.has("team/app", "1.0", &image);
    scene.expect_published("image.promoted", 1);
    let letters = scene.stack.sluice(&["dead-letters", "list"]);
    assert!(!letters.contains("promoter"), "{letters}");
}

#[test]
fn what_somebody_else_wrote_over_a_pushed_tag_is_told_once_and_left_until_another_image_is_promoted()
 {
    let mut scene = Scene::start();
    let remote = Remote::start();
    remote.push(&scene, "partners", "hub/*", "");
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "content");
    scene.scan("app", "1.0", &image, CLEAN);
    scene.expect_published("image.promoted", 1);
    let other = remote.reader().image("team/app", "amd64", "theirs");
    remote.reader().put("team/app", "1.0", &other);
    // A tag of their own is nobody's business.
    remote.reader().put("team/app", "theirs", &other);
    scene.stack.sluice(&["reconcile", "promoter"]);
    let told = &scene.events("image.unauthorised", 1)[0]["data"];
    assert_eq!(
        (&told["registry"], &told["digest"]),
        (&remote.host.clone().into(), &other.digest.clone().into())
    );
    assert_eq!(
        (&told["expected"], &told["tag"]),
        (&image.digest.clone().into(), &"1.0".into())
    );
    // Neither another search nor another judgement writes over it, or tells it again.
    scene.stack.sluice(&["reconcile", "promoter"]);
    scene.tell_scanned("app", "1.0", &image);
    scene.expect_published("image.unauthorised", 1);
    assert_eq!(remote.get("team/app", "1.0").unwrap(), other.raw);
    let explained = scene.stack.sluice(&["explain", "hub/app:1.0"]);
    assert!(explained.contains("was overwritten with"), "{explained}");
    let next = scene.publish("app", "1.0", "next");
    scene.mirrored("app", "1.0", &next);
    scene.scan("app", "1.0", &next, CLEAN);
    remote.has("team/app", "1.0", &next);
    scene.expect_published("image.promoted", 2);
    scene.expect_published("image.unauthorised", 1);
}

#[test]
fn a_pushed_tag_that_is_gone_is_found_and_brought_again() {
    let mut scene = Scene::start();
    let remote = Remote::start();
    remote.push(&scene, "partners", "hub/*", "");
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "content");
    scene.scan("app", "1.0", &image, CLEAN);
    scene.expect_published("image.promoted", 1);
    remote.reader().delete("team/app", &image.digest);
    assert_eq!(remote.get("team/app", "1.0"), None);
    scene.stack.sluice(&["reconcile", "promoter"]);
    remote.has("team/app", "1.0", &image);
    scene.expect_published("image.promoted", 1);
}

#[test]
fn a_remote_registry_that_is_away_holds_up_no_search() {
    let mut scene = Scene::start();
    let remote = Remote::start();
    let proxy = Proxy::between(&remote.host);
    let remote = remote.behind(&proxy.host);
    remote.push(&scene, "partners", "hub/*", "");
    scene.policy(super::super::CLEAN_TO_OFFICIAL);
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "content");
    scene.scan("app", "1.0", &image, CLEAN);
    scene.expect_published("image.promoted", 2);
    proxy.set(Faults {
        refuse: true,
        ..Faults::default()
    });
    let official = scene.stack.as_service("promoter");
    official.delete("official/app", &image.digest);
    scene.stack.sluice(&["reconcile", "promoter"]);
    wait_for("the image to be back here", 60, || {
        (scene.status("official/app", "1.0") == 200).then_some(())
    });
    proxy.heal();
    scene.quiet();
    let about = sluice_state::key::decisions_about(&image.digest.parse().unwrap());
    let decisions = scene
        .bus
        .run(scene.bus.state.decisions.list(&about))
        .unwrap();
    let allowed = |entry: &sluice_state::Entry<_>| {
        let decision: &sluice_events::wire::state::Decision = &entry.value;
        decision.outcome() == DecisionOutcome::Allow && decision.note.is_empty()
    };
    assert!(
        decisions.len() == 2 && decisions.iter().all(allowed),
        "{decisions:#?}"
    );
}
