//! The canary: packages with well-known vulnerabilities that every working database finds.
//!
//! Trivy reports no findings and no error over an empty or truncated database, so this comes before any result counts.

use std::path::Path;
use std::time::Duration;

use crate::failure::{Failed, Kind};
use crate::report::Report;
use crate::server::Server;
use crate::trivy::Trivy;

/// A bill of materials of old packages of three ecosystems.
const SBOM: &str = include_str!("canary.cdx.json");
/// How long the matching may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What must be found: at least one of these in each kind of package.
///
/// Several each, because a database may rename or withdraw one; all are old, rated and undisputed.
const KNOWN: [(&str, &[&str]); 3] = [
    (
        "debian",
        &["CVE-2023-4911", "CVE-2024-2961", "CVE-2023-31484"],
    ),
    (
        "python-pkg",
        &[
            "CVE-2019-10906",
            "CVE-2020-28493",
            "CVE-2019-14234",
            "CVE-2019-19844",
        ],
    ),
    (
        "node-pkg",
        &[
            "CVE-2019-10744",
            "CVE-2020-8203",
            "CVE-2021-44906",
            "CVE-2020-7598",
        ],
    ),
];

/// Lets a server match the canary, and refuses it if it misses an ecosystem.
///
/// # Errors
/// A database that does not find what it must, or a server that fails.
pub(crate) async fn check(server: &Server, trivy: &Trivy, work: &Path) -> Result<(), Failed> {
    let broken = |error: std::io::Error| Failed::new(Kind::Unknown, error.to_string());
    let folder = tempfile::tempdir_in(work).map_err(broken)?;
    let (sbom, report) = (
        folder.path().join("canary.cdx.json"),
        folder.path().join("report.json"),
    );
    tokio::fs::write(&sbom, SBOM).await.map_err(broken)?;
    server
        .match_sbom(trivy, folder.path(), &sbom, &report, LIMIT)
        .await?;
    let bytes = tokio::fs::read(&report).await.map_err(broken)?;
    let missing = missing(&bytes)
        .map_err(|error| Failed::new(Kind::DatabaseIncompatible, error.to_string()))?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failed::new(
        Kind::DatabaseIncompatible,
        format!(
            "it does not find well-known vulnerabilities of {}",
            missing.join(", ")
        ),
    ))
}

/// Returns the ecosystems of which nothing known was found.
fn missing(report: &[u8]) -> Result<Vec<&'static str>, crate::report::Unusable> {
    let report = Report::read(report)?;
    let found = |kind: &str, known: &[&str]| {
        report
            .vulnerabilities()
            .any(|(of, id)| of == kind && known.contains(&id))
    };
    Ok(KNOWN
        .into_iter()
        .filter(|(kind, known)| !found(kind, known))
        .map(|(kind, _)| kind)
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn report(found: &[(&str, &str)]) -> Vec<u8> {
        let results: Vec<Value> = found
            .iter()
            .map(|(kind, id)| {
                json!({ "Type": kind, "Vulnerabilities": [{ "VulnerabilityID": id, "PkgName": "a" }] })
            })
            .collect();
        json!({ "SchemaVersion": 2, "Results": results })
            .to_string()
            .into_bytes()
    }

    #[test]
    fn one_known_finding_of_each_ecosystem_is_enough() {
        let all = [
            ("debian", "CVE-2023-4911"),
            ("python-pkg", "CVE-2019-14234"),
            ("node-pkg", "CVE-2020-8203"),
        ];
        assert!(missing(&report(&all)).unwrap().is_empty());
    }

    #[test]
    fn an_ecosystem_without_a_known_finding_is_missing() {
        let all = ["debian", "python-pkg", "node-pkg"];
        assert_eq!(missing(&report(&[])).unwrap(), all);
        let unknown = all.map(|kind| (kind, "CVE-2000-1"));
        assert_eq!(missing(&report(&unknown)).unwrap(), all);
        // A finding counts for its own ecosystem only.
        assert_eq!(missing(&report(&[("npm", "CVE-2019-10744")])).unwrap(), all);
        let two = [("debian", "CVE-2023-4911"), ("node-pkg", "CVE-2020-8203")];
        assert_eq!(missing(&report(&two)).unwrap(), ["python-pkg"]);
    }

    #[test]
    fn the_canary_is_a_bill_of_materials() {
        let sbom: Value = serde_json::from_str(SBOM).unwrap();
        assert_eq!(sbom["bomFormat"], "CycloneDX");
    }
}
