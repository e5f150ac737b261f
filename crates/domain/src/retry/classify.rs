//! The class of an error: whether a retry can help, and when.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// Whether a retry can help, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A retry may help; not before `after`, if the peer named a time.
    Transient {
        /// The wait that the peer asked for.
        after: Option<Duration>,
    },
    /// Waiting for a quota, a server or a window; not a failed attempt.
    Unavailable {
        /// When to retry.
        until: DateTime<Utc>,
    },
    /// A retry cannot help.
    Permanent,
}

impl Class {
    /// A transient failure without a time for the retry.
    pub const TRANSIENT: Self = Self::Transient { after: None };

    /// An outage of a server that all work needs, with no known end.
    ///
    /// Its time is always past; the retries wait with a growing backoff.
    pub const OUTAGE: Self = Self::Unavailable {
        until: DateTime::<Utc>::MIN_UTC,
    };

    /// Returns whether this is an outage without a known end.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        *self == Self::OUTAGE
    }
}

/// Gives the class of an error.
pub trait Classify {
    /// Returns the class of this error; when unsure, transient.
    fn class(&self) -> Class;
}
