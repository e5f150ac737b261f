//! Every crash point has a test that dies there, and what is built to be used has none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use sluice_tests::root;

use super::{short, sources};

/// Returns the texts that stand in quotes right after each of the marks.
fn quoted(text: &str, mark: &str) -> Vec<String> {
    text.split(mark)
        .skip(1)
        .filter_map(|rest| {
            let rest = rest.trim_start().strip_prefix('"')?;
            Some(rest.split_once('"')?.0.to_owned())
        })
        .collect()
}

#[test]
fn every_crash_point_has_a_test_and_every_test_a_point() {
    let (mut points, mut tested) = (BTreeMap::new(), BTreeSet::new());
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let name = short(&path);
        if name.starts_with("crates/") {
            for mark in ["crash::point(", "crash::point_of("] {
                for point in quoted(&text, mark) {
                    let before = points.insert(point.clone(), name.clone());
                    assert_eq!(before, None, "`{point}` is in {name} too");
                }
            }
        } else if name.starts_with("tests/pipeline/crash") {
            for at in quoted(&text, " at ") {
                let point = at.split([':', '=']).next().unwrap();
                tested.insert(point.to_owned());
            }
        }
    }
    tested.remove("");
    assert!(points.len() > 30, "the points were not found");
    let points: BTreeSet<String> = points.into_keys().collect();
    let untested: Vec<_> = points.difference(&tested).collect();
    assert!(untested.is_empty(), "no test dies at {untested:?}");
    let gone: Vec<_> = tested.difference(&points).collect();
    assert!(gone.is_empty(), "tests die at {gone:?}, which is nowhere");
}

#[test]
fn only_the_tests_turn_crash_points_on() {
    let mut named = BTreeSet::new();
    for entry in fs::read_dir(root().join("crates")).unwrap().flatten() {
        let manifest = fs::read_to_string(entry.path().join("Cargo.toml")).unwrap();
        if manifest.contains("crash-points") {
            named.insert(entry.file_name().into_string().unwrap());
        }
        assert!(
            !manifest.contains("\ndefault = ["),
            "{entry:?} has default features"
        );
    }
    assert_eq!(named, BTreeSet::from(["service".to_owned()]));
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(!workspace.contains("crash-points"));
    // The package of the tests is no default member, so a plain build does not have them either.
    assert!(workspace.contains("default-members = [\"crates/*\"]"));
    for entry in fs::read_dir(root().join("deploy")).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        for way in [
            "--workspace",
            "sluice-tests",
            "crash-points",
            "all-features",
        ] {
            assert!(!text.contains(way), "{entry:?} builds with `{way}`");
        }
    }
}
