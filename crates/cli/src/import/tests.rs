//! Realistic files of other tools, what is made of them, and what is said of the rest.

use std::fmt::Write as _;

use proptest::prelude::*;
use sluice_domain::resources::Resource;

use super::document::Made;
use super::{regsync, skopeo};

const REGSYNC: [&str; 2] = [
    include_str!("golden/regsync.yml"),
    include_str!("golden/regsync.golden"),
];
const SKOPEO: [&str; 2] = [
    include_str!("golden/skopeo.yml"),
    include_str!("golden/skopeo.golden"),
];

/// Returns the documents, and what is told of them as comments behind them.
fn all(made: &Made) -> String {
    let mut text = made.text.clone();
    for warning in &made.warnings {
        writeln!(text, "# warning, line {}: {}", warning.line, warning.text).unwrap();
    }
    for note in &made.notes {
        writeln!(text, "# note: {note}").unwrap();
    }
    text
}

#[test]
fn a_regsync_configuration_becomes_documents() {
    let made = regsync::convert("conf/regsync.yml", REGSYNC[0], None).unwrap();
    assert_eq!(all(&made), REGSYNC[1], "\n{}", all(&made));
}

#[test]
fn a_skopeo_file_becomes_documents() {
    let made = skopeo::convert("sync.yml", SKOPEO[0], false).unwrap();
    assert_eq!(all(&made), SKOPEO[1], "\n{}", all(&made));
}

#[test]
fn what_is_made_is_accepted_and_holds_no_secret() {
    let made = [
        regsync::convert("a", REGSYNC[0], None).unwrap(),
        skopeo::convert("a", SKOPEO[0], false).unwrap(),
        skopeo::convert("a", SKOPEO[0], true).unwrap(),
    ];
    for made in made {
        let documents = sluice_policy::check::load(&made.text).unwrap();
        let mirrors = documents
            .iter()
            .filter(|document| matches!(document.resource, Resource::Mirror(_)));
        assert!(mirrors.count() >= 3);
        for secret in ["s3cr3t", "this is a secret", "hub_token", "MIIB"] {
            assert!(!all(&made).contains(secret), "{secret}");
        }
    }
}

#[test]
fn with_scopes_the_registry_stands_before_the_repository() {
    let made = skopeo::convert("a", SKOPEO[0], true).unwrap();
    assert!(
        made.text.contains("to: quay-io/coreos/etcd"),
        "{}",
        made.text
    );
    assert!(!made.warnings.iter().any(|w| w.text.contains("both go")));
}

#[test]
fn files_that_say_nothing_to_copy_are_refused_with_a_line() {
    for text in ["", "a: 1", "sync: []", "- x", "registry.example: {}"] {
        let told = regsync::convert("a", text, None).unwrap_err();
        assert!(told.starts_with("line "), "{told}");
        let told = skopeo::convert("a", text, false).unwrap_err();
        assert!(told.starts_with("line "), "{told}");
    }
}

#[test]
fn each_key_that_is_not_known_is_told_with_its_line() {
    let text = "version: 2\nretries: 3\nsync:\n  - source: a\n    target: r.example/a\n    type: repository\n    colour: blue\n    tags: {alow: [x]}\n";
    let made = regsync::convert("a", text, None).unwrap();
    let told: Vec<_> = made.warnings.iter().map(|w| w.line).collect();
    assert_eq!(told, [1, 2, 7, 8], "{:?}", made.warnings);
    let text = "r.example:\n  image: {}\n  images:\n    a: []\n";
    let made = skopeo::convert("a", text, false).unwrap();
    assert_eq!(made.warnings.len(), 1);
    assert_eq!(made.warnings[0].line, 2);
}

#[test]
fn a_choice_of_platforms_is_written_or_told() {
    let text = "sync:\n  - source: a\n    target: r.example/a\n    type: repository\n    platforms: [linux/amd64]\n";
    let made = regsync::convert("a", text, None).unwrap();
    let told = made.warnings.iter().any(|w| w.text.contains("platforms"));
    assert_ne!(made.text.contains("platforms:"), told, "{}", all(&made));
    let document = "kind: Mirror\nname: a\nfrom: a.example/a\nto: a\nplatforms: [linux/amd64]\n";
    assert_eq!(sluice_policy::check::load(document).is_err(), told);
}

#[test]
fn each_target_is_kept_and_can_be_imported_by_itself() {
    let text = "sync:\n  - {source: a, target: one.example/x/a, type: repository}\n  - {source: a, target: two.example/x/a, type: repository}\n";
    let made = regsync::convert("a", text, None).unwrap();
    for host in ["one.example", "two.example"] {
        assert!(made.text.contains(&format!("# Goes to {host}.\n")));
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
    assert!(made.warnings[0].text.contains("--target"));
    let other = "three.example".parse().unwrap();
    assert!(regsync::convert("a", text, Some(&other)).is_err());
}

#[test]
fn a_mirror_that_would_take_nothing_is_left_out_with_its_line() {
    let entry = |tags: &str| {
        format!("  - {{source: a, target: r.example/a, type: repository, tags: {{{tags}}}}}\n")
    };
    let text = format!(
        "sync:\n{}{}{}",
        entry("allow: [latest], deny: [latest]"),
        entry("semverRange: ['>=2 <1']"),
        entry("allow: [latest]"),
    );
    let made = regsync::convert("a", &text, None).unwrap();
    assert_eq!(
        made.text.matches("kind: Mirror").count(),
        1,
        "{}",
        made.text
    );
    let left_out = made
        .warnings
        .iter()
        .filter(|w| w.text.contains("leave no tag"));
    assert_eq!(left_out.map(|w| w.line).collect::<Vec<_>>(), [2, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_made_of_a_changed_file_can_be_applied(which in 0..3_usize, place in any::<prop::sample::Index>(), length in 0..12_usize, junk in "([a-z:\\[{\"'\n *&!#|>%@-]|\\PC){0,8}") {
        let text = [REGSYNC[0], SKOPEO[0], SKOPEO[0]][which];
        let characters: Vec<char> = text.chars().collect();
        let from = place.index(characters.len());
        let to = (from + length).min(characters.len());
        let changed: String = characters[..from].iter().copied().chain(junk.chars()).chain(characters[to..].iter().copied()).collect();
        let made = match which {
            0 => regsync::convert("a", &changed, None),
            1 => skopeo::convert("a", &changed, false),
            _ => skopeo::convert("a", &changed, true),
        };
        if let Ok(made) = made {
            let lines = changed.lines().count() + 1;
            prop_assert!(made.warnings.iter().all(|warning| (1..=lines).contains(&warning.line)));
            prop_assert!(sluice_policy::check::load(&made.text).is_ok(), "{}\n{:?}", made.text, sluice_policy::check::load(&made.text).err());
        }
    }
}
