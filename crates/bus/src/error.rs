//! What can go wrong on the bus.

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use sluice_domain::{Class, Classify};
use thiserror::Error;

use crate::backend::Refusal;
use crate::handler::BoxError;

/// A failure of the bus.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The server refused or did not answer.
    #[error("failed to {action} `{what}`")]
    Server {
        /// What was tried.
        action: &'static str,
        /// On what.
        what: String,
        /// What the client says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Somebody else changed the entry first.
    #[error("entry `{key}` of bucket `{bucket}` was changed by somebody else")]
    Conflict {
        /// The bucket.
        bucket: &'static str,
        /// The key.
        key: String,
    },
    /// There is no such thing.
    #[error("`{what}` does not exist")]
    Missing {
        /// What was looked for.
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
    Denied {
        /// The user.
        user: String,
        /// What was refused.
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
    /// The server has no room for what a stream may take.
    #[error(
        "nats-server keeps no {size} free for `{stream}`: raise `max_file_store` in its configuration (`sluice nats-config` \
         writes one), free room on its disk, or give the stream less, as in `--max-bytes {stream}=1GiB`"
    )]
    NoRoom {
        /// The stream.
        stream: String,
        /// What it may take, as in `4GiB`.
        size: String,
    },
    /// A limit is lower than what a stream holds.
    #[error(
        "`{stream}` holds {held_bytes} bytes, more than the limit of {size}: nothing was changed; name a larger one"
    )]
    BelowHeld {
        /// The stream.
        stream: String,
        /// What it holds.
        held_bytes: u64,
        /// The limit, as in `4GiB`.
        size: String,
    },
    /// A stream or consumer is not as this version needs it.
    #[error("`{what}` is not as this version needs it ({detail}); run `sluice provision`")]
    Topology {
        /// The stream or consumer.
        what: String,
        /// The setting, what it is and what it has to be.
        detail: String,
    },
}

impl Error {
    pub(crate) fn server<E>(action: &'static str, what: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let what = what.into();
        move |source| match own(source.into()) {
            Ok(error) => error,
            Err(source) => Self::Server {
                action,
                what,
                source,
            },
        }
    }

    /// Says whether somebody else changed the entry first.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

/// Finds what already says what was refused; it needs no second telling.
fn own(source: BoxError) -> Result<Error, BoxError> {
    match source.downcast::<Error>() {
        Ok(error) => Ok(*error),
        Err(source) => match source.downcast::<Refusal>() {
            Ok(refusal) => match *refusal {
                Refusal::Failed(source) => own(source),
                other @ Refusal::Conflict => Err(other.into()),
            },
            Err(source) => Err(source),
        },
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Server { source, .. } if is_too_large(source.as_ref()) => Class::Permanent,
            // A server that is away says nothing of the work; a permission or a stream that is missing has to be mended.
            Self::Server { .. } => Class::OUTAGE,
            Self::Conflict { .. } => Class::TRANSIENT,
            Self::Denied { .. } => crate::permission_violations::class(),
            Self::Missing { .. }
            | Self::TooLarge { .. }
            | Self::OldServer { .. }
            | Self::NoRoom { .. }
            | Self::BelowHeld { .. }
            | Self::Topology { .. } => Class::Permanent,
        }
    }
}

/// Says whether something was refused for its size, which waiting does not change.
fn is_too_large(error: &(dyn std::error::Error + 'static)) -> bool {
    error
        .downcast_ref::<PublishError>()
        .is_some_and(|refused| refused.kind() == PublishErrorKind::MaxPayloadExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_answer_is_an_outage_and_a_size_that_is_refused_is_none() {
        let of = |kind: PublishErrorKind| {
            let refusal = Refusal::failed(PublishError::new(kind));
            Error::server("publish", "x")(refusal)
        };
        let away = of(PublishErrorKind::TimedOut);
        assert!(away.class().is_outage());
        let told = std::error::Error::source(&away).map(ToString::to_string);
        assert_eq!(
            told.as_deref(),
            Some("timed out: didn't receive ack in time")
        );
        assert_eq!(
            of(PublishErrorKind::MaxPayloadExceeded).class(),
            Class::Permanent
        );
        let denied = Error::Denied {
            user: "poller".to_owned(),
            subject: "$KV.tags.a".to_owned(),
        };
        assert!(matches!(denied.class(), Class::Unavailable { .. }) && !denied.class().is_outage());
    }
}
