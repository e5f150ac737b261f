//! How a failure is to be handled by whoever delivers the work again.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// Says whether trying again can help, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Trying again may help; not before `after`, if the peer named a time.
    Transient {
        /// The wait that the peer asked for.
        after: Option<Duration>,
    },
    /// Waiting for a quota, a server or a window; not a failed attempt.
    Unavailable {
        /// When to look again.
        until: DateTime<Utc>,
    },
    /// Trying again cannot help.
    Permanent,
}

impl Class {
    /// A failure of which nothing more is known than that it may pass.
    pub const TRANSIENT: Self = Self::Transient { after: None };

    /// Something that everybody needs is away, and nobody knows until when.
    ///
    /// Its time is always past: whoever delivers the work again chooses waits that grow.
    pub const OUTAGE: Self = Self::Unavailable {
        until: DateTime::<Utc>::MIN_UTC,
    };

    /// Says whether something is away without a time at which it is back.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        *self == Self::OUTAGE
    }
}

/// Answers, for an error, how it is to be handled.
pub trait Classify {
    /// Returns the class of this error; when unsure, transient.
    fn class(&self) -> Class;
}
