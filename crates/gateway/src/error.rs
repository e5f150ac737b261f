//! Errors of the gateway's messages.

use chrono::{DateTime, TimeDelta, Utc};
use sluice_domain::{Class, Classify};
use thiserror::Error;

/// When a registry that does not answer is asked again.
const UNREACHABLE_RETRY: TimeDelta = TimeDelta::seconds(10);

/// Why a tag was not recorded, or the registry not compared with the state.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(transparent)]
    State(#[from] sluice_state::Error),
    #[error("the registry does not answer")]
    Unreachable {
        until: DateTime<Utc>,
        source: sluice_registry::Error,
    },
    #[error("waiting for registry notifications")]
    WaitingForNotifications { until: DateTime<Utc> },
    #[error("the registry does not show the pushed or deleted tag `{tag}` yet")]
    TagNotVisible { tag: String, until: DateTime<Utc> },
}

impl Error {
    /// Converts an error of the state, which may be one of the registry.
    pub(crate) fn from_state(error: sluice_state::Error) -> Self {
        match error {
            sluice_state::Error::Registry(source) => source.into(),
            other => other.into(),
        }
    }
}

impl From<sluice_registry::Error> for Error {
    fn from(error: sluice_registry::Error) -> Self {
        if error.is_unreachable() || matches!(error.class(), Class::Transient { .. }) {
            return Self::Unreachable {
                until: Utc::now() + UNREACHABLE_RETRY,
                source: error,
            };
        }
        Self::State(error.into())
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::State(error) => error.class(),
            Self::Unreachable { until, .. }
            | Self::WaitingForNotifications { until }
            | Self::TagNotVisible { until, .. } => Class::Unavailable { until: *until },
        }
    }
}
