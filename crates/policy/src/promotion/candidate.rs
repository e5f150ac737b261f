//! The image that policies evaluate: its tag, and its runnable children with the verdicts on them.

use chrono::{DateTime, Utc};
use sluice_domain::{ChildVerdict, Digest, Platform, Repository, ScanFacts, Tag};

use crate::condition::ImageFacts;

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
