//! What clients unpack from a target is what was scanned: hostile images, real images, and real clients.

mod drawn;
mod evidence;
mod gate;
mod real;

use std::collections::BTreeMap;

use serde_json::Value;
use sluice_tests::clients::{Containerd, Podman};
use sluice_tests::tree::{self, Tree};
use sluice_tests::{Stack, Upstream};

/// What the pipeline said of an image.
#[derive(Debug, Clone, Default)]
struct Outcome {
    /// How many findings of severity high the scan had, where it understood the image.
    found: Option<u64>,
    /// Why the scanner did not understand it.
    unsupported: Option<String>,
    /// Why it could not be scanned.
    failed: Option<String>,
    is_promoted: bool,
    is_denied: bool,
}

/// Reads what the pipeline said of each digest of a repository.
fn outcomes(stack: &Stack) -> BTreeMap<String, Outcome> {
    let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
    let lines = stack.sluice(&["events"]);
    for line in lines.lines() {
        let fact: Value = serde_json::from_str(line).unwrap();
        let Some(digest) = fact["data"]["digest"].as_str() else {
            continue;
        };
        let outcome = outcomes.entry(digest.to_owned()).or_default();
        let data = &fact["data"];
        match fact["event"].as_str().unwrap() {
            "scan.succeeded" => outcome.found = data["counts"]["high"].as_u64(),
            "scan.failed" => {
                let reason = data["reason"].as_str().map(str::to_owned);
                if data["unsupported"] == true {
                    outcome.unsupported = reason;
                } else {
                    outcome.failed = reason;
                }
            }
            "image.promoted" => outcome.is_promoted = true,
            "image.promotion_denied" => outcome.is_denied = true,
            _ => {}
        }
    }
    outcomes
}

/// Reads the tree that the layers of an image describe, of an index the one for amd64.
fn described(registry: &Upstream, repository: &str, reference: &str) -> Tree {
    let document = registry.get(repository, reference).unwrap();
    let document: Value = serde_json::from_slice(&document).unwrap();
    if let Some(children) = document["manifests"].as_array() {
        let child = children
            .iter()
            .find(|child| child["platform"]["architecture"] == "amd64");
        return described(
            registry,
            repository,
            child.unwrap()["digest"].as_str().unwrap(),
        );
    }
    let layers = document["layers"].as_array().unwrap().iter();
    let archives: Vec<Vec<u8>> = layers
        .map(|layer| {
            let blob = registry.get_blob(repository, layer["digest"].as_str().unwrap());
            sluice_tests::hostile::packing::unpack(&blob.unwrap())
        })
        .collect();
    tree::unpack(&archives).unwrap()
}

/// The real clients, and what they must not differ in.
struct Clients {
    podman: Podman,
    containerd: Containerd,
}

impl Clients {
    fn start() -> Self {
        Self {
            podman: Podman::new(),
            containerd: Containerd::start(),
        }
    }

    /// Lets each client unpack an image from a target.
    fn unpack(&self, image: &str) -> [(&'static str, Result<Tree, String>); 2] {
        [
            ("podman", self.podman.unpack(image)),
            ("containerd", self.containerd.unpack(image)),
        ]
    }

    /// Lets each client unpack an image from a target; returns what differs from the tree that was scanned.
    fn differences(&self, image: &str, scanned: &Tree) -> Vec<String> {
        let mut differences = Vec::new();
        for (name, unpacked) in self.unpack(image) {
            match unpacked {
                Ok(tree) => {
                    let lines = tree.differences(scanned);
                    differences.extend(
                        lines
                            .iter()
                            .map(|line| format!("{image} by {name}: {line}")),
                    );
                }
                Err(error) => differences.push(format!("{image} by {name}: {error}")),
            }
        }
        differences
    }
}
