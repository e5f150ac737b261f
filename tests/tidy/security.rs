//! What `docs/SECURITY.md` says is shown is shown: the tests and fuzz targets that it names exist.

use std::collections::BTreeSet;
use std::fs;

use sluice_tests::root;

use super::sources;

/// Returns the rows of the tables whose last column has this title, each with its last column.
fn last_columns<'a>(text: &'a str, title: &str) -> Vec<&'a str> {
    let mut is_wanted = false;
    let mut columns = Vec::new();
    for line in text.lines() {
        let Some(row) = line.strip_prefix("| ") else {
            is_wanted = false;
            continue;
        };
        let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        if is_wanted && !last.starts_with("---") {
            columns.push(last);
        }
        is_wanted |= last == title;
    }
    columns
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let page = fs::read_to_string(root().join("docs/SECURITY.md")).unwrap();
    let mut there = BTreeSet::new();
    for path in sources() {
        let text = fs::read_to_string(path).unwrap();
        let names = text.split("fn ").skip(1);
        let names = names.filter_map(|rest| rest.split_once(['(', '<']));
        there.extend(names.map(|(name, _)| name.to_owned()));
    }
    let rows = last_columns(&page, "test");
    assert!(rows.len() > 50, "the tables were not found");
    for row in rows {
        let names: Vec<_> = row.split(", ").collect();
        assert!(!names.is_empty());
        for name in names {
            let name = name
                .strip_prefix('`')
                .and_then(|name| name.strip_suffix('`'));
            let name = name.unwrap_or_else(|| panic!("`{row}` names no test"));
            assert!(there.contains(name), "there is no test `{name}`");
        }
    }
}

#[test]
fn every_fuzz_target_is_built_and_documented() {
    let page = fs::read_to_string(root().join("docs/SECURITY.md")).unwrap();
    let manifest = fs::read_to_string(root().join("tests/fuzz/Cargo.toml")).unwrap();
    let mut count = 0;
    for entry in fs::read_dir(root().join("tests/fuzz/targets"))
        .unwrap()
        .flatten()
    {
        let path = entry.path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            page.contains(&format!("\n| `{name}` |")),
            "docs/SECURITY.md does not name `{name}`"
        );
        assert!(
            manifest.contains(&format!("\nname = \"{name}\"\n")),
            "`{name}` is not built"
        );
        count += 1;
    }
    assert_eq!(count, manifest.matches("[[bin]]").count());
}
