//! Immutable repositories: the tag keeps its image, that is told once, and retention may still remove it.

use sluice_tests::wait_for;

use super::Scene;

const IMMUTABLE: &str = "kind: Repository\nname: hub/app\nimmutable: true\n";

#[test]
fn a_tag_of_an_immutable_repository_does_not_move_and_that_is_told_once() {
    let scene = Scene::start(2, "---\nkind: Repository\nname: hub/app\nimmutable: true\n");
    let publisher = scene.stack.publisher();
    let second = publisher.image("library/app", "amd64", "second");
    publisher.put("library/app", "1.0", &second);
    // A tag that is not there yet may come.
    publisher.put("library/app", "2.0", &second);
    scene.poll();
    wait_for("the new tag to come", 30, || scene.at("2.0"));
    assert_eq!(scene.at("1.0").unwrap(), scene.images[0].raw);
    let refused = wait_for("the refusal", 30, || {
        Some(scene.stack.events("tag.move_refused")).filter(|facts| !facts.is_empty())
    });
    assert_eq!(refused[0]["data"]["digest"], second.digest);
    assert_eq!(refused[0]["data"]["kept"], scene.images[0].digest);
    // Neither further polls nor the search for missing work tells or tries it again.
    scene.poll();
    scene.upstream.requested();
    scene.stack.sluice(&["reconcile", "mirror-worker"]);
    scene.quiet();
    assert_eq!(scene.upstream.requested(), []);
    assert_eq!(scene.count("tag.move_refused"), 1);
    assert_eq!(scene.count("tag.mirrored"), 3);
    let explained = scene.stack.sluice(&["explain", "hub/app:1.0"]);
    assert!(explained.contains("immutable"), "{explained}");

    // Back upstream: nothing is to be done. Then it moves once more, and the repository lets it.
    let third = publisher.image("library/app", "amd64", "third");
    publisher.put("library/app", "1.0", &third);
    scene.poll();
    wait_for("the other refusal", 30, || {
        (scene.count("tag.move_refused") == 2).then_some(())
    });
    let mutable = IMMUTABLE.replace("true", "false");
    scene.stack.apply(&mutable);
    scene.stack.sluice(&["reconcile", "mirror-worker"]);
    wait_for("the tag to move", 30, || {
        (scene.at("1.0")? == third.raw).then_some(())
    });
    scene.quiet();
}

#[test]
fn retention_removes_from_an_immutable_repository_and_what_a_stranger_put_there_is_put_back() {
    let mut scene = Scene::start(3, "---\nkind: Repository\nname: hub/app\nimmutable: true\n");
    let stranger = scene.stack.as_service("mirror-worker");
    let other = stranger.image("hub/app", "amd64", "of a stranger");
    stranger.put("hub/app", "1.2", &other);
    scene.stack.sluice(&["reconcile", "--audit"]);
    wait_for("it to be put back", 30, || {
        (scene.at("1.2")? == scene.images[2].raw).then_some(())
    });
    scene
        .stack
        .apply("kind: Repository\nname: hub/app\nimmutable: true\nkeep: 1\n");
    scene.stack.service("pruner", &[]);
    scene.stack.sluice(&["prune", "hub/app"]);
    wait_for("two tags to go", 30, || {
        let left = ["1.0", "1.1", "1.2"].map(|tag| scene.at(tag).is_some());
        (left.iter().filter(|left| **left).count() == 1).then_some(())
    });
    scene.quiet();
    assert_eq!(scene.count("tag.move_refused"), 0);
}
