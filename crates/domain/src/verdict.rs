//! The verdict of a scanner on one image, as policies evaluate it.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use crate::severity::SeverityCounts;

/// What a scanner found in one image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanFacts {
    /// Findings by severity.
    pub counts: SeverityCounts,
    /// Findings by DTR's buckets.
    pub dtr: DtrCounts,
    /// Findings that a newer package fixes, if the scanner reports them.
    pub fixable: Option<u64>,
    /// Packages that the scanner saw.
    pub packages: u64,
    /// The recognised operating system, as in `debian 12.5`.
    pub os: Option<String>,
    /// Whether the operating system gets no more advisories, so that findings may be missing.
    pub end_of_life: bool,
    /// When the image was last matched against the scanner's database.
    pub scanned_at: Option<DateTime<Utc>>,
}

/// Findings in the buckets of Docker Trusted Registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DtrCounts {
    /// A score of 7 or more.
    pub critical: u64,
    /// A score of 4 to below 7.
    pub major: u64,
    /// A score below 4.
    pub minor: u64,
}

/// The verdict of a scanner on one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildVerdict {
    /// Whether the scanner could read the image.
    pub status: Coverage,
    /// The findings.
    pub scan: ScanFacts,
    /// Why the scanner could not read it, in the scanner's words.
    pub reason: Option<String>,
    /// The kinds of packages that the scanner lists without matching them against vulnerabilities.
    pub unmatched: BTreeSet<String>,
}

/// Whether a scanner could read an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// The scanner read it; with zero packages it still saw nothing.
    Covered,
    /// The scanner does not understand the content.
    Unsupported,
    /// The scan failed.
    Failed,
}

impl ChildVerdict {
    /// Returns the findings if the scanner saw anything at all.
    #[must_use]
    pub fn usable_scan(&self) -> Option<&ScanFacts> {
        (self.status == Coverage::Covered && self.scan.packages > 0).then_some(&self.scan)
    }
}
