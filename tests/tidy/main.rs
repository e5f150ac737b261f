//! Rules of the repository that no compiler checks.

mod crash_points;
mod layout;
mod links;
mod reference;
mod security;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sluice_bus::topology::STAGES;
use sluice_tests::root;

/// What every crate above the bus may use.
const SHARED: [&str; 4] = ["domain", "events", "telemetry", "service"];
/// What a stage may use besides that: never another stage.
const OF_STAGES: [&str; 4] = ["bus", "registry", "state", "policy"];

/// Returns the crates on which a crate may depend; `docs/ARCHITECTURE.md` has the reasons.
fn allowed(name: &str) -> Option<Vec<&'static str>> {
    let is_stage = |name: &str| STAGES.iter().any(|stage| stage.name == name);
    let stages = STAGES.iter().map(|stage| stage.name);
    let shared = SHARED.into_iter();
    Some(match name {
        "domain" | "telemetry" => Vec::new(),
        "layer" | "policy" | "events" => vec!["domain"],
        "service" => vec!["domain", "telemetry"],
        "bus" | "registry" => shared.collect(),
        "state" => shared.chain(["bus", "registry"]).collect(),
        // A stage that also reads layers.
        "scanner-adapter" => shared.chain(OF_STAGES).chain(["layer"]).collect(),
        stage if is_stage(stage) => shared.chain(OF_STAGES).collect(),
        "copier" => vec!["domain", "service", "policy", "registry"],
        "importer" => vec!["domain", "policy", "registry"],
        "embedded" => shared
            .chain(["bus", "state", "policy"])
            .chain(stages)
            .collect(),
        "cli" => shared
            .chain(OF_STAGES)
            .chain(stages)
            .chain(["layer", "copier", "importer", "embedded"])
            .collect(),
        _ => return None,
    })
}

/// Which crate alone may name a library.
const ONLY: [(&str, &str); 3] = [
    ("async-nats", "bus"),
    ("oci-client", "registry"),
    ("opentelemetry", "telemetry"),
];

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("crates"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("gen") {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 50, "the sources were not found");
    found
}

fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

#[test]
fn dependencies_follow_the_table() {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"]
            .as_str()
            .unwrap()
            .strip_prefix("sluice-")
            .unwrap();
        if name == "tests" {
            continue;
        }
        let allowed = allowed(name).unwrap_or_else(|| panic!("{name} is not in the table"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let dependency = dependency["name"].as_str().unwrap();
            if let Some(own) = dependency.strip_prefix("sluice-") {
                assert!(allowed.contains(&own), "{name} may not depend on {own}");
            }
            if let Some((library, place)) = ONLY.iter().find(|(library, _)| *library == dependency)
            {
                assert_eq!(name, *place, "only {place} may name {library}");
            }
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("//!"),
            "{} does not say what it is for",
            short(&path)
        );
        assert!(
            text.lines().count() <= 600,
            "{} is longer than 600 lines",
            short(&path)
        );
    }
}

/// `sluice_state::describe` takes an entry of `images` where there is one, which other services may write.
#[test]
fn the_gate_takes_no_description_of_an_image_from_an_entry() {
    for path in sources() {
        let name = short(&path);
        let is_gate = ["crates/promoter/src", "crates/scanner-adapter/src"];
        if is_gate.iter().any(|folder| name.starts_with(folder)) {
            let text = fs::read_to_string(&path).unwrap();
            assert!(!text.contains("describe("), "{name}");
        }
    }
}

/// The trait `Scanner` is the boundary; settings and start choose the driver.
#[test]
fn only_the_driver_of_a_scanner_names_it() {
    let adapter = "crates/scanner-adapter/src";
    let mut checked = 0;
    for path in sources() {
        let name = short(&path);
        let Some(file) = name.strip_prefix(&format!("{adapter}/")) else {
            continue;
        };
        let is_driver = file.starts_with("trivy") || ["lib.rs", "settings.rs"].contains(&file);
        if !is_driver {
            let text = fs::read_to_string(&path).unwrap().to_lowercase();
            assert!(!text.contains("trivy"), "{name}");
            checked += 1;
        }
    }
    assert!(checked > 10, "the sources were not found");
}

#[test]
fn no_test_is_switched_off() {
    for path in sources()
        .iter()
        .filter(|path| !path.ends_with("tests/tidy/main.rs"))
    {
        let text = fs::read_to_string(path).unwrap();
        for mark in ["#[ignore", "#[should_panic", "todo!(", "unimplemented!("] {
            assert!(!text.contains(mark), "{} has `{mark}`", short(path));
        }
    }
}

#[test]
fn every_crate_is_in_the_architecture() {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    for entry in fs::read_dir(root().join("crates")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        assert!(
            text.contains(&format!("`{name}`")),
            "docs/ARCHITECTURE.md does not name `{name}`"
        );
    }
}

#[test]
fn every_fact_is_in_the_list_of_events() {
    let text = fs::read_to_string(root().join("docs/EVENTS.md")).unwrap();
    for name in sluice_events::Event::TYPES.iter().map(|fact| fact.name) {
        assert!(
            text.contains(&format!("`{name}`")),
            "docs/EVENTS.md does not name `{name}`"
        );
    }
}

#[test]
fn every_service_listens_on_ports_of_its_own_by_default() {
    let mut ports = Vec::new();
    for file in sources_named("config.default.toml") {
        let text = fs::read_to_string(&file).unwrap();
        let listening: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("listen = "))
            .collect();
        assert!(!listening.is_empty(), "{}", short(&file));
        for address in listening {
            let address: std::net::SocketAddr = address.trim_matches('"').parse().unwrap();
            assert!(address.ip().is_loopback(), "{}", short(&file));
            assert_ne!(address.port(), 0, "{}: nobody finds it", short(&file));
            assert!(
                !ports.contains(&address.port()),
                "{}: {address}",
                short(&file)
            );
            ports.push(address.port());
        }
    }
    assert_eq!(ports.len(), 9);
}

/// Returns the files of this name that lie at the top of a crate.
fn sources_named(name: &str) -> Vec<PathBuf> {
    let crates = fs::read_dir(root().join("crates")).unwrap();
    let files = crates.map(|folder| folder.unwrap().path().join(name));
    files.filter(|file| file.exists()).collect()
}
