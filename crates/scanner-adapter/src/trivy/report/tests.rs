//! Reports on the right image, on another one, and malformed ones.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const CONFIG: &str = "sha256:c0";
const DIFF_IDS: [&str; 2] = ["sha256:a0", "sha256:b0"];

fn report(os: Value, results: Value) -> Value {
    json!({
        "SchemaVersion": 2, "ArtifactName": "r/app@sha256:d0", "ArtifactType": "container_image",
        "Metadata": { "OS": os, "ImageID": CONFIG, "DiffIDs": DIFF_IDS, "RepoDigests": ["r/app@sha256:index"] },
        "Results": results,
    })
}

fn debian(vulnerabilities: Value) -> Value {
    report(
        json!({ "Family": "debian", "Name": "12.5" }),
        json!([{
            "Target": "r/app (debian 12.5)", "Class": "os-pkgs", "Type": "debian",
            "Packages": [{ "Name": "libc6" }, { "Name": "libc-bin" }], "Vulnerabilities": vulnerabilities,
        }]),
    )
}

fn read(report: &Value) -> Result<Summary, ReportError> {
    Report::read(report.to_string().as_bytes())?.summary_of(CONFIG, &DIFF_IDS)
}

#[test]
fn findings_are_counted_by_severity() {
    let found = |id: &str, severity: &str| json!({ "VulnerabilityID": id, "PkgName": "libc6", "Severity": severity });
    let summary = read(&debian(json!([
        found("CVE-1", "CRITICAL"),
        found("CVE-2", "HIGH"),
        found("CVE-3", "MEDIUM"),
        found("CVE-4", "LOW"),
        found("CVE-5", "UNKNOWN"),
        found("CVE-6", "dreadful"),
        { "VulnerabilityID": "CVE-7", "PkgName": "libc6" },
    ])))
    .unwrap();
    let counts = SeverityCounts {
        critical: 1,
        high: 1,
        medium: 1,
        low: 1,
        unknown: 3,
    };
    assert_eq!(summary.counts, counts);
    assert_eq!((summary.packages, summary.os.as_str()), (2, "debian 12.5"));
    assert!(summary.covers() && !summary.end_of_life);
}

#[test]
fn dtr_buckets_go_by_score_and_else_by_severity() {
    for (more, expected) in [
        (
            json!({ "Severity": "LOW", "SeveritySource": "nvd", "CVSS": { "nvd": { "V3Score": 7.0 } } }),
            (1, 0, 0),
        ),
        (
            json!({ "Severity": "CRITICAL", "CVSS": { "nvd": { "V3Score": 6.9 } } }),
            (0, 1, 0),
        ),
        (
            json!({ "Severity": "CRITICAL", "CVSS": { "nvd": { "V3Score": 4.0 } } }),
            (0, 1, 0),
        ),
        (
            json!({ "Severity": "CRITICAL", "CVSS": { "nvd": { "V3Score": 3.9 } } }),
            (0, 0, 1),
        ),
        // The source of the severity comes before NVD, and NVD before the others.
        (
            json!({ "SeveritySource": "ghsa", "CVSS": { "ghsa": { "V3Score": 3.0 }, "nvd": { "V3Score": 9.0 } } }),
            (0, 0, 1),
        ),
        (
            json!({ "CVSS": { "redhat": { "V3Score": 9.0 }, "nvd": { "V3Score": 5.0 } } }),
            (0, 1, 0),
        ),
        (
            json!({ "CVSS": { "redhat": { "V3Score": 5.0 }, "other": { "V3Score": 9.0 } } }),
            (1, 0, 0),
        ),
        // Version 3, then 4, then 2; a score of zero is none.
        (
            json!({ "CVSS": { "nvd": { "V2Score": 9.0, "V3Score": 5.0 } } }),
            (0, 1, 0),
        ),
        (
            json!({ "CVSS": { "nvd": { "V2Score": 9.0, "V40Score": 5.0 } } }),
            (0, 1, 0),
        ),
        (
            json!({ "CVSS": { "nvd": { "V2Score": 9.0, "V3Score": 0.0 } } }),
            (1, 0, 0),
        ),
        (json!({ "Severity": "CRITICAL", "CVSS": {} }), (1, 0, 0)),
        (json!({ "Severity": "HIGH" }), (1, 0, 0)),
        (json!({ "Severity": "MEDIUM", "CVSS": null }), (0, 1, 0)),
        (json!({ "Severity": "LOW" }), (0, 0, 1)),
        (json!({ "Severity": "UNKNOWN" }), (0, 0, 0)),
    ] {
        let mut found = json!({ "VulnerabilityID": "CVE-1", "PkgName": "libc6" });
        found
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let dtr = read(&debian(json!([found]))).unwrap().dtr;
        assert_eq!((dtr.critical, dtr.major, dtr.minor), expected, "{more}");
    }
}

#[test]
fn a_finding_that_is_listed_twice_counts_once_and_as_the_worse() {
    let found = |package: &str, path: &str, severity: &str, fixed: &str| {
        json!({ "VulnerabilityID": "CVE-1", "PkgName": package, "PkgPath": path, "InstalledVersion": "1",
            "FixedVersion": fixed, "Severity": severity })
    };
    for (vulnerabilities, total, high, fixable) in [
        (
            json!([found("a", "x", "LOW", ""), found("a", "x", "HIGH", "2")]),
            1,
            1,
            1,
        ),
        (
            json!([found("a", "x", "HIGH", "2"), found("a", "x", "LOW", "")]),
            1,
            1,
            1,
        ),
        (
            json!([found("a", "x", "HIGH", ""), found("a", "y", "HIGH", "2")]),
            2,
            2,
            1,
        ),
        (
            json!([found("a", "", "HIGH", ""), found("b", "", "LOW", "")]),
            2,
            1,
            0,
        ),
    ] {
        let summary = read(&debian(vulnerabilities)).unwrap();
        assert_eq!(
            (summary.counts.total(), summary.counts.high, summary.fixable),
            (total, high, fixable)
        );
    }
}

#[test]
fn only_an_image_in_which_packages_were_seen_is_covered() {
    let os = json!({ "Family": "debian", "Name": "12.5" });
    let block = |class: &str, packages: Value| json!([{ "Class": class, "Packages": packages }]);
    let package = json!([{ "Name": "a" }]);
    for (os, results, covered) in [
        (os.clone(), block("os-pkgs", package.clone()), true),
        (json!(null), block("lang-pkgs", package.clone()), true),
        (os.clone(), block("os-pkgs", json!([])), false),
        (os.clone(), block("os-pkgs", json!(null)), false),
        (os.clone(), json!([]), false),
        (os.clone(), json!(null), false),
        (json!(null), json!(null), false),
        (json!(null), block("os-pkgs", package.clone()), false),
        (
            json!({ "Family": "none" }),
            block("os-pkgs", package.clone()),
            false,
        ),
        (os, block("secret", package), false),
    ] {
        let summary = read(&report(os.clone(), results.clone())).unwrap();
        assert_eq!(summary.covers(), covered, "{os} {results}");
        assert!(
            covered
                || summary
                    .uncovered_reason()
                    .contains("the scanner recognised")
        );
    }
    // An empty report has no `Results` at all.
    let mut bare = report(json!(null), json!(null));
    bare.as_object_mut().unwrap().remove("Results");
    assert!(!read(&bare).unwrap().covers());
}

#[test]
fn a_system_without_updates_is_marked() {
    let mut report = debian(json!([]));
    report["Metadata"]["OS"]["EOSL"] = json!(true);
    assert!(read(&report).unwrap().end_of_life);
}

#[test]
fn a_report_that_may_be_another_one_is_refused() {
    let good = debian(json!([]));
    let with = |path: &str, value: Value| {
        let mut report = good.clone();
        *report.pointer_mut(path).unwrap() = value;
        report
    };
    assert!(read(&good).is_ok());
    for wrong in [
        with("/SchemaVersion", json!(1)),
        with("/SchemaVersion", json!(3)),
        with("/ArtifactType", json!("cyclonedx")),
        with("/Metadata", json!(null)),
        with("/Metadata/ImageID", json!("sha256:other")),
        with("/Metadata/ImageID", json!("")),
        with("/Results", json!("none")),
        with("/Results/0/Vulnerabilities", json!([{}])),
        json!({}),
        json!([]),
    ] {
        assert!(read(&wrong).is_err(), "{wrong}");
    }
    let text = good.to_string();
    let cut = text.get(..text.len() - 9).unwrap();
    assert!(Report::read(cut.as_bytes()).is_err());
    assert!(Report::read(b"").is_err());
}

/// A finding as a scanner, or a manipulated database, could report it.
fn finding() -> impl Strategy<Value = Value> {
    let severity = "(CRITICAL|HIGH|MEDIUM|LOW|UNKNOWN|critical|\\PC{0,6})";
    let score = prop_oneof![any::<f64>(), Just(9.8), Just(0.0)];
    (0..3_u8, 0..3_u8, severity, score, "\\PC{0,5}").prop_map(|(id, package, severity, score, fixed)| {
        json!({
            "VulnerabilityID": format!("CVE-{id}"), "PkgName": format!("p{package}"), "Severity": severity,
            "FixedVersion": fixed, "CVSS": { "nvd": { "V3Score": score } },
        })
    })
}

fn block() -> impl Strategy<Value = Value> {
    let class = "(os-pkgs|lang-pkgs|secret|\\PC{0,4})";
    (class, prop::collection::vec(finding(), 0..6), 0..4_usize).prop_map(|(class, found, packages)| {
        json!({ "Target": "x", "Class": class, "Type": "jar", "Packages": vec![json!({}); packages], "Vulnerabilities": found })
    })
}

proptest! {
    #[test]
    fn every_finding_of_any_report_is_counted_once(blocks in prop::collection::vec(block(), 0..4)) {
        let seen: BTreeSet<String> = blocks
            .iter()
            .flat_map(|block| block["Vulnerabilities"].as_array().unwrap())
            .map(|found| format!("{}{}", found["VulnerabilityID"], found["PkgName"]))
            .collect();
        let text = report(Value::Null, Value::from(blocks)).to_string();
        let summary = Report::read(text.as_bytes()).unwrap().summary_of(CONFIG, &DIFF_IDS).unwrap();
        let SeverityCounts { critical, high, medium, low, unknown } = summary.counts;
        prop_assert_eq!(critical + high + medium + low + unknown, seen.len() as u64);
        let DtrCounts { critical, major, minor } = summary.dtr;
        prop_assert!(critical + major + minor <= seen.len() as u64);
        prop_assert!(summary.fixable <= seen.len() as u64);
        // Without a system and without packages of a language it is never a clean result.
        prop_assert_eq!(summary.covers(), !summary.languages.is_empty());
    }

    #[test]
    fn a_report_that_is_cut_or_of_another_image_is_never_a_result(blocks in prop::collection::vec(block(), 0..3), cut in any::<prop::sample::Index>(), junk in any::<u8>()) {
        let mut bytes = report(Value::Null, Value::from(blocks)).to_string().into_bytes();
        let read = |bytes: &[u8], config: &str| Report::read(bytes).and_then(|report| report.summary_of(config, &DIFF_IDS));
        prop_assert!(read(&bytes, "sha256:other").is_err());
        let place = cut.index(bytes.len());
        prop_assert!(read(&bytes[..place], CONFIG).is_err());
        bytes[place] = junk;
        drop(read(&bytes, CONFIG));
        drop(read(&bytes[place..], CONFIG));
    }
}

#[test]
fn a_report_about_other_layers_than_those_that_were_verified_is_refused() {
    let right = debian(json!([]));
    assert!(read(&right).is_ok());
    for wrong in [
        json!(null),
        json!([]),
        json!(["sha256:a0"]),
        json!(["sha256:b0", "sha256:a0"]),
        json!(["sha256:a0", "sha256:a0"]),
        json!(["sha256:a0", "sha256:b0", "sha256:c0"]),
    ] {
        let mut report = right.clone();
        report["Metadata"]["DiffIDs"] = wrong;
        assert!(
            matches!(read(&report), Err(ReportError::OtherLayers)),
            "{report}"
        );
    }
    let mut without = right;
    without["Metadata"]
        .as_object_mut()
        .unwrap()
        .remove("DiffIDs");
    assert!(matches!(read(&without), Err(ReportError::OtherLayers)));
}

#[test]
fn a_report_that_cannot_be_used_is_retried() {
    use sluice_domain::{Class, Classify as _};
    let error = Error::from(ReportError::NoMetadata);
    assert_eq!(error.class(), Class::TRANSIENT);
    assert!(!error.is_scanner_outage());
}
