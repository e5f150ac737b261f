//! What `sync --delete` leaves alone: tags that only a list misses, and those of another mirror.

use sluice_tests::dishonest_registry::{Liar, Lie};

use crate::Scene;

/// Writes two mirrors into one repository, the first of which removes; returns the file.
fn mirrors(scene: &Scene, first: &str) -> String {
    let second = &scene.source.host;
    let registry = format!("kind: Registry\nname: a\nhost: '{first}'\nplain_http: true\n---\n");
    let mirror = |name: &str, host: &str| {
        format!("kind: Mirror\nname: {name}\nfrom: {host}/{name}\nto: hub/app\non_delete: delete\n")
    };
    let text = format!(
        "{registry}{}---\n{}",
        mirror("one", first),
        mirror("two", second)
    );
    let file = scene.folder.path().join("two.yaml");
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[test]
fn a_tag_of_another_mirror_into_the_same_repository_is_not_removed() {
    let scene = Scene::start();
    scene.push("one", "1.0", "one");
    scene.push("two", "2.0", "two");
    let file = mirrors(&scene, &scene.source.host);
    let to = scene.destination.host.as_str();
    for _ in 0..2 {
        let told = scene.json(&["sync", "-f", &file, "--to", to, "--delete"]);
        assert_eq!(told["totals"]["tagsRemoved"], 0, "{told}");
        assert!(scene.there("hub/app", "1.0").is_some());
        assert!(scene.there("hub/app", "2.0").is_some());
    }
}

#[test]
fn a_tag_that_only_the_list_misses_is_not_removed() {
    let scene = Scene::start();
    for tag in ["1.0", "1.1"] {
        scene.push("one", tag, tag);
    }
    scene.push("two", "2.0", "two");
    let liar = Liar::before(&scene.source.host);
    let file = mirrors(&scene, &liar.host);
    let to = scene.destination.host.as_str();
    scene.sluice(&["sync", "-f", &file, "--to", to]);
    assert!(scene.there("hub/app", "1.1").is_some());
    liar.lie("/tags/list", Lie::Tags(vec!["1.0"], false));
    let told = scene.json(&["sync", "-f", &file, "--to", to, "--delete"]);
    assert_eq!(told["totals"]["tagsRemoved"], 0, "{told}");
    assert!(scene.there("hub/app", "1.1").is_some());
    // Where nobody can be asked, nothing is removed either, and both mirrors, which would take the tag, say so.
    liar.lie("/manifests/1.1", Lie::Status(403, None));
    let told = scene.json(&["sync", "-f", &file, "--to", to, "--delete"]);
    assert_eq!(told["totals"]["failures"], 2, "{told}");
    assert!(scene.there("hub/app", "1.1").is_some());
}
