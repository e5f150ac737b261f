//! The key-value buckets.

use std::time::Duration;

use super::streams::EVENTS_AGE;

/// A key-value bucket.
#[derive(Debug, Clone, Copy)]
pub struct BucketSpec {
    /// Its name.
    pub name: &'static str,
    /// The name of its stream.
    pub stream: &'static str,
    /// The revisions of an entry that are kept.
    pub history: i64,
    /// How long an entry is kept, if not for ever.
    pub max_age: Option<Duration>,
    /// How long the marker of an expired entry is kept; entries may then also have a time to live of their own.
    pub markers: Option<Duration>,
}

/// How long the time of the last pull of an image is kept.
const LAST_PULL_AGE: Duration = Duration::from_secs(400 * 86_400);

macro_rules! bucket {
    ($name:literal) => {
        BucketSpec {
            name: $name,
            stream: concat!("KV_", $name),
            history: 1,
            max_age: None,
            markers: None,
        }
    };
}

/// Every bucket, in the order of a backup.
///
/// An effect is saved before its cause: tags before the decisions that wrote them, decisions before verdicts, verdicts before
/// the reports that they name.
pub const BUCKETS: [BucketSpec; 15] = [
    // The restore guard is written before any other state.
    bucket!("control"),
    // A client that waits for one to end has to see it, although others end right after it.
    BucketSpec {
        history: 10,
        ..bucket!("reconciliations")
    },
    bucket!("endpoints"),
    BucketSpec {
        max_age: Some(EVENTS_AGE),
        ..bucket!("deliveries")
    },
    BucketSpec {
        max_age: Some(LAST_PULL_AGE),
        ..bucket!("pulls")
    },
    bucket!("tags"),
    bucket!("target_images"),
    bucket!("decisions"),
    bucket!("verdicts"),
    bucket!("images"),
    bucket!("upstream"),
    bucket!("budgets"),
    // With more history, the expiry of a lease would uncover the one before it.
    BucketSpec {
        markers: Some(Duration::from_secs(60)),
        ..bucket!("leases")
    },
    BucketSpec {
        max_age: Some(Duration::from_secs(3_600)),
        markers: Some(Duration::from_secs(3_600)),
        ..bucket!("tombstones")
    },
    BucketSpec {
        history: 5,
        ..bucket!("resources")
    },
];
