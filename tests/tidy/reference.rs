//! The reference pages in docs/ are those that the code generates; `SLUICE_UPDATE_DOCS=1` rewrites them.

mod commands;
mod conditions;
mod metrics;
mod resources;
mod settings;
mod stages;

use std::fs;

use sluice_tests::root;

/// The command that rewrites the pages.
const REWRITE: &str = "SLUICE_UPDATE_DOCS=1 cargo test -p sluice-tests --test tidy reference";

/// Compares a page with the generated one, or rewrites it.
fn check(page: &str, title: &str, generated: &str) {
    let generated =
        format!("# {title}\n\n<!-- Generated; rewrite with: {REWRITE} -->\n\n{generated}");
    let path = root().join("docs").join(page);
    if std::env::var_os("SLUICE_UPDATE_DOCS").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    if let Some(line) = first_difference(&committed, &generated) {
        panic!("docs/{page}:{line} is outdated; run {REWRITE}");
    }
}

/// Returns the number of the first line that differs.
fn first_difference(committed: &str, generated: &str) -> Option<usize> {
    let mut generated = generated.split('\n');
    let mut lines = 1;
    for line in committed.split('\n') {
        if generated.next() != Some(line) {
            return Some(lines);
        }
        lines += 1;
    }
    generated.next().map(|_| lines)
}

/// Returns a Markdown table.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &mut dyn Iterator<Item = String>| {
        let cells: Vec<String> = cells.collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(&mut header.iter().map(|title| (*title).to_owned()));
    text.push_str(&line(&mut header.iter().map(|_| "---".to_owned())));
    for row in rows {
        let cells = row.iter().map(|cell| {
            let words: Vec<&str> = cell.split_whitespace().collect();
            words.join(" ").replace('|', "\\|")
        });
        text.push_str(&line(&mut cells.into_iter()));
    }
    text
}

/// Returns text as code, or nothing for no text.
fn code(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("`{text}`")
    }
}

#[test]
fn a_page_that_differs_is_found_with_its_line() {
    for (committed, generated, line) in [
        ("a\nb\n", "a\nb\n", None),
        ("a\nb\n", "a\nc\n", Some(2)),
        ("a\n", "a\nb\n", Some(2)),
        ("a\nb\n", "a\n", Some(2)),
        ("", "a\n", Some(1)),
    ] {
        assert_eq!(first_difference(committed, generated), line, "{committed}");
    }
}
