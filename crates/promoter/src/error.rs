//! Why the promoter fails, and which failures are retried.

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::Failure;
use sluice_domain::{Class, Classify, now};
use thiserror::Error;

/// How soon a registry that cannot be reached is asked again.
pub(crate) const RETRY_UNREACHABLE_AFTER: TimeDelta = TimeDelta::seconds(10);
/// How soon an image is evaluated again whose decision changed while it was carried out.
const RETRY_STALE_AFTER: TimeDelta = TimeDelta::seconds(2);

/// Why an image was not evaluated or promoted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The state failed.
    #[error(transparent)]
    State(#[from] sluice_state::Error),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] sluice_registry::Error),
    /// The events that follow from a decision could not be published.
    #[error("failed to publish what was decided")]
    Publish {
        /// Why.
        source: Failure,
    },
    /// The registry cannot be reached, so nothing can be said about its tags.
    #[error("the registry cannot be reached, so its tags cannot be checked")]
    Unreachable {
        /// When to try again.
        until: DateTime<Utc>,
        /// The failed request.
        source: sluice_registry::Error,
    },
    /// Some targets could not be compared with the decisions.
    #[error("not every target could be compared with the decisions")]
    IncompleteAudit {
        /// When to try again.
        until: DateTime<Utc>,
    },
    /// A remote registry cannot be promoted into as its resource describes it.
    #[error("registry `{host}` cannot be promoted into: {reason}")]
    Remote {
        /// The registry.
        host: String,
        /// What is missing.
        reason: String,
    },
    /// The stored decision was made by a newer policy than the one that was read.
    #[error("policy `{policy}` was changed while it was read")]
    PolicyChanged {
        /// The name of the policy.
        policy: String,
    },
    /// The decision changed while it was carried out.
    #[error("the decision on the image changed while it was carried out")]
    StaleDecision {
        /// When to evaluate the image again.
        until: DateTime<Utc>,
    },
    /// A stored value cannot be read.
    #[error("{object} is damaged")]
    Damaged {
        /// The object in the state.
        object: String,
    },
}

impl Error {
    /// Makes the error of a decision that changed while it was carried out.
    pub(crate) fn stale_decision() -> Self {
        Self::StaleDecision {
            until: now() + RETRY_STALE_AFTER,
        }
    }

    /// Makes the error of a registry that is asked again soon.
    pub(crate) fn unreachable(source: sluice_registry::Error) -> Self {
        Self::Unreachable {
            until: now() + RETRY_UNREACHABLE_AFTER,
            source,
        }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::State(error) => error.class(),
            Self::Registry(error) => error.class(),
            Self::Publish { source } => source.class(),
            Self::PolicyChanged { .. } => Class::TRANSIENT,
            Self::Unreachable { until, .. }
            | Self::IncompleteAudit { until }
            | Self::StaleDecision { until } => Class::Unavailable { until: *until },
            Self::Damaged { .. } | Self::Remote { .. } => Class::Permanent,
        }
    }
}
