//! Realistic files of other tools, the resources converted from them, and the warnings.

use std::fmt::Write as _;

use proptest::prelude::*;
use sluice_domain::resources::Resource;

use crate::documents::Conversion;
use crate::{regsync, skopeo};

const REGSYNC: [&str; 2] = [
    include_str!("golden/regsync.yml"),
    include_str!("golden/regsync.golden"),
];
const SKOPEO: [&str; 2] = [
    include_str!("golden/skopeo.yml"),
    include_str!("golden/skopeo.golden"),
];

/// Returns the documents, followed by the warnings and notes as comments.
fn all(conversion: &Conversion) -> String {
    let mut text = conversion.text.clone();
    for warning in &conversion.warnings {
        writeln!(text, "# warning, line {}: {}", warning.line, warning.text).unwrap();
    }
    for note in &conversion.notes {
        writeln!(text, "# note: {note}").unwrap();
    }
    text
}

#[test]
fn a_regsync_configuration_becomes_documents() {
    let conversion = regsync::convert("conf/regsync.yml", REGSYNC[0], None).unwrap();
    assert_eq!(all(&conversion), REGSYNC[1], "\n{}", all(&conversion));
}

#[test]
fn a_skopeo_file_becomes_documents() {
    let conversion = skopeo::convert("sync.yml", SKOPEO[0], false).unwrap();
    assert_eq!(all(&conversion), SKOPEO[1], "\n{}", all(&conversion));
}

#[test]
fn converted_documents_are_valid_and_hold_no_secret() {
    let conversion = [
        regsync::convert("a", REGSYNC[0], None).unwrap(),
        skopeo::convert("a", SKOPEO[0], false).unwrap(),
        skopeo::convert("a", SKOPEO[0], true).unwrap(),
    ];
    for conversion in conversion {
        let documents = sluice_policy::check::load(&conversion.text).unwrap();
        let mirrors = documents
            .iter()
            .filter(|document| matches!(document.resource, Resource::Mirror(_)));
        assert!(mirrors.count() >= 3);
        for secret in ["s3cr3t", "this is a secret", "hub_token", "MIIB"] {
            assert!(!all(&conversion).contains(secret), "{secret}");
        }
    }
}

#[test]
fn scoped_destinations_start_with_the_registry() {
    let conversion = skopeo::convert("a", SKOPEO[0], true).unwrap();
    assert!(
        conversion.text.contains("to: quay-io/coreos/etcd"),
        "{}",
        conversion.text
    );
    assert!(
        !conversion
            .warnings
            .iter()
            .any(|w| w.text.contains("same destination"))
    );
}

#[test]
fn files_without_images_are_refused_with_a_line() {
    for text in ["", "a: 1", "sync: []", "- x", "registry.example: {}"] {
        let error = regsync::convert("a", text, None).unwrap_err().to_string();
        assert!(error.starts_with("line "), "{error}");
        let error = skopeo::convert("a", text, false).unwrap_err().to_string();
        assert!(error.starts_with("line "), "{error}");
    }
}

#[test]
fn each_unknown_key_is_reported_with_its_line() {
    let text = "version: 2\nretries: 3\nsync:\n  - source: a\n    target: r.example/a\n    type: repository\n    colour: blue\n    tags: {alow: [x]}\n";
    let conversion = regsync::convert("a", text, None).unwrap();
    let reported: Vec<_> = conversion.warnings.iter().map(|w| w.line).collect();
    assert_eq!(reported, [1, 2, 7, 8], "{:?}", conversion.warnings);
    let text = "r.example:\n  image: {}\n  images:\n    a: []\n";
    let conversion = skopeo::convert("a", text, false).unwrap();
    assert_eq!(conversion.warnings.len(), 1);
    assert_eq!(conversion.warnings[0].line, 2);
}

#[test]
fn a_platform_filter_is_converted_or_reported() {
    let text = "sync:\n  - source: a\n    target: r.example/a\n    type: repository\n    platforms: [linux/amd64]\n";
    let conversion = regsync::convert("a", text, None).unwrap();
    let reported = conversion
        .warnings
        .iter()
        .any(|w| w.text.contains("platforms"));
    assert_ne!(
        conversion.text.contains("platforms:"),
        reported,
        "{}",
        all(&conversion)
    );
    let document = "kind: Mirror\nname: a\nfrom: a.example/a\nto: a\nplatforms: [linux/amd64]\n";
    assert_eq!(sluice_policy::check::load(document).is_err(), reported);
}

#[test]
fn each_target_can_be_imported_by_itself() {
    let text = "sync:\n  - {source: a, target: one.example/x/a, type: repository}\n  - {source: a, target: two.example/x/a, type: repository}\n";
    let conversion = regsync::convert("a", text, None).unwrap();
    for host in ["one.example", "two.example"] {
        assert!(conversion.text.contains(&format!("# Goes to {host}.\n")));
        let target = host.parse().unwrap();
        let alone = regsync::convert("a", text, Some(&target)).unwrap();
        assert!(
            alone.text.contains(&format!("--to {host}\n")),
            "{}",
            alone.text
        );
        assert_eq!(alone.text.matches("kind: Mirror").count(), 1);
        assert!(alone.warnings.is_empty(), "{:?}", alone.warnings);
    }
    assert!(conversion.warnings[0].text.contains("--target"));
    let other = "three.example".parse().unwrap();
    assert!(regsync::convert("a", text, Some(&other)).is_err());
}

#[test]
fn a_mirror_that_matches_no_tag_is_left_out_with_its_line() {
    let entry = |tags: &str| {
        format!("  - {{source: a, target: r.example/a, type: repository, tags: {{{tags}}}}}\n")
    };
    let text = format!(
        "sync:\n{}{}{}",
        entry("allow: [latest], deny: [latest]"),
        entry("semverRange: ['>=2 <1']"),
        entry("allow: [latest]"),
    );
    let conversion = regsync::convert("a", &text, None).unwrap();
    assert_eq!(
        conversion.text.matches("kind: Mirror").count(),
        1,
        "{}",
        conversion.text
    );
    let left_out = conversion
        .warnings
        .iter()
        .filter(|w| w.text.contains("leave no tag"));
    assert_eq!(left_out.map(|w| w.line).collect::<Vec<_>>(), [2, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn documents_converted_from_a_corrupted_file_are_valid(which in 0..3_usize, place in any::<prop::sample::Index>(), length in 0..12_usize, junk in "([a-z:\\[{\"'\n *&!#|>%@-]|\\PC){0,8}") {
        let text = [REGSYNC[0], SKOPEO[0], SKOPEO[0]][which];
        let characters: Vec<char> = text.chars().collect();
        let from = place.index(characters.len());
        let to = (from + length).min(characters.len());
        let changed: String = characters[..from].iter().copied().chain(junk.chars()).chain(characters[to..].iter().copied()).collect();
        let conversion = match which {
            0 => regsync::convert("a", &changed, None),
            1 => skopeo::convert("a", &changed, false),
            _ => skopeo::convert("a", &changed, true),
        };
        if let Ok(conversion) = conversion {
            let lines = changed.lines().count() + 1;
            prop_assert!(conversion.warnings.iter().all(|warning| (1..=lines).contains(&warning.line)));
            prop_assert!(sluice_policy::check::load(&conversion.text).is_ok(), "{}\n{:?}", conversion.text, sluice_policy::check::load(&conversion.text).err());
        }
    }
}
