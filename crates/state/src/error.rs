//! Errors of the state.

use chrono::{DateTime, Utc};
use sluice_domain::{Class, Classify};
use thiserror::Error;

/// A failure of the state or of what it describes.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A request to the bus failed.
    #[error(transparent)]
    Bus(#[from] sluice_bus::Error),
    /// A request to a registry failed.
    #[error(transparent)]
    Registry(#[from] sluice_registry::Error),
    /// An entry cannot be read.
    #[error("entry `{key}` cannot be read")]
    Unreadable {
        /// The key of the entry.
        key: String,
        /// The error of the decoder.
        source: prost::DecodeError,
    },
    /// An entry was written by a newer version.
    #[error(
        "entry `{key}` has schema {schema}, which this version does not know; update this service"
    )]
    Newer {
        /// The key of the entry.
        key: String,
        /// The schema of the entry.
        schema: u32,
    },
    /// An entry is too large.
    #[error("entry `{key}` would be {size_bytes} bytes; the limit is 262144")]
    TooLarge {
        /// The key of the entry.
        key: String,
        /// The encoded size.
        size_bytes: usize,
    },
    /// Another worker holds the claim of the tag.
    #[error("tag `{tag}` is claimed by `{holder}`, which changes it now")]
    Claimed {
        /// The tag with its repository.
        tag: String,
        /// The holder of the claim.
        holder: String,
        /// When to retry.
        until: DateTime<Utc>,
    },
    /// Promotion and deletion are paused.
    #[error("promotion and deletion are paused: {reason}")]
    Paused {
        /// The reason for the pause.
        reason: String,
        /// When to retry.
        until: DateTime<Utc>,
    },
    /// After a restore the registry has a newer digest than the state.
    #[error(
        "tag `{tag}` names another digest than the restored state has; waiting for a poll of its mirror"
    )]
    BehindRegistry {
        /// The tag with its repository.
        tag: String,
        /// When to retry.
        until: DateTime<Utc>,
    },
    /// A stage has pending events, which are likely to do the missing work.
    #[error("waiting: stage `{stage}` has pending events")]
    PendingEvents {
        /// The stage.
        stage: &'static str,
        /// When to retry.
        until: DateTime<Utc>,
    },
    /// Other writers kept changing an entry or a tag.
    #[error("{what} was changed by others during every attempt to write it")]
    TooManyConflicts {
        /// The tag with its repository, or the key of the entry.
        what: String,
    },
    /// A resource cannot be serialised.
    #[error("resource `{key}` cannot be serialised")]
    Resource {
        /// The key of the entry.
        key: String,
        /// The error of the serialiser.
        source: serde_json::Error,
    },
    /// A report cannot be packed or unpacked.
    #[error("report `{key}` is damaged")]
    Report {
        /// The key of the entry.
        key: String,
        /// The error of the decoder.
        source: std::io::Error,
    },
}

impl Error {
    /// Says whether another writer changed the entry first.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Bus(error) if error.is_conflict())
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Bus(error) => error.class(),
            Self::Registry(error) => error.class(),
            Self::Claimed { until, .. }
            | Self::Paused { until, .. }
            | Self::BehindRegistry { until, .. }
            | Self::PendingEvents { until, .. } => Class::Unavailable { until: *until },
            Self::TooManyConflicts { .. } => Class::TRANSIENT,
            Self::Unreadable { .. }
            | Self::Newer { .. }
            | Self::TooLarge { .. }
            | Self::Resource { .. }
            | Self::Report { .. } => Class::Permanent,
        }
    }
}
