//! The canary: packages with well-known vulnerabilities that every working database has.
//!
//! Trivy reports no findings and no error with an empty or truncated database, so this check comes before any scan.

use crate::trivy::failure::{FailureKind, TrivyFailure};
use crate::trivy::program::TrivyProgram;
use crate::trivy::report::{Report, ReportError};
use crate::trivy::server::TrivyServer;

/// A bill of materials of old packages of three ecosystems.
const SBOM: &str = include_str!("canary.cdx.json");

/// The vulnerabilities of each kind of package, of which at least one must be found.
///
/// There are several, because a database may rename or withdraw one; all are old, rated and undisputed.
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

/// Lets a server match the canary.
///
/// # Errors
/// [`FailureKind::DatabaseIncompatible`] for a database that lacks an ecosystem, else the failure of the server.
pub(crate) async fn check(
    server: &TrivyServer,
    program: &TrivyProgram,
) -> Result<(), TrivyFailure> {
    let incompatible =
        |message: String| TrivyFailure::new(FailureKind::DatabaseIncompatible, message);
    let report = server.match_sbom(program, SBOM).await?;
    let missing = missing(&report).map_err(|error| incompatible(error.to_string()))?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(incompatible(format!(
        "it does not find well-known vulnerabilities of {}",
        missing.join(", ")
    )))
}

/// Returns the kinds of packages of which no known vulnerability was found.
fn missing(report: &[u8]) -> Result<Vec<&'static str>, ReportError> {
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
