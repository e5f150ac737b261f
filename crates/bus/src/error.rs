//! The errors of the bus, and whether a retry may help.

use async_nats::client::{RequestError, RequestErrorKind};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use chrono::TimeDelta;
use sluice_domain::{Class, Classify};
use thiserror::Error as ThisError;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The delay before a retry after a permission violation: a person has to grant the permission.
const PERMISSION_RETRY_DELAY: TimeDelta = TimeDelta::seconds(60);

/// A failure of the bus.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// The server refused the operation or did not answer.
    #[error("failed to {action} `{what}`")]
    Server {
        /// The operation.
        action: &'static str,
        /// The stream, bucket, key or subject.
        what: String,
        /// The error of the client.
        source: BoxError,
    },
    /// Another writer changed the entry first.
    #[error("entry `{key}` of bucket `{bucket}` was changed by another writer")]
    Conflict {
        /// The bucket.
        bucket: &'static str,
        /// The key.
        key: String,
    },
    /// The stream, message or object does not exist.
    #[error("`{what}` does not exist")]
    Missing {
        /// Its name.
        what: String,
    },
    /// An object is too large to be read into memory.
    #[error("object `{name}` has {size_bytes} bytes, at most {limit_bytes} are read")]
    TooLarge {
        /// Its name.
        name: String,
        /// Its size.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The user lacks a permission.
    #[error(
        "user `{user}` may not use `{subject}` at NATS; `sluice nats-config` writes what each service needs"
    )]
    PermissionViolation {
        /// The user.
        user: String,
        /// The subject that the server refused.
        subject: String,
    },
    /// The server is too old.
    #[error(
        "nats-server `{version}` is too old: 2.14 or newer is needed; older ones ignore settings silently"
    )]
    OldServer {
        /// Its version.
        version: String,
    },
    /// The server cannot reserve the limit of a stream.
    #[error(
        "nats-server keeps no {size} free for `{stream}`: raise `max_file_store` in its configuration (`sluice nats-config` \
         writes one), free room on its disk, or give the stream a lower limit with `--max-bytes {stream}=SIZE`"
    )]
    NoRoom {
        /// The stream.
        stream: String,
        /// Its limit, as in `4GiB`.
        size: String,
    },
    /// A limit is lower than what a stream holds.
    #[error(
        "`{stream}` holds {held_bytes} bytes, more than the limit of {size}: nothing was changed; name a larger one"
    )]
    BelowHeld {
        /// The stream.
        stream: String,
        /// The bytes that it holds.
        held_bytes: u64,
        /// The limit, as in `4GiB`.
        size: String,
    },
    /// A stream or consumer differs from what this version needs.
    #[error("`{what}` is not as this version needs it ({detail}); run `sluice provision`")]
    Topology {
        /// The stream or consumer.
        what: String,
        /// Each setting that differs, with its value and the value that is needed.
        detail: String,
    },
}

/// Why a backend did not carry out an operation.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum BackendError {
    /// The stored revision is not the one that the writer had read.
    #[error("another writer changed it first")]
    Conflict,
    /// Any other failure; the operation may have been carried out.
    #[error(transparent)]
    Failed(#[from] BoxError),
}

impl BackendError {
    pub(crate) fn failed(error: impl Into<BoxError>) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Error> for BackendError {
    fn from(error: Error) -> Self {
        Self::failed(error)
    }
}

impl Error {
    pub(crate) fn server<E>(action: &'static str, what: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<BoxError>,
    {
        let what = what.into();
        move |source| match unwrap_bus_error(source.into()) {
            Ok(error) => error,
            Err(source) => Self::Server {
                action,
                what,
                source,
            },
        }
    }

    /// Says whether nobody received a request.
    pub(crate) fn has_no_responders(&self) -> bool {
        let Self::Server { source, .. } = self else {
            return false;
        };
        let source = source.downcast_ref::<RequestError>();
        source.is_some_and(|error| error.kind() == RequestErrorKind::NoResponders)
    }

    /// Says whether another writer changed the entry first.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

/// Returns the bus error inside a source, which already names its operation and needs no second context.
fn unwrap_bus_error(source: BoxError) -> Result<Error, BoxError> {
    match source.downcast::<Error>() {
        Ok(error) => Ok(*error),
        Err(source) => match source.downcast::<BackendError>() {
            Ok(error) => match *error {
                BackendError::Failed(source) => unwrap_bus_error(source),
                other @ BackendError::Conflict => Err(other.into()),
            },
            Err(source) => Err(source),
        },
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Server { source, .. } if is_too_large(source.as_ref()) => Class::Permanent,
            // An unreachable server says nothing about the work, and neither does a stream that is missing.
            Self::Server { .. } => Class::OUTAGE,
            Self::Conflict { .. } => Class::TRANSIENT,
            // Waiting for a permission is not an attempt: a forgotten permission makes no dead letters.
            Self::PermissionViolation { .. } => Class::Unavailable {
                until: sluice_domain::now() + PERMISSION_RETRY_DELAY,
            },
            Self::Missing { .. }
            | Self::TooLarge { .. }
            | Self::OldServer { .. }
            | Self::NoRoom { .. }
            | Self::BelowHeld { .. }
            | Self::Topology { .. } => Class::Permanent,
        }
    }
}

/// Says whether the server refused a message for its size, which no retry changes.
fn is_too_large(error: &(dyn std::error::Error + 'static)) -> bool {
    error
        .downcast_ref::<PublishError>()
        .is_some_and(|error| error.kind() == PublishErrorKind::MaxPayloadExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_server_is_an_outage_and_an_oversized_message_is_permanent() {
        let failed_publish = |kind: PublishErrorKind| {
            let error = BackendError::failed(PublishError::new(kind));
            Error::server("publish", "x")(error)
        };
        let unreachable = failed_publish(PublishErrorKind::TimedOut);
        assert!(unreachable.class().is_outage());
        let source = std::error::Error::source(&unreachable).map(ToString::to_string);
        assert_eq!(
            source.as_deref(),
            Some("timed out: didn't receive ack in time")
        );
        assert_eq!(
            failed_publish(PublishErrorKind::MaxPayloadExceeded).class(),
            Class::Permanent
        );
        let violation = Error::PermissionViolation {
            user: "poller".to_owned(),
            subject: "$KV.tags.a".to_owned(),
        };
        let class = violation.class();
        assert!(matches!(class, Class::Unavailable { .. }) && !class.is_outage());
    }
}
