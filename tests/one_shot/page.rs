//! The page about these commands: what it shows is what they do.

use std::process::Command;

use sluice_tests::{binary, root};

use crate::written;

/// Returns the blocks of a language in a section of the page, in their order.
fn blocks(section: &str, language: &str) -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/SYNC.md")).unwrap();
    let (_, rest) = page.split_once(&format!("\n## {section}\n")).unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let begin = format!("```{language}\n");
    let blocks = section.split(&begin).skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect()
}

#[test]
fn the_equivalents_on_the_page_are_what_the_import_writes() {
    let folder = tempfile::tempdir().unwrap();
    for (section, kind, name) in [
        ("Coming from regsync", "regsync", "regsync.yml"),
        ("Coming from skopeo sync", "skopeo", "sync.yml"),
    ] {
        let blocks = blocks(section, "yaml");
        let [theirs, ours] = blocks.as_slice() else {
            panic!("{section} shows a file and its equivalent");
        };
        let file = folder.path().join(name);
        std::fs::write(&file, theirs).unwrap();
        let (made, _) = written("import", kind, &file);
        assert_eq!(made, *ours, "\n{made}");
        let file = folder.path().join("made.yaml");
        std::fs::write(&file, &made).unwrap();
        let applied = Command::new(binary("sluice"))
            .args(["apply", "--dry-run", "-f"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(applied.status.success(), "{applied:?}");
    }
}

#[test]
fn the_mirrors_on_the_page_can_be_applied() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mirrors.yaml");
    std::fs::write(&file, &blocks("Sync many", "yaml")[0]).unwrap();
    let applied = Command::new(binary("sluice"))
        .args(["apply", "--dry-run", "-f"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(applied.status.success(), "{applied:?}");
}
