//! Errors of the mirror worker.

use std::time::Duration;

use sluice_domain::{Class, Classify, Repository};
use thiserror::Error;

/// Why an image was not mirrored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A request to the state failed.
    #[error(transparent)]
    State(#[from] sluice_state::Error),
    /// A request to a registry failed.
    #[error(transparent)]
    Registry(#[from] sluice_registry::Error),
    /// The client of an upstream registry cannot be created.
    #[error("registry `{host}` cannot be used: {reason}")]
    Remote {
        /// The registry.
        host: String,
        /// What is wrong with its resource or secrets.
        reason: String,
    },
    /// The time limit is over.
    #[error("not mirrored within {limit:?}")]
    TimedOut {
        /// The time limit.
        limit: Duration,
    },
    /// The repository is a target of promotion.
    #[error("`{repository}` is a target of a promotion policy; images reach it only by promotion")]
    Target {
        /// The repository.
        repository: Repository,
    },
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::State(error) => error.class(),
            Self::Registry(error) => error.class(),
            // A missing secret may be mounted soon.
            Self::Remote { .. } | Self::TimedOut { .. } => Class::TRANSIENT,
            Self::Target { .. } => Class::Permanent,
        }
    }
}
