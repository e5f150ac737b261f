//! Reports that are right, wrong and strange.

use serde_json::{Value, json};

use super::*;

const CONFIG: &str = "sha256:c0";

fn report(os: Value, results: Value) -> Value {
    json!({
        "SchemaVersion": 2, "ArtifactName": "r/app@sha256:d0", "ArtifactType": "container_image",
        "Metadata": { "OS": os, "ImageID": CONFIG, "RepoDigests": ["r/app@sha256:index"] },
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

fn read(report: &Value) -> Result<Summary, Unusable> {
    Report::read(report.to_string().as_bytes())?.of_image(CONFIG)
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
        // Whoever rated the severity comes before NVD, and NVD before the others.
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
fn a_finding_that_is_told_twice_counts_once_and_as_the_worse() {
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
        assert!(covered || summary.uncovered().contains("Trivy recognised"));
    }
    // An empty report has no `Results` at all.
    let mut bare = report(json!(null), json!(null));
    bare.as_object_mut().unwrap().remove("Results");
    assert!(!read(&bare).unwrap().covers());
}

#[test]
fn a_system_without_updates_is_told() {
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
