//! A choice of platforms on the command line and in a file: the same part of an index each time.

use serde_json::Value;

use super::{Scene, error, since};

#[test]
fn chosen_platforms_arrive_as_the_same_part_and_cost_what_the_dry_run_said() {
    let scene = Scene::start();
    let whole = scene.push("app", "1.0", "one");
    let (from, to) = (scene.image("app:1.0"), scene.place("copies/app"));
    let copy = ["copy", &from, &to, "--platform", "linux/arm64"];
    let planned = scene.json(&[&copy[..], &["--dry-run"]].concat());
    let before = scene.source.requests().len();
    let copied = scene.json(&copy);
    assert_eq!(copied["outcome"], "copied", "{copied}");
    let asked = since(&scene.source, before);
    let pulls = asked
        .iter()
        .filter(|asked| asked.starts_with("GET") && asked.contains("/manifests/"));
    assert_eq!(planned["pulls"], pulls.count());
    assert_eq!(planned["digest"], copied["digest"]);
    let part = scene.there("copies/app", "1.0").unwrap();
    let index: Value = serde_json::from_slice(&part).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(index["manifests"][0]["platform"]["architecture"], "arm64");

    let before = scene.source.requests().len();
    assert_eq!(scene.json(&copy)["outcome"], "unchanged");
    let look = ["HEAD /v2/app/manifests/1.0"];
    assert_eq!(since(&scene.source, before), look);

    let file = scene.mirrors(&[("app", "platforms: [linux/arm64]")]);
    let sync = ["sync", "-f", &file, "--to", &scene.destination.host];
    for _ in 0..2 {
        let output = scene.sluice(&sync);
        assert!(output.status.success(), "{}", error(&output));
        assert_eq!(scene.there("hub/app", "1.0").as_ref(), Some(&part));
    }

    // Another choice makes another part of it, and all of them the index as it is.
    let output = scene.sluice(&["copy", &from, &to, "--platform", "linux/amd64,linux/arm64"]);
    assert!(output.status.success(), "{}", error(&output));
    assert_eq!(scene.there("copies/app", "1.0"), Some(whole.clone()));
    let wrong = scene.sluice(&["copy", &from, &to, "--platform", "linux/s390x"]);
    assert_eq!(wrong.status.code(), Some(1));
    let told = error(&wrong);
    assert!(
        told.contains("linux/s390x") && told.contains("linux/amd64, linux/arm64"),
        "{told}"
    );
    assert_eq!(scene.there("copies/app", "1.0"), Some(whole));
    assert_eq!(scene.json(&copy)["outcome"], "copied");
    assert_eq!(scene.there("copies/app", "1.0"), Some(part));
}
