//! Reports that lack packages that the layers hold.

use sluice_layer::{Database, ImageDatabase};

use super::*;

fn database(manager: PackageManager, form: EntryForm, size_bytes: u64) -> ImageContents {
    let path = serde_json::from_value(serde_json::json!("var/lib/x")).unwrap();
    let database = Database {
        manager,
        path,
        form,
        size_bytes,
    };
    ImageContents {
        databases: vec![ImageDatabase { layer: 0, database }],
        ..ImageContents::default()
    }
}

fn summary(family: &str, os_packages: u64, languages: &[&str]) -> Summary {
    Summary {
        family: family.to_owned(),
        os: family.to_owned(),
        os_packages,
        languages: languages.iter().map(ToString::to_string).collect(),
        ..Summary::default()
    }
}

#[test]
fn a_package_database_without_packages_in_the_report_makes_it_incomplete() {
    use EntryForm::{File, HardLink, Special, Symlink, ThroughSymlink};
    use PackageManager::{Apk, Dpkg, Rpm};
    for (contents, summary, is_complete) in [
        (database(Dpkg, File, 10), summary("debian", 1, &[]), true),
        (database(Dpkg, File, 10), summary("debian", 0, &[]), false),
        (
            database(Rpm, File, 10),
            summary("", 0, &["node-pkg"]),
            false,
        ),
        // There is nothing to list of an empty one.
        (
            database(Dpkg, File, 0),
            summary("alpine", 0, &["node-pkg"]),
            true,
        ),
        // Packages that are taken for those of another system are matched with the wrong advisories.
        (database(Apk, File, 10), summary("debian", 1, &[]), false),
        (database(Dpkg, File, 10), summary("alpine", 1, &[]), false),
        (database(Apk, File, 10), summary("wolfi", 1, &[]), true),
        (database(Rpm, File, 10), summary("rocky", 1, &[]), true),
        (database(Rpm, File, 10), summary("ubuntu", 1, &[]), false),
        (
            database(Dpkg, HardLink, 0),
            summary("debian", 1, &[]),
            false,
        ),
        (database(Dpkg, Symlink, 0), summary("debian", 1, &[]), false),
        (
            database(Rpm, ThroughSymlink, 0),
            summary("rocky", 1, &[]),
            false,
        ),
        (database(Apk, Special, 0), summary("alpine", 1, &[]), false),
        (
            ImageContents::default(),
            summary("", 0, &["node-pkg"]),
            true,
        ),
    ] {
        let reason = incomplete(&contents, &summary);
        assert_eq!(
            reason.is_none(),
            is_complete,
            "{contents:?} {summary:?} {reason:?}"
        );
    }
}

#[test]
fn kinds_that_are_never_matched_are_named_and_limited() {
    let none = ImageContents::default();
    let of = |family: &str, languages: &[&str]| unmatched(&none, &summary(family, 0, languages));
    assert!(of("debian", &["node-pkg", "python-pkg", "jar", "gobinary"]).is_empty());
    assert_eq!(of("debian", &["conda-pkg", "node-pkg"]), ["conda-pkg"]);
    assert_eq!(
        of("", &["julia", "conda-environment"]),
        ["conda-environment", "julia"]
    );
    assert_eq!(of("fedora", &["node-pkg"]), ["fedora"]);
    assert_eq!(of("debian", &["of next year"]), ["of next year"]);
    let nix = database(PackageManager::Nix, EntryForm::File, 10);
    assert_eq!(unmatched(&nix, &summary("debian", 1, &[])), ["nix"]);
    assert_eq!(incomplete(&nix, &summary("debian", 1, &[])), None);
    let many: Vec<String> = (0..100)
        .map(|number| format!("{number}{}", "x".repeat(100)))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let named = of("debian", &many);
    assert_eq!(named.len(), MAX_UNMATCHED);
    assert!(named.iter().all(|kind| kind.len() <= MAX_KIND_CHARS));
}
