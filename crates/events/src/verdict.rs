//! A stored verdict as policies evaluate it.

use sluice_domain::{ChildVerdict, Coverage, DtrCounts, ScanFacts};

use crate::convert::time_from_wire;
use crate::wire::state::{Verdict, VerdictStatus};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::events::SeverityCounts;

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
