//! The facts that a condition is evaluated with.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sluice_domain::{Platform, SeverityCounts};
use sluice_events::time_from_wire;
use sluice_events::wire::state::Verdict;

/// What is known when a condition is evaluated.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The tag.
    pub tag: &'a str,
    /// The repository it is in.
    pub repository: &'a str,
    /// The platform of the child image; only for promotion.
    pub platform: Option<&'a Platform>,
    /// The findings. Without them, or with zero packages, `scan` is not declared.
    pub scan: Option<&'a ScanFacts>,
    /// What the image says of itself.
    pub image: &'a ImageFacts,
    /// When the tag came to name this digest here.
    pub updated_at: Option<DateTime<Utc>>,
    /// The time of the decision.
    pub now: DateTime<Utc>,
}

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

/// What an image says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// When it was built.
    pub created: Option<DateTime<Utc>>,
    /// The size of its layers.
    pub size_bytes: Option<u64>,
    /// The labels of its configuration; `None` where they are not known.
    pub labels: Option<BTreeMap<String, String>>,
    /// The platforms of the index, or of the one image.
    pub platforms: Vec<Platform>,
}

impl From<&Verdict> for ScanFacts {
    fn from(verdict: &Verdict) -> Self {
        Self {
            counts: verdict.counts.unwrap_or_default().into(),
            dtr: DtrCounts {
                critical: verdict.dtr_critical,
                major: verdict.dtr_major,
                minor: verdict.dtr_minor,
            },
            fixable: Some(verdict.fixable),
            packages: verdict.packages,
            os: Some(verdict.os.clone()).filter(|os| !os.is_empty()),
            end_of_life: verdict.end_of_life,
            scanned_at: time_from_wire(verdict.scanned_at.as_ref()),
        }
    }
}
