//! The verdict on one manifest, and which of two verdicts holds.

use std::cmp::Ordering;

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, Repository};
use sluice_events::time_to_wire;
use sluice_events::wire::events::SeverityCounts as WireCounts;
use sluice_events::wire::state::{FormerReport, Verdict, VerdictStatus, VerifiedLayer};
use sluice_layer::{LayerSummary, RULES_VERSION};
use sluice_state::key::SCANNER;

use crate::report::Summary;
use crate::server::Version;

/// How many reports are kept besides the newest.
const FORMER_REPORTS: usize = 2;

/// One manifest to scan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Image<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) digest: &'a Digest,
    pub(crate) platform: &'a str,
}

/// A report with what was read of it.
pub(crate) struct Scanned {
    pub(crate) summary: Summary,
    /// What in it the database knows nothing of.
    pub(crate) unknown: Option<String>,
    /// What was seen in the layers and is not in the report.
    pub(crate) incomplete: Option<String>,
    /// Kinds of packages that are never matched.
    pub(crate) unmatched: Vec<String>,
    /// The layers in their order.
    pub(crate) layers: Vec<VerifiedLayer>,
    pub(crate) report_key: String,
    pub(crate) sbom_key: String,
}

pub(crate) fn blank(image: Image<'_>, version: &Version) -> Verdict {
    Verdict {
        digest: image.digest.to_string(),
        platform: image.platform.to_owned(),
        scanner: SCANNER.to_owned(),
        scanner_version: version.scanner.clone(),
        database_version: version.database_text(),
        counts: Some(WireCounts::default()),
        scanned_at: Some(time_to_wire(Utc::now())),
        ..Default::default()
    }
}

pub(crate) fn unsupported(blank: Verdict, reason: String) -> Verdict {
    Verdict {
        status: VerdictStatus::Unsupported.into(),
        reason,
        ..blank
    }
}

pub(crate) fn told(blank: Verdict, scanned: Scanned) -> Verdict {
    let summary = scanned.summary;
    let (status, reason) = if let Some(incomplete) = scanned.incomplete {
        let reason = format!("the report is incomplete: {incomplete}");
        (VerdictStatus::Unsupported, reason)
    } else if !summary.covers() {
        (VerdictStatus::Unsupported, summary.uncovered())
    } else if let Some(unknown) = scanned.unknown {
        let reason = format!(
            "the vulnerability database knows nothing of {unknown}, so no finding there says nothing"
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
        os: summary.os,
        end_of_life: summary.end_of_life,
        report_key: scanned.report_key,
        sbom_key: scanned.sbom_key,
        unmatched: scanned.unmatched,
        layers: scanned.layers,
        ..blank
    }
}

/// Returns the reports that are kept besides that of a verdict: those of the two before it.
pub(crate) fn former(before: Verdict, next: &Verdict) -> Vec<FormerReport> {
    let last = FormerReport {
        report_key: before.report_key,
        sbom_key: before.sbom_key,
    };
    let is_other = |former: &FormerReport| {
        !former.report_key.is_empty() && former.report_key != next.report_key
    };
    let all = [last].into_iter().chain(before.former_reports);
    all.filter(is_other).take(FORMER_REPORTS).collect()
}

/// Describes a layer that was verified.
pub(crate) fn layer(summary: &LayerSummary) -> VerifiedLayer {
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

/// Says whether the scanner came to an end with it, after its layers were verified by today's rules.
pub(crate) fn usable(verdict: &Verdict) -> bool {
    let is_current = |layer: &VerifiedLayer| layer.rules_version == RULES_VERSION;
    match verdict.status() {
        // One that a version before wrote has none.
        VerdictStatus::Covered => {
            !verdict.layers.is_empty() && verdict.layers.iter().all(is_current)
        }
        VerdictStatus::Unsupported => verdict.layers.iter().all(is_current),
        VerdictStatus::Failed | VerdictStatus::Unspecified => false,
    }
}

/// Says whether a verdict need not be found anew: it is from the same scanner and database, or from a newer database.
pub(crate) fn holds(verdict: &Verdict, version: &Version) -> bool {
    usable(verdict)
        && match compare(&verdict.database_version, &version.database_text()) {
            Age::Newer => true,
            Age::Same => verdict.scanner_version == version.scanner,
            Age::Older => false,
        }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    Newer,
    Same,
    Older,
}

/// Compares the database of an entry with ours; one that is not told counts as older.
pub(crate) fn compare(theirs: &str, ours: &str) -> Age {
    let time = |text: &str| text.parse::<DateTime<Utc>>().ok();
    match time(theirs).cmp(&time(ours)) {
        Ordering::Greater => Age::Newer,
        Ordering::Equal => Age::Same,
        Ordering::Less => Age::Older,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATABASE: &str = "2026-11-02T00:00:00Z";

    fn verdict(status: VerdictStatus, database: &str, scanner: &str) -> Verdict {
        Verdict {
            status: status.into(),
            database_version: database.to_owned(),
            scanner_version: scanner.to_owned(),
            layers: vec![verified(RULES_VERSION)],
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
    fn a_verdict_without_verified_layers_or_by_other_rules_does_not_hold() {
        let version = Version {
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
            assert_eq!(holds(&verdict, &version), expected, "{verdict:?}");
        }
        // What is not an image was not read any further.
        let unsupported = Verdict {
            layers: vec![],
            ..verdict(VerdictStatus::Unsupported, DATABASE, "0.59.1")
        };
        assert!(holds(&unsupported, &version));
    }

    #[test]
    fn a_verdict_holds_while_no_newer_database_is_here() {
        let version = Version {
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
            assert_eq!(holds(&verdict, &version), expected, "{verdict:?}");
        }
    }

    #[test]
    fn an_image_without_packages_or_of_an_unknown_system_is_unsupported_whatever_was_counted() {
        let scanned = |packages| Scanned {
            unknown: None,
            incomplete: None,
            unmatched: vec!["conda-pkg".to_owned()],
            layers: vec![verified(RULES_VERSION)],
            summary: Summary {
                os: "debian 12".to_owned(),
                packages,
                ..Summary::default()
            },
            report_key: "report".to_owned(),
            sbom_key: String::new(),
        };
        let verdict = told(Verdict::default(), scanned(1));
        assert_eq!(verdict.status(), VerdictStatus::Covered);
        assert_eq!(verdict.unmatched, ["conda-pkg"]);
        let incomplete = Scanned {
            incomplete: Some("the database is a link".to_owned()),
            ..scanned(1)
        };
        let verdict = told(Verdict::default(), incomplete);
        assert_eq!(verdict.status(), VerdictStatus::Unsupported);
        assert!(verdict.reason.contains("incomplete"));
        let unknown = Scanned {
            unknown: Some("`debian 12`".to_owned()),
            ..scanned(1)
        };
        let verdict = told(Verdict::default(), unknown);
        assert_eq!(verdict.status(), VerdictStatus::Unsupported);
        assert!(verdict.reason.contains("`debian 12`"));
        let verdict = told(Verdict::default(), scanned(0));
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
            next.former_reports = former(before, &next);
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
