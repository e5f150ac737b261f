//! Findings in the formats of other tools: CSV, SARIF 2.1.0 (OASIS, sections 3.13 to 3.49) and CycloneDX 1.6.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sluice_domain::{Finding, Severity};

use super::image_findings::ImageFindings;

/// The first characters by which a spreadsheet takes a cell for a formula.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];
const FINDINGS_HEADER: [&str; 15] = [
    "image",
    "platform",
    "digest",
    "id",
    "severity",
    "severity_source",
    "score",
    "package",
    "installed_version",
    "fixed_version",
    "kind",
    "path",
    "layer",
    "title",
    "url",
];

/// Returns the name of a severity, as scanners write it.
pub(super) const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "CRITICAL",
        Severity::High => "HIGH",
        Severity::Medium => "MEDIUM",
        Severity::Low => "LOW",
        Severity::Unknown => "UNKNOWN",
    }
}

/// Formats rows as CSV (RFC 4180). Names come from images, so a cell that a spreadsheet would take for a formula gets an
/// apostrophe before it.
pub(super) fn csv(header: &[&str], rows: Vec<Vec<String>>) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header)?;
    for row in rows {
        let cells = row.into_iter().map(|cell| {
            if cell.starts_with(FORMULA) {
                format!("'{cell}")
            } else {
                cell
            }
        });
        writer.write_record(cells)?;
    }
    let bytes = writer
        .into_inner()
        .map_err(csv::IntoInnerError::into_error)?;
    Ok(String::from_utf8(bytes)?)
}

/// Formats the findings of an image as CSV, a row for each manifest.
pub(super) fn findings_csv(image: &ImageFindings) -> anyhow::Result<String> {
    let rows = image.manifests.iter().flat_map(|manifest| {
        manifest.findings.iter().map(|finding| {
            vec![
                image.name.clone(),
                manifest.child.platform.clone(),
                manifest.child.digest.clone(),
                finding.id.clone(),
                severity(finding.severity).to_owned(),
                finding.severity_source.clone(),
                finding
                    .score
                    .map(|score| score.to_string())
                    .unwrap_or_default(),
                finding.package.clone(),
                finding.installed_version.clone(),
                finding.fixed_version.clone(),
                finding.kind.clone(),
                finding.path.clone(),
                finding.layer.clone(),
                finding.title.clone(),
                finding.url.clone(),
            ]
        })
    });
    csv(&FINDINGS_HEADER, rows.collect())
}

/// Formats the findings of an image as one SARIF run: a rule for each vulnerability, a result for each finding.
pub(super) fn sarif(image: &ImageFindings) -> Value {
    let mut rules = BTreeMap::new();
    let mut results = Vec::new();
    for manifest in &image.manifests {
        for finding in &manifest.findings {
            rules
                .entry(finding.id.as_str())
                .or_insert_with(|| rule(finding));
            results.push(result(image, &manifest.child.platform, finding));
        }
    }
    let verdict = image.manifests.iter().find_map(|one| one.verdict.as_ref());
    let scanner = verdict.map(|one| format!("{} {}", one.scanner, one.scanner_version));
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "Sluice",
                "version": env!("CARGO_PKG_VERSION"),
                "properties": { "scanner": scanner },
                "rules": rules.into_values().collect::<Vec<Value>>(),
            } },
            // What no scan covers has no results, which must not close those of before.
            "invocations": [{ "executionSuccessful": image.uncovered().next().is_none() }],
            "results": results,
        }],
    })
}

fn rule(finding: &Finding) -> Value {
    let title = if finding.title.is_empty() {
        &finding.id
    } else {
        &finding.title
    };
    let mut rule = json!({
        "id": finding.id,
        "shortDescription": { "text": title },
        "defaultConfiguration": { "level": level(finding.severity) },
        // A string: code scanning services read the score from it.
        "properties": { "security-severity": score(finding).to_string(), "tags": ["security", "vulnerability"] },
    });
    if let (false, Some(rule)) = (finding.url.is_empty(), rule.as_object_mut()) {
        rule.insert("helpUri".to_owned(), json!(finding.url));
    }
    rule
}

fn result(image: &ImageFindings, platform: &str, finding: &Finding) -> Value {
    let fixed = match finding.fixed_version.as_str() {
        "" => "no version fixes it".to_owned(),
        fixed => format!("fixed in {fixed}"),
    };
    let Finding {
        id,
        package,
        installed_version,
        path,
        ..
    } = finding;
    let place = if path.is_empty() { &image.name } else { path };
    json!({
        "ruleId": id,
        "level": level(finding.severity),
        "message": { "text": format!("{package} {installed_version} has {id} ({}); {fixed}", severity(finding.severity)) },
        "locations": [{
            "physicalLocation": { "artifactLocation": { "uri": uri(place) } },
            "message": { "text": format!("{} {platform}", image.name) },
        }],
        // A finding is the same one in the next scan although the version of the package changed.
        "partialFingerprints": { "finding/v1": format!("{id}|{package}|{path}|{platform}") },
    })
}

/// Encodes a path of an image as a relative reference (RFC 3986, section 4.2).
fn uri(path: &str) -> String {
    let encoded: String = url::form_urlencoded::byte_serialize(path.as_bytes()).collect();
    encoded.replace("%2F", "/").replace('+', "%20")
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical | Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low | Severity::Unknown => "note",
    }
}

/// Returns the score, or where there is none the lowest of its severity (CVSS 3.1, section 5).
fn score(finding: &Finding) -> f64 {
    finding.score.unwrap_or(match finding.severity {
        Severity::Critical => 9.0,
        Severity::High => 7.0,
        Severity::Medium => 4.0,
        Severity::Low => 0.1,
        Severity::Unknown => 0.0,
    })
}

/// Adds the vulnerabilities to a bill of materials, each with the components that it affects.
pub(super) fn with_vulnerabilities(mut bill: Value, findings: &[Finding]) -> Value {
    let mut by_id: BTreeMap<&str, (&Finding, Vec<Value>)> = BTreeMap::new();
    for finding in findings {
        let (_, affected) = by_id
            .entry(&finding.id)
            .or_insert_with(|| (finding, Vec::new()));
        let references = references(&bill, finding);
        for reference in references {
            let versions = [json!({ "version": finding.installed_version, "status": "affected" })];
            let component = json!({ "ref": reference, "versions": versions });
            // A component is affected once, whatever number of files have it.
            if !affected.contains(&component) {
                affected.push(component);
            }
        }
    }
    let vulnerabilities: Vec<Value> = by_id
        .into_iter()
        .map(|(id, (finding, affected))| {
            let mut rating = json!({ "severity": finding.severity.as_str() });
            if let Some(rating) = rating.as_object_mut() {
                if !finding.severity_source.is_empty() {
                    rating.insert("source".to_owned(), json!({ "name": finding.severity_source }));
                }
                rating.extend(finding.score.map(|score| ("score".to_owned(), json!(score))));
            }
            let advisories = Some(&finding.url).filter(|url| !url.is_empty());
            json!({
                "id": id, "description": finding.title, "ratings": [rating],
                "advisories": advisories.into_iter().map(|url| json!({ "url": url })).collect::<Vec<_>>(),
                "affects": affected,
            })
        })
        .collect();
    if let Some(bill) = bill.as_object_mut() {
        bill.insert("vulnerabilities".to_owned(), json!(vulnerabilities));
    }
    bill
}

/// Returns the components of a finding, by package URL and file; the image where there is none.
fn references(bill: &Value, finding: &Finding) -> Vec<Value> {
    let has_path = |component: &&Value| {
        let properties = component["properties"].as_array().into_iter().flatten();
        let mut paths = properties.filter(|property| {
            property["name"]
                .as_str()
                .is_some_and(|name| name.ends_with(":FilePath"))
        });
        finding.path.is_empty()
            || paths
                .next()
                .is_none_or(|path| path["value"] == finding.path.as_str())
    };
    let components = bill["components"].as_array().into_iter().flatten();
    let same =
        components.filter(|one| !finding.purl.is_empty() && one["purl"] == finding.purl.as_str());
    let found: Vec<Value> = same
        .filter(has_path)
        .map(|component| component["bom-ref"].clone())
        .collect();
    if found.is_empty() {
        let image = bill.pointer("/metadata/component/bom-ref");
        return image.cloned().into_iter().collect();
    }
    found
}

#[cfg(test)]
mod tests {
    use sluice_events::wire::state::ImageChild;

    use super::super::image_findings::Scanned;
    use super::*;

    fn finding(package: &str, path: &str) -> Finding {
        Finding {
            id: "CVE-2026-1".to_owned(),
            package: package.to_owned(),
            installed_version: "1.0".to_owned(),
            severity: Severity::High,
            score: Some(7.5),
            purl: format!("pkg:npm/{package}@1.0"),
            path: path.to_owned(),
            ..Finding::default()
        }
    }

    fn image(findings: Vec<Finding>) -> ImageFindings {
        ImageFindings {
            name: "hub/app:1.0".to_owned(),
            digest: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
            manifests: vec![Scanned {
                child: ImageChild {
                    platform: "linux/amd64".to_owned(),
                    ..ImageChild::default()
                },
                verdict: None,
                findings,
            }],
        }
    }

    #[test]
    fn a_package_name_is_no_formula_in_a_spreadsheet() {
        let hostile = finding("=HYPERLINK(\"http://x\",\"a,b\")", "a\nb");
        let written = findings_csv(&image(vec![hostile])).unwrap();
        assert!(
            written.contains("\"'=HYPERLINK(\"\"http://x\"\",\"\"a,b\"\")\""),
            "{written}"
        );
        let mut reader = csv::Reader::from_reader(written.as_bytes());
        let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 1);
        assert_eq!(&rows[0][11], "a\nb");
    }

    #[test]
    fn sarif_has_a_rule_for_each_vulnerability_and_a_result_for_each_finding() {
        let written = sarif(&image(vec![finding("a", "usr/a b"), finding("c", "")]));
        let run = &written["runs"][0];
        assert_eq!(run["tool"]["driver"]["rules"].as_array().unwrap().len(), 1);
        let results = run["results"].as_array().unwrap();
        let uri = |number: usize| {
            let location = &results[number]["locations"][0]["physicalLocation"];
            location["artifactLocation"]["uri"].as_str().unwrap()
        };
        assert_eq!([uri(0), uri(1)], ["usr/a%20b", "hub/app%3A1.0"]);
        assert_eq!(results[0]["level"], "error");
    }

    #[test]
    fn a_vulnerability_affects_the_component_at_its_path() {
        let component = |reference: &str, path: &str| {
            json!({
                "bom-ref": reference, "purl": "pkg:npm/a@1.0",
                "properties": [{ "name": "aquasecurity:trivy:FilePath", "value": path }],
            })
        };
        let bill = json!({
            "metadata": { "component": { "bom-ref": "image" } },
            "components": [component("one", "x"), component("two", "y")],
        });
        let affects = |finding: Finding| {
            let bill = with_vulnerabilities(bill.clone(), &[finding]);
            let affects = bill["vulnerabilities"][0]["affects"]
                .as_array()
                .unwrap()
                .clone();
            let references = affects
                .iter()
                .map(|one| one["ref"].as_str().unwrap().to_owned());
            references.collect::<Vec<_>>()
        };
        assert_eq!(affects(finding("a", "y")), ["two"]);
        assert_eq!(affects(finding("a", "")), ["one", "two"]);
        assert_eq!(affects(finding("b", "x")), ["image"]);
    }
}
