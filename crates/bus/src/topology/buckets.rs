//! The key-value buckets.

use std::time::Duration;

use super::streams::EVENTS_AGE;

/// A key-value bucket.
#[derive(Debug, Clone, Copy)]
pub struct BucketSpec {
    /// Its name.
    pub name: &'static str,
    /// The revisions of an entry that are kept.
    pub history: i64,
    /// How long an entry is kept, if not for ever.
    pub max_age: Option<Duration>,
    /// How long the marker of an expired entry is kept; entries may then also have a time to live of their own.
    pub markers: Option<Duration>,
}

/// How long the time of the last pull of an image is kept.
const LAST_PULL_AGE: Duration = Duration::from_secs(400 * 86_400);

const fn bucket(name: &'static str, history: i64) -> BucketSpec {
    BucketSpec {
        name,
        history,
        max_age: None,
        markers: None,
    }
}

/// Every bucket.
pub const BUCKETS: [BucketSpec; 15] = [
    bucket("resources", 5),
    bucket("upstream", 1),
    bucket("tags", 1),
    bucket("images", 1),
    bucket("verdicts", 1),
    bucket("decisions", 1),
    bucket("target_images", 1),
    bucket("budgets", 1),
    bucket("endpoints", 1),
    BucketSpec {
        max_age: Some(LAST_PULL_AGE),
        ..bucket("pulls", 1)
    },
    bucket("control", 1),
    // A client that waits for one to end has to see it, although others end right after it.
    bucket("reconciliations", 10),
    BucketSpec {
        max_age: Some(EVENTS_AGE),
        ..bucket("deliveries", 1)
    },
    BucketSpec {
        max_age: Some(Duration::from_secs(3_600)),
        markers: Some(Duration::from_secs(3_600)),
        ..bucket("tombstones", 1)
    },
    // With more history, the expiry of a lease would uncover the one before it.
    BucketSpec {
        markers: Some(Duration::from_secs(60)),
        ..bucket("leases", 1)
    },
];
