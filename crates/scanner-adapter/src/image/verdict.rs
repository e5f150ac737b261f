//! The verdict on one manifest: covered, unsupported or failed; which of two verdicts counts, and when a newer database makes
//! one outdated.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, ManifestFindings, Repository};
use sluice_events::time_to_wire;
use sluice_events::wire::events::SeverityCounts as WireCounts;
use sluice_events::wire::state::{FormerReport, Verdict, VerdictStatus, VerifiedLayer};
use sluice_layer::{LayerSummary, RULES_VERSION};
use sluice_state::key::SCANNER;

use crate::scanner::{ScanReport, ScannerVersion};

/// How many reports are kept besides the newest.
const MAX_FORMER_REPORTS: usize = 2;
/// The longest list of search terms in a verdict, in bytes; an index may have a thousand verdicts.
const MAX_TERMS_BYTES: usize = 12 << 10;

/// One manifest to scan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ManifestRef<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) digest: &'a Digest,
    pub(crate) platform: &'a str,
}

/// The results of a scan.
pub(crate) struct ScanResult {
    pub(crate) report: ScanReport,
    /// The layers in their order.
    pub(crate) layers: Vec<VerifiedLayer>,
}

/// The terms by which an image is found, each once, in order, one in a line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SearchTerms {
    vulnerability_ids: String,
    package_names: String,
    licenses: String,
    /// Whether a list was left out: it is too long for a verdict, or a term has a line break.
    omitted: bool,
}

impl SearchTerms {
    /// Collects the terms of what was found.
    pub(crate) fn of(found: &ManifestFindings) -> Self {
        let mut omitted = false;
        let mut list = |terms: BTreeSet<&str>| {
            // A name with a line break would be two.
            let is_listable = terms.iter().all(|term| !term.contains(char::is_control));
            let list = terms.into_iter().collect::<Vec<_>>().join("\n");
            if is_listable && list.len() <= MAX_TERMS_BYTES {
                list
            } else {
                omitted = true;
                String::new()
            }
        };
        let packages = || found.packages.iter();
        Self {
            vulnerability_ids: list(found.findings.iter().map(|one| one.id.as_str()).collect()),
            package_names: list(packages().map(|one| one.name.as_str()).collect()),
            licenses: list(
                packages()
                    .flat_map(|one| &one.licenses)
                    .map(String::as_str)
                    .collect(),
            ),
            omitted,
        }
    }
}

/// Returns a verdict without results.
pub(crate) fn empty(manifest: ManifestRef<'_>, version: &ScannerVersion) -> Verdict {
    Verdict {
        digest: manifest.digest.to_string(),
        platform: manifest.platform.to_owned(),
        scanner: SCANNER.to_owned(),
        scanner_version: version.scanner.clone(),
        database_version: version.database_text(),
        counts: Some(WireCounts::default()),
        scanned_at: Some(time_to_wire(Utc::now())),
        ..Default::default()
    }
}

/// Returns the verdict on a manifest that is not scanned, because it breaks a rule or a limit.
pub(crate) fn unsupported(empty: Verdict, reason: String) -> Verdict {
    Verdict {
        status: VerdictStatus::Unsupported.into(),
        reason,
        ..empty
    }
}

/// Returns the verdict on a manifest that was scanned, without the keys of its documents.
pub(crate) fn from_scan(empty: Verdict, result: &ScanResult) -> Verdict {
    let ScanReport {
        findings,
        summary,
        gaps,
        ..
    } = &result.report;
    let terms = SearchTerms::of(findings);
    let (status, reason) = if let Some(incomplete) = &gaps.incomplete {
        let reason = format!("the report is incomplete: {incomplete}");
        (VerdictStatus::Unsupported, reason)
    } else if !summary.covers() {
        (VerdictStatus::Unsupported, summary.uncovered_reason())
    } else if let Some(unknown) = &gaps.unknown {
        let reason = format!(
            "the vulnerability database knows nothing of {unknown}, so a report without findings proves nothing"
        );
        (VerdictStatus::Unsupported, reason)
    } else {
        (VerdictStatus::Covered, String::new())
    };
    let counts = summary.counts;
    Verdict {
        status: status.into(),
        reason,
        counts: Some(WireCounts {
            critical: counts.critical,
            high: counts.high,
            medium: counts.medium,
            low: counts.low,
            unknown: counts.unknown,
        }),
        fixable: summary.fixable,
        dtr_critical: summary.dtr.critical,
        dtr_major: summary.dtr.major,
        dtr_minor: summary.dtr.minor,
        packages: summary.packages,
        os: summary.os.clone(),
        end_of_life: summary.end_of_life,
        vulnerability_ids: terms.vulnerability_ids,
        package_names: terms.package_names,
        licenses: terms.licenses,
        lists_omitted: terms.omitted,
        unmatched: gaps.unmatched.clone(),
        layers: result.layers.clone(),
        ..empty
    }
}

/// Returns the reports that are kept besides that of a verdict: those of the two verdicts before it.
pub(crate) fn former_reports(before: Verdict, next: &Verdict) -> Vec<FormerReport> {
    let last = FormerReport {
        report_key: before.report_key,
        sbom_key: before.sbom_key,
        findings_key: before.findings_key,
    };
    let is_other = |former: &FormerReport| {
        !former.report_key.is_empty() && former.report_key != next.report_key
    };
    let all = [last].into_iter().chain(before.former_reports);
    all.filter(is_other).take(MAX_FORMER_REPORTS).collect()
}

/// Says whether two verdicts have the same status and figures; the findings may differ all the same.
pub(crate) fn has_same_figures(one: &Verdict, other: &Verdict) -> bool {
    let figures = |verdict: &Verdict| {
        (
            (verdict.status, verdict.counts, verdict.fixable),
            (verdict.dtr_critical, verdict.dtr_major, verdict.dtr_minor),
            (verdict.end_of_life, verdict.packages),
        )
    };
    figures(one) == figures(other) && one.os == other.os && one.unmatched == other.unmatched
}

/// Returns the version of the database with which the result last changed, as of a verdict and the one before it. A result
/// that stayed the same keeps its documents.
pub(crate) fn last_change(before: &Verdict, verdict: &Verdict) -> String {
    if has_same_figures(before, verdict) && before.findings_key == verdict.findings_key {
        before.changed_with_database.clone()
    } else {
        verdict.database_version.clone()
    }
}

/// Describes a layer that was verified.
pub(crate) fn verified_layer(summary: &LayerSummary) -> VerifiedLayer {
    VerifiedLayer {
        digest: summary.digest.to_string(),
        media_type: summary.layer_type.as_str().to_owned(),
        diff_id: summary.diff_id.to_string(),
        size_bytes: summary.size_bytes,
        unpacked_bytes: summary.uncompressed_bytes,
        entries: summary.entries,
        rules_version: summary.rules_version,
    }
}

/// Says whether a verdict is the result of a scan, and its layers were verified by today's rules.
pub(crate) fn is_usable(verdict: &Verdict) -> bool {
    let is_current = |layer: &VerifiedLayer| layer.rules_version == RULES_VERSION;
    match verdict.status() {
        // A verdict that an earlier version wrote has no layers, or no findings.
        VerdictStatus::Covered => {
            !verdict.layers.is_empty()
                && !verdict.findings_key.is_empty()
                && verdict.layers.iter().all(is_current)
        }
        VerdictStatus::Unsupported => verdict.layers.iter().all(is_current),
        VerdictStatus::Failed | VerdictStatus::Unspecified => false,
    }
}

/// Says whether a scan would bring no newer verdict: it is by the same scanner and database, or by a newer database.
pub(crate) fn is_current(verdict: &Verdict, version: &ScannerVersion) -> bool {
    is_usable(verdict)
        && match compare_databases(&verdict.database_version, &version.database_text()) {
            Ordering::Greater => true,
            Ordering::Equal => verdict.scanner_version == version.scanner,
            Ordering::Less => false,
        }
}

/// Says whether a verdict is by an older database than this version.
pub(crate) fn is_older(verdict: &Verdict, database_version: &str) -> bool {
    compare_databases(&verdict.database_version, database_version).is_lt()
}

/// Says whether the result changed with this version of the database, or with a later one.
pub(crate) fn has_changed(verdict: &Verdict, database_version: &str) -> bool {
    compare_databases(&verdict.changed_with_database, database_version).is_ge()
}

/// Compares two versions of databases by their time; one that is not given is the oldest.
pub(crate) fn compare_databases(one: &str, other: &str) -> Ordering {
    let time = |text: &str| text.parse::<DateTime<Utc>>().ok();
    time(one).cmp(&time(other))
}

#[cfg(test)]
mod tests {
    use sluice_domain::Package;

    use super::*;
    use crate::scanner::{CoverageGaps, Summary};

    const DATABASE: &str = "2026-11-02T00:00:00Z";

    fn verdict(status: VerdictStatus, database: &str, scanner: &str) -> Verdict {
        Verdict {
            status: status.into(),
            database_version: database.to_owned(),
            scanner_version: scanner.to_owned(),
            layers: vec![verified(RULES_VERSION)],
            findings_key: "findings".to_owned(),
            ..Default::default()
        }
    }

    fn verified(rules_version: u32) -> VerifiedLayer {
        VerifiedLayer {
            rules_version,
            ..Default::default()
        }
    }

    #[test]
    fn a_verdict_without_verified_layers_or_by_other_rules_is_not_current() {
        let version = ScannerVersion {
            scanner: "0.59.1".to_owned(),
            database: DATABASE.parse().unwrap(),
        };
        for (layers, expected) in [
            (vec![], false),
            (vec![verified(RULES_VERSION)], true),
            (
                vec![verified(RULES_VERSION), verified(RULES_VERSION - 1)],
                false,
            ),
        ] {
            let verdict = Verdict {
                layers,
                ..verdict(VerdictStatus::Covered, DATABASE, "0.59.1")
            };
            assert_eq!(is_current(&verdict, &version), expected, "{verdict:?}");
        }
        // Of a manifest that is no image no layer was read.
        let unsupported = Verdict {
            layers: vec![],
            ..verdict(VerdictStatus::Unsupported, DATABASE, "0.59.1")
        };
        assert!(is_current(&unsupported, &version));
    }

    #[test]
    fn a_list_of_terms_that_is_too_long_or_has_line_breaks_in_terms_is_left_out() {
        let package = |name: String| Package {
            name,
            licenses: vec!["MIT".to_owned()],
            ..Package::default()
        };
        let of = |count: usize| {
            let packages = (0..count).map(|number| package(format!("package-{number:08}")));
            SearchTerms::of(&ManifestFindings {
                packages: packages.chain([package("left-pad".to_owned())]).collect(),
                ..ManifestFindings::default()
            })
        };
        let few = of(2);
        assert_eq!(
            few.package_names,
            "left-pad\npackage-00000000\npackage-00000001"
        );
        assert_eq!((few.licenses.as_str(), few.omitted), ("MIT", false));
        let many = of(MAX_TERMS_BYTES / 16);
        assert_eq!((many.package_names.as_str(), many.omitted), ("", true));
        assert_eq!(many.licenses, "MIT");
        let forged = SearchTerms::of(&ManifestFindings {
            packages: vec![package("a\nleft-pad".to_owned())],
            ..ManifestFindings::default()
        });
        assert_eq!((forged.package_names.as_str(), forged.omitted), ("", true));
    }

    #[test]
    fn a_result_changed_with_a_database_or_a_later_one_and_a_first_result_did_not() {
        let newer = "2026-11-03T00:00:00Z";
        let changed_with = |version: &str| Verdict {
            changed_with_database: version.to_owned(),
            ..verdict(VerdictStatus::Covered, newer, "0.59.1")
        };
        assert!(has_changed(&changed_with(newer), newer));
        assert!(has_changed(&changed_with(newer), DATABASE));
        assert!(!has_changed(&changed_with(DATABASE), newer));
        assert!(!has_changed(&changed_with(""), newer));
        // A verdict that changed is not older, so the hourly search does not publish the change again.
        assert!(!is_older(&changed_with(newer), newer));
        assert!(is_older(
            &verdict(VerdictStatus::Covered, DATABASE, "0.59.1"),
            newer
        ));
    }

    #[test]
    fn a_verdict_is_current_until_there_is_a_newer_database() {
        let version = ScannerVersion {
            scanner: "0.59.1".to_owned(),
            database: DATABASE.parse().unwrap(),
        };
        for (status, database, scanner, expected) in [
            (VerdictStatus::Covered, DATABASE, "0.59.1", true),
            (VerdictStatus::Unsupported, DATABASE, "0.59.1", true),
            (
                VerdictStatus::Covered,
                "2026-11-03T00:00:00Z",
                "0.50.0",
                true,
            ),
            (VerdictStatus::Covered, DATABASE, "0.50.0", false),
            (
                VerdictStatus::Covered,
                "2026-11-01T00:00:00Z",
                "0.59.1",
                false,
            ),
            (VerdictStatus::Covered, "", "0.59.1", false),
            (VerdictStatus::Failed, DATABASE, "0.59.1", false),
            (VerdictStatus::Unspecified, DATABASE, "0.59.1", false),
        ] {
            let verdict = verdict(status, database, scanner);
            assert_eq!(is_current(&verdict, &version), expected, "{verdict:?}");
        }
    }

    #[test]
    fn an_image_without_packages_or_of_an_unknown_system_is_unsupported_whatever_was_counted() {
        let gaps = || CoverageGaps {
            unmatched: vec!["conda-pkg".to_owned()],
            ..CoverageGaps::default()
        };
        let scanned = |packages, gaps| ScanResult {
            layers: vec![verified(RULES_VERSION)],
            report: ScanReport {
                bytes: Vec::new(),
                findings: ManifestFindings::default(),
                summary: Summary {
                    os: "debian 12".to_owned(),
                    packages,
                    ..Summary::default()
                },
                gaps,
            },
        };
        let verdict = from_scan(Verdict::default(), &scanned(1, gaps()));
        assert_eq!(verdict.status(), VerdictStatus::Covered);
        assert_eq!(verdict.unmatched, ["conda-pkg"]);
        let incomplete = CoverageGaps {
            incomplete: Some("the database is a link".to_owned()),
            ..gaps()
        };
        let verdict = from_scan(Verdict::default(), &scanned(1, incomplete));
        assert_eq!(verdict.status(), VerdictStatus::Unsupported);
        assert!(verdict.reason.contains("incomplete"));
        let unknown = CoverageGaps {
            unknown: Some("`debian 12`".to_owned()),
            ..gaps()
        };
        let verdict = from_scan(Verdict::default(), &scanned(1, unknown));
        assert_eq!(verdict.status(), VerdictStatus::Unsupported);
        assert!(verdict.reason.contains("`debian 12`"));
        let verdict = from_scan(Verdict::default(), &scanned(0, gaps()));
        assert_eq!(verdict.status(), VerdictStatus::Unsupported);
        assert!(verdict.reason.contains("no packages"));
    }

    #[test]
    fn the_three_newest_reports_of_a_manifest_are_kept_each_once() {
        let next = |before: Verdict, report: &str| {
            let mut next = Verdict {
                report_key: report.to_owned(),
                ..Default::default()
            };
            next.former_reports = former_reports(before, &next);
            next
        };
        let kept = |verdict: &Verdict| -> Vec<String> {
            let former = verdict.former_reports.iter();
            former.map(|former| former.report_key.clone()).collect()
        };
        let mut verdict = next(Verdict::default(), "a");
        assert_eq!(kept(&verdict), [""; 0]);
        for (report, expected) in [
            ("b", ["a"].as_slice()),
            ("c", &["b", "a"]),
            ("d", &["c", "b"]),
            ("d", &["c", "b"]),
            // A scan that failed has none.
            ("", &["d", "c"]),
            ("e", &["d", "c"]),
        ] {
            verdict = next(verdict, report);
            assert_eq!(kept(&verdict), expected, "{report}");
        }
    }
}
