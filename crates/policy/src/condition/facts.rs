//! The facts that a condition is evaluated with.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sluice_domain::{Platform, ScanFacts};

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
