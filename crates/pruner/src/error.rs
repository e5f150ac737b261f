//! Why retention did not run, and which failures are retried.

use chrono::{DateTime, Utc};
use sluice_domain::{Class, Classify, ResourceName};
use thiserror::Error;

/// Why retention did not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The state failed.
    #[error(transparent)]
    State(#[from] sluice_state::Error),
    /// The condition of a policy cannot be compiled.
    #[error("the condition of pruning policy `{policy}` cannot be used: {problems}")]
    Condition {
        /// The name of the policy.
        policy: ResourceName,
        /// What is wrong with the condition.
        problems: String,
    },
    /// The registry cannot be reached.
    #[error("the registry cannot be reached, so nothing is deleted")]
    Unreachable {
        /// When to try again.
        until: DateTime<Utc>,
        /// The failed request.
        source: sluice_registry::Error,
    },
}

impl From<sluice_registry::Error> for Error {
    fn from(error: sluice_registry::Error) -> Self {
        Self::State(error.into())
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::State(error) => error.class(),
            Self::Condition { .. } => Class::Permanent,
            Self::Unreachable { until, .. } => Class::Unavailable { until: *until },
        }
    }
}
