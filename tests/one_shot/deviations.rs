//! Registries that ask to wait, and tags that move, while images are copied.

use std::process::Stdio;

use sluice_tests::dishonest_registry::{Liar, Lie};
use sluice_tests::wait_for;

use super::{Scene, error, interrupt};

#[test]
fn a_destination_that_asks_to_wait_is_waited_for_and_the_source_goes_on() {
    let scene = Scene::start();
    let tags = ["1.0", "1.1", "1.2"];
    for tag in tags {
        scene.push("app", tag, tag);
    }
    let liar = Liar::before(&scene.destination.host);
    liar.lie_times("/manifests/", Lie::Status(429, Some(1)), 2);
    liar.lie_times("/blobs/uploads/", Lie::Status(429, None), 2);
    let file = scene.mirrors(&[("app", "")]);
    let sync = ["sync", "-f", &file, "--to", &liar.host];
    let output = scene.sluice(&[&sync[..], &["--plain-http", &liar.host]].concat());
    assert!(output.status.success(), "{}", error(&output));
    for tag in tags {
        assert_eq!(
            scene.there("hub/app", tag),
            scene.upstream().get("app", tag)
        );
    }
}

#[test]
fn a_tag_that_moves_while_it_is_copied_is_looked_at_again() {
    let scene = Scene::start();
    let raw = scene.push("app", "1.0", "one");
    let liar = Liar::before(&scene.source.host);
    // What the first look finds is gone before it can be fetched.
    liar.lie_times("/manifests/1.0", Lie::WrongDigestHeader, 1);
    let from = format!("{}/app:1.0", liar.host);
    let to = scene.place("app");
    let output = scene.sluice(&["copy", &from, &to, "--plain-http", &liar.host]);
    assert!(output.status.success(), "{}", error(&output));
    assert_eq!(scene.there("app", "1.0"), Some(raw));
}

#[test]
fn an_image_for_another_platform_is_refused_although_it_is_there() {
    let scene = Scene::start();
    let image = scene.upstream().image("app", "amd64", "one");
    scene.upstream().put("app", "1.0", &image);
    let (from, to) = (scene.image("app:1.0"), scene.place("app"));
    assert!(scene.sluice(&["copy", &from, &to]).status.success());
    let refused = scene.sluice(&["copy", &from, &to, "--platform", "linux/s390x"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let told = error(&refused);
    assert!(
        told.contains("linux/s390x") && told.contains("linux/amd64"),
        "{told}"
    );
    let same = scene.json(&["copy", &from, &to, "--platform", "linux/amd64"]);
    assert_eq!(same["outcome"], "unchanged");
}

#[test]
fn an_interrupted_sync_does_not_say_that_there_are_no_tags() {
    let scene = Scene::start();
    scene.push("app", "1.0", "one");
    scene.destination.freeze(true);
    let file = scene.mirrors(&[("app", "")]);
    let mut child = scene
        .command(&["sync", "-f", &file, "--to", &scene.destination.host])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let looked = || {
        let asked = scene.source.requests();
        asked
            .iter()
            .any(|asked| asked.starts_with("HEAD"))
            .then_some(())
    };
    wait_for("the sync to look", 20, looked);
    interrupt(&child);
    let code = wait_for("the sync to end", 20, || child.try_wait().unwrap());
    assert_eq!(code.code(), Some(130));
    let told = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
    scene.destination.freeze(false);
    assert!(
        told.contains("interrupted") && !told.contains("(no tags)"),
        "{told}"
    );
}
