//! What can go wrong with the state.

use chrono::{DateTime, Utc};
use sluice_domain::{Class, Classify};
use thiserror::Error;

/// A failure of the state or of what it describes.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] sluice_bus::Error),
    /// A registry failed.
    #[error(transparent)]
    Registry(#[from] sluice_registry::Error),
    /// An entry cannot be read.
    #[error("entry `{key}` cannot be read")]
    Unreadable {
        /// Its key.
        key: String,
        /// What protobuf says.
        source: prost::DecodeError,
    },
    /// An entry was written by a newer version.
    #[error(
        "entry `{key}` has schema {schema}, which this version does not know; update this service"
    )]
    Newer {
        /// Its key.
        key: String,
        /// Its schema.
        schema: u32,
    },
    /// An entry is too large.
    #[error("entry `{key}` would be {size_bytes} bytes; the limit is 262144")]
    TooLarge {
        /// Its key.
        key: String,
        /// Its size.
        size_bytes: usize,
    },
    /// Somebody else is changing the tag.
    #[error("tag `{tag}` is being changed by `{holder}`")]
    Claimed {
        /// The tag with its repository.
        tag: String,
        /// Who holds the claim.
        holder: String,
        /// When to look again.
        until: DateTime<Utc>,
    },
    /// Nothing is promoted or deleted now.
    #[error("promotion and deletion are paused: {reason}")]
    Paused {
        /// Why.
        reason: String,
        /// When to look again.
        until: DateTime<Utc>,
    },
    /// After a restore the registry holds something newer than the state knows of.
    #[error("`{tag}` names another digest than the restored state says; its source is asked first")]
    Behind {
        /// The tag with its repository.
        tag: String,
        /// When to look again.
        until: DateTime<Utc>,
    },
    /// A stage's events wait, which come before the search for what is missing.
    #[error("stage `{stage}` works on its events first")]
    EventsFirst {
        /// The stage.
        stage: &'static str,
        /// When to look again.
        until: DateTime<Utc>,
    },
    /// The tag could not be brought to rest.
    #[error("tag `{tag}` kept changing while it was written")]
    TooManyConflicts {
        /// The tag with its repository.
        tag: String,
    },
    /// A resource has no stored form.
    #[error("resource `{key}` cannot be stored")]
    Resource {
        /// Its key.
        key: String,
        /// What JSON says.
        source: serde_json::Error,
    },
    /// A report cannot be packed or unpacked.
    #[error("report `{key}` is damaged")]
    Report {
        /// Its key.
        key: String,
        /// What the decoder says.
        source: std::io::Error,
    },
}

impl Error {
    /// Says whether somebody else changed the entry first.
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
            | Self::Behind { until, .. }
            | Self::EventsFirst { until, .. } => Class::Unavailable { until: *until },
            Self::TooManyConflicts { .. } => Class::TRANSIENT,
            Self::Unreadable { .. }
            | Self::Newer { .. }
            | Self::TooLarge { .. }
            | Self::Resource { .. }
            | Self::Report { .. } => Class::Permanent,
        }
    }
}
