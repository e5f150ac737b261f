//! The verdict on one manifest, and which of two verdicts holds.

use std::cmp::Ordering;

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, Repository};
use sluice_events::time_to_wire;
use sluice_events::wire::events::SeverityCounts as WireCounts;
use sluice_events::wire::state::{Verdict, VerdictStatus};
use sluice_state::key::SCANNER;

use crate::report::Summary;
use crate::server::Version;

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
    let (status, reason) = if !summary.covers() {
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
        ..blank
    }
}

/// Says whether the scanner came to an end with it.
pub(crate) fn usable(verdict: &Verdict) -> bool {
    matches!(
        verdict.status(),
        VerdictStatus::Covered | VerdictStatus::Unsupported
    )
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
            ..Default::default()
        }
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
            summary: Summary {
                os: "debian 12".to_owned(),
                packages,
                ..Summary::default()
            },
            report_key: "report".to_owned(),
            sbom_key: String::new(),
        };
        assert_eq!(
            told(Verdict::default(), scanned(1)).status(),
            VerdictStatus::Covered
        );
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
}
