//! `sluice tags`: what a selection takes, what it leaves out, and why.

use crate::Scene;

#[test]
fn each_tag_is_told_with_the_reason_why_it_is_taken_or_not() {
    let scene = Scene::start();
    let upstream = scene.upstream();
    let image = upstream.image("app", "amd64", "one");
    let listed = [
        "1.27.3",
        "1.27.3-alpine",
        "1.27.2",
        "1.20",
        "1.28-rc1",
        "20240115",
        "latest",
    ];
    for tag in listed {
        upstream.put("app", tag, &image);
    }
    let from = scene.image("app");
    let before = scene.source.requests().len();
    let arguments = [
        "tags", "--from", &from, "--semver", ">=1.25", "--newest", "2",
    ];
    let told = scene.json(&arguments);
    let taken: Vec<_> = told["taken"].as_array().unwrap().iter().collect();
    assert_eq!(taken[0]["tag"], "1.27.3", "{told}");
    assert_eq!(taken[1]["tag"], "1.27.3-alpine", "{told}");
    assert_eq!(taken[1]["reason"], "variant `alpine` of a release");
    for (tag, reason) in [
        ("1.27.2", "2 selected tags are newer"),
        ("1.20", "is outside of `semver`"),
        ("1.28-rc1", "is a pre-release, and `semver` names none"),
        ("20240115", "is a date, and `semver` takes versions"),
        ("latest", "is no version, and `semver` takes versions"),
    ] {
        let left_out = told["leftOut"].as_array().unwrap();
        let found = left_out.iter().find(|entry| entry["tag"] == tag);
        assert_eq!(found.unwrap()["reason"], reason, "{told}");
    }
    // Only the list was asked for.
    let asked = scene.source.requests().split_off(before);
    assert!(
        asked.iter().all(|request| !request.contains("/manifests/")),
        "{asked:?}"
    );
    let table = String::from_utf8(scene.sluice(&arguments).stdout).unwrap();
    assert_eq!(table.lines().count(), 1 + listed.len(), "{table}");
    let refused = scene.sluice(&["tags", "--from", &from, "--semver", "newest"]);
    assert_eq!(refused.status.code(), Some(78));
}
