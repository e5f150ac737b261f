//! What would happen without the strict reading of layers: scanner and clients, each as it is, disagree.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sluice_tests::clients::{Containerd, Podman, Unpacked};
use sluice_tests::hostile::image::digest;
use sluice_tests::hostile::{self, Case, STATUS, VULNERABLE};
use sluice_tests::{Database, Registry, Upstream, tool};

/// What a program made of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// It took it, and saw nothing vulnerable.
    Clean,
    /// It took it, and saw the vulnerable package database.
    Vulnerable,
    /// It refused it.
    Refused,
}

use Reading::{Clean, Refused, Vulnerable};

/// The readings by Trivy alone, by containerd, and by podman 4.3.
const READINGS: [(&str, [Reading; 3]); 16] = [
    ("c01", [Clean, Clean, Clean]),
    ("c01-evil", [Vulnerable, Vulnerable, Vulnerable]),
    ("c02-zstd", [Clean, Vulnerable, Clean]),
    ("c02-gzip", [Clean, Vulnerable, Clean]),
    ("c02-docker", [Clean, Vulnerable, Clean]),
    ("c03r", [Vulnerable, Clean, Vulnerable]),
    ("c03g", [Vulnerable, Vulnerable, Vulnerable]),
    ("c06", [Clean, Refused, Vulnerable]),
    ("c07c", [Clean, Refused, Vulnerable]),
    ("d02", [Clean, Vulnerable, Vulnerable]),
    ("d04", [Clean, Vulnerable, Vulnerable]),
    ("d06-hard", [Clean, Vulnerable, Vulnerable]),
    ("d01", [Vulnerable, Vulnerable, Refused]),
    ("d08", [Clean, Refused, Refused]),
    ("c10b", [Clean, Refused, Refused]),
    ("c13b", [Refused, Refused, Clean]),
];

/// Lets Trivy scan an image as it would by itself.
fn trivy(cache: &Path, image: &str) -> Reading {
    let output = Command::new(tool("trivy"))
        .args([
            "image",
            "--quiet",
            "--image-src",
            "remote",
            "--insecure",
            "--scanners",
            "vuln",
        ])
        .args([
            "--skip-db-update",
            "--skip-java-db-update",
            "--offline-scan",
            "--cache-backend",
            "memory",
            "--format",
            "json",
        ])
        .arg("--cache-dir")
        .arg(cache)
        .arg(image)
        .output()
        .unwrap();
    if !output.status.success() {
        return Refused;
    }
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = report["Results"].as_array().into_iter().flatten();
    let is_vulnerable = results
        .into_iter()
        .any(|result| result["Vulnerabilities"].is_array());
    if is_vulnerable { Vulnerable } else { Clean }
}

fn client(unpacked: &Unpacked) -> Reading {
    match unpacked {
        Ok(tree) if tree.file(STATUS) == Some(&digest(VULNERABLE.as_bytes())) => Vulnerable,
        Ok(_) => Clean,
        Err(_) => Refused,
    }
}

#[test]
fn a_scanner_and_clients_that_are_left_alone_read_different_packages() {
    let registry = Registry::start();
    let publisher = Upstream::new(&registry.host);
    let cache = tempfile::tempdir().unwrap();
    Database::of("2020-01-02T00:00:00Z").write(cache.path());
    let (containerd, podman) = (Containerd::start(), Podman::new());
    let cases = hostile::all();
    let mut complaints = Vec::new();
    for (id, expected) in READINGS {
        let case: &Case = cases.iter().find(|case| case.id == id).unwrap();
        assert_eq!(case.image.push(&publisher, "case", id), 201);
        let image = format!("{}/case:{id}", registry.host);
        let unpacked = [containerd.unpack(&image), podman.unpack(&image)];
        let readings = [
            trivy(cache.path(), &image),
            client(&unpacked[0]),
            client(&unpacked[1]),
        ];
        if readings != expected {
            complaints.push(format!(
                "{id}: {readings:?} instead of {expected:?}: {:?}",
                unpacked.map(Result::err)
            ));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
