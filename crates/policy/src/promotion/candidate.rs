//! The image that policies evaluate: its tag, and its runnable children with the verdicts on them.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, Platform, Repository, Tag};
use sluice_events::wire::state::{Verdict, VerdictStatus};

use crate::condition::{ImageFacts, ScanFacts};

/// An image that policies evaluate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The source repository.
    pub repository: Repository,
    /// The source tag.
    pub tag: Tag,
    /// The digest that the tag names.
    pub digest: Digest,
    /// The runnable images: the one image, or the index's children without attestations.
    pub children: Vec<ChildFacts>,
    /// When this digest was first seen upstream; the soak time counts from here.
    pub first_seen_at: Option<DateTime<Utc>>,
    /// When the tag came to name this digest here; `updated_at` in conditions.
    pub arrived_at: Option<DateTime<Utc>>,
    /// The time of the decision, which templates and conditions use.
    pub decided_at: DateTime<Utc>,
}

/// One runnable image of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildFacts {
    /// Its platform, where the index or its configuration states one.
    pub platform: Option<Platform>,
    /// Its digest.
    pub digest: Digest,
    /// The scanner's verdict, if there is one.
    pub verdict: Option<ChildVerdict>,
    /// What the image says of itself.
    pub image: ImageFacts,
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

impl From<&Verdict> for ChildVerdict {
    /// Reads a stored verdict; one that does not say that it covered the image, or has no counts, counts as a failed scan.
    fn from(verdict: &Verdict) -> Self {
        let mut reason = Some(verdict.reason.clone()).filter(|reason| !reason.is_empty());
        let status = match (verdict.status(), &verdict.counts) {
            (VerdictStatus::Covered, Some(_)) => Coverage::Covered,
            (VerdictStatus::Covered, None) => {
                reason = Some("its result has no counts".to_owned());
                Coverage::Failed
            }
            (VerdictStatus::Unsupported, _) => Coverage::Unsupported,
            (VerdictStatus::Failed | VerdictStatus::Unspecified, _) => Coverage::Failed,
        };
        Self {
            status,
            scan: ScanFacts::from(verdict),
            reason,
            unmatched: verdict.unmatched.iter().cloned().collect(),
        }
    }
}

impl ChildFacts {
    /// Returns the findings if the scanner saw anything at all.
    pub(super) fn usable_scan(&self) -> Option<&ScanFacts> {
        self.verdict.as_ref()?.usable_scan()
    }

    pub(super) fn unmatched(&self) -> impl Iterator<Item = &str> {
        let verdict = self.verdict.iter();
        verdict.flat_map(|verdict| verdict.unmatched.iter().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use sluice_events::wire::events::SeverityCounts;

    use super::*;

    #[test]
    fn a_verdict_that_does_not_say_that_it_covered_the_image_is_none() {
        let counts = Some(SeverityCounts::default());
        for (status, counts, expected) in [
            (VerdictStatus::Covered, counts, Coverage::Covered),
            (VerdictStatus::Covered, None, Coverage::Failed),
            (VerdictStatus::Unspecified, counts, Coverage::Failed),
            (VerdictStatus::Unsupported, counts, Coverage::Unsupported),
            (VerdictStatus::Failed, counts, Coverage::Failed),
        ] {
            let verdict = Verdict {
                status: status.into(),
                counts,
                ..Default::default()
            };
            assert_eq!(ChildVerdict::from(&verdict).status, expected, "{status:?}");
        }
    }
}
