//! What the documentation refers to exists: pages with their headings, files, and items of the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sluice_tests::root;

use super::{short, sources};

/// Returns README.md and every page of docs/ with its text outside of fenced blocks.
fn pages() -> Vec<(PathBuf, String)> {
    let mut files = vec![root().join("README.md")];
    for folder in ["docs", "docs/adr"] {
        let entries = fs::read_dir(root().join(folder)).unwrap().flatten();
        files.extend(entries.map(|entry| entry.path()));
    }
    files.retain(|file| file.extension().is_some_and(|end| end == "md"));
    assert!(files.len() > 15, "the pages were not found");
    let text = |file: &Path| {
        let text = fs::read_to_string(file).unwrap();
        let parts = text.split("```").step_by(2);
        parts.collect::<Vec<_>>().concat()
    };
    files
        .into_iter()
        .map(|file| (file.clone(), text(&file)))
        .collect()
}

/// Returns what stands between each pair of these marks.
fn between<'a>(text: &'a str, start: &'a str, end: char) -> impl Iterator<Item = &'a str> {
    let parts = text.split(start).skip(1);
    parts.filter_map(move |part| Some(part.split_once(end)?.0))
}

/// Returns the texts in single backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Returns the anchor that a heading gets on GitHub.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_to_a_page_and_a_heading() {
    for (file, text) in pages() {
        for link in between(&text, "](", ')') {
            if link.contains("://") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => file.clone(),
                path => file.parent().unwrap().join(path),
            };
            assert!(target.exists(), "{}: `{link}` leads nowhere", short(&file));
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor(line) == heading),
                    "{}: `{link}` names no heading",
                    short(&file)
                );
            }
        }
    }
}

#[test]
fn every_file_that_the_documentation_names_exists() {
    let folders = ["crates/", "tests/", "deploy/", "proto/"];
    for (file, text) in pages() {
        for path in quoted(&text) {
            let path = path.split([' ', ':', '*', '<']).next().unwrap();
            if folders.iter().any(|folder| path.starts_with(folder)) {
                let exists = root().join(path).exists();
                assert!(exists, "{}: there is no `{path}`", short(&file));
            }
        }
    }
}

#[test]
fn every_item_that_the_documentation_names_exists() {
    let mut count = 0;
    for (file, text) in pages() {
        for path in quoted(&text) {
            let Some((name, items)) = path.split_once("::") else {
                continue;
            };
            let package = name.trim_start_matches("sluice_").replace('_', "-");
            let folder = root().join("crates").join(package);
            // Other paths are of libraries, or of no code at all.
            if name.is_empty() || !folder.exists() {
                continue;
            }
            let known = words_of(&folder);
            for item in items.split("::") {
                assert!(
                    known.contains(item.trim_end_matches("()")),
                    "{}: `{name}` has no `{item}`",
                    short(&file)
                );
                count += 1;
            }
        }
    }
    assert!(count > 20, "{count}");
}

/// Returns the names of the modules, types, functions and constants of a crate.
fn words_of(folder: &Path) -> BTreeSet<String> {
    let keywords = [
        "mod", "fn", "struct", "enum", "trait", "type", "const", "static",
    ];
    let mut names = BTreeSet::new();
    for path in sources().iter().filter(|path| path.starts_with(folder)) {
        let text = fs::read_to_string(path).unwrap();
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            if keywords.contains(&pair[0]) {
                names.insert(pair[1].to_owned());
            }
        }
    }
    names
}
