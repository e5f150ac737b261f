//! `docs/SETTINGS.md`, from the `config.default.toml` of each service.

use std::fs;

use sluice_tests::root;

use super::{check, code, table};
use crate::{sources, sources_named};

const INTRODUCTION: &str = "Every setting of every service, from the defaults that `--print-defaults` prints.

A service reads its defaults, then the TOML file of `--config` or `SLUICE_CONFIG`, then the environment; the later one counts.
A setting that the service does not know is refused. `--check-config` validates the settings, `--print-config` prints them.
In `sluice up` the environment is the only layer, and each service gets the variables of its own sections.
Names end in the unit: `_seconds`, `_hours`, `_days`, `_megabytes` and `_mib` (both MiB), `_percent`.
";

/// A line of the page.
struct Setting {
    key: String,
    default: String,
    comment: String,
}

#[test]
fn the_page_of_settings_matches_the_defaults() {
    let mut page = INTRODUCTION.to_owned();
    let mut files = sources_named("config.default.toml");
    files.sort();
    for file in files {
        let service = file.parent().unwrap().file_name().unwrap();
        let service = service.to_str().unwrap();
        page.push_str(&format!("\n## `sluice-{service}`\n"));
        let text = fs::read_to_string(&file).unwrap();
        for (section, note, settings) in sections(&text) {
            page.push_str(&format!("\n### `{service}`: `[{section}]`\n\n"));
            if !note.is_empty() {
                page.push_str(&format!("{note}\n\n"));
            }
            let rows: Vec<_> = settings
                .iter()
                .map(|setting| {
                    let key = &setting.key;
                    assert!(
                        !setting.comment.is_empty(),
                        "`{section}.{key}` of {service} has no comment"
                    );
                    // One that is set is read, or the service would not start.
                    assert!(
                        !setting.default.is_empty() || is_read(service, key),
                        "`{section}.{key}` of {service} is read nowhere"
                    );
                    let variable = format!("SLUICE__{section}__{key}").to_ascii_uppercase();
                    vec![
                        code(key),
                        code(&variable),
                        code(&setting.default),
                        setting.comment.clone(),
                    ]
                })
                .collect();
            page.push_str(&table(&["key", "environment", "default", "meaning"], &rows));
        }
    }
    check("SETTINGS.md", "Settings", &page);
}

/// Returns each section with its note and its settings; one that is commented out has no default.
fn sections(text: &str) -> Vec<(String, String, Vec<Setting>)> {
    let mut sections: Vec<(String, String, Vec<Setting>)> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in text.lines() {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']').to_owned();
            sections.push((section, String::new(), Vec::new()));
            comment.clear();
            continue;
        }
        let (is_set, rest) = match line.strip_prefix("# ") {
            Some(rest) => (false, rest),
            None => (true, line),
        };
        let Some((_, note, settings)) = sections.last_mut() else {
            continue;
        };
        match rest.split_once(" = ").filter(|(key, _)| is_key(key)) {
            Some((key, value)) => {
                let mut comment = std::mem::take(&mut comment).join(" ");
                if !is_set {
                    comment.push_str(&format!(" Example: {}.", code(value)));
                }
                settings.push(Setting {
                    key: key.to_owned(),
                    default: if is_set {
                        value.to_owned()
                    } else {
                        String::new()
                    },
                    comment,
                });
            }
            None if !line.is_empty() => comment.push(rest),
            // A comment of its own belongs to the section.
            None => note.push_str(&std::mem::take(&mut comment).join(" ")),
        }
    }
    sections
}

/// Says whether the settings of a service, or those that all services share, have a field of this name.
fn is_read(service: &str, key: &str) -> bool {
    let folders = [service, "service"].map(|name| root().join("crates").join(name).join("src"));
    let mut files = sources().into_iter();
    files.any(|file| {
        let is_theirs = folders.iter().any(|folder| file.starts_with(folder));
        is_theirs
            && fs::read_to_string(file)
                .unwrap()
                .contains(&format!(" {key}: "))
    })
}

fn is_key(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}
