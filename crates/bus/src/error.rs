//! What can go wrong on the bus.

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use sluice_domain::{Class, Classify};
use thiserror::Error;

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
        /// What the client says; a missing permission looks like a timeout here and is logged by its subject.
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
    /// The server is too old.
    #[error(
        "nats-server `{version}` is too old: 2.14 or newer is needed; older ones ignore settings silently"
    )]
    OldServer {
        /// Its version.
        version: String,
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
        move |source| Self::Server {
            action,
            what,
            source: Box::new(ServerFault(source.into())),
        }
    }

    /// Says whether somebody else changed the entry first.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Server { source, .. } if is_too_large(source.as_ref()) => Class::Permanent,
            // A server that is away says nothing of the work; a permission or a stream that is missing has to be mended.
            Self::Server { .. } => Class::OUTAGE,
            Self::Conflict { .. } => Class::TRANSIENT,
            Self::Missing { .. }
            | Self::TooLarge { .. }
            | Self::OldServer { .. }
            | Self::Topology { .. } => Class::Permanent,
        }
    }
}

/// Marks what the client says of the server, so that it is known again inside an error of another crate.
#[derive(Debug, Error)]
#[error(transparent)]
struct ServerFault(Box<dyn std::error::Error + Send + Sync>);

/// Says whether the bus itself failed, however deep in the error that is.
pub(crate) fn is_of_server(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<ServerFault>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Says whether something was refused for its size, which waiting does not change.
fn is_too_large(error: &(dyn std::error::Error + 'static)) -> bool {
    let fault = error.downcast_ref::<ServerFault>();
    let refused = fault.and_then(|fault| fault.0.downcast_ref::<PublishError>());
    refused.is_some_and(|refused| refused.kind() == PublishErrorKind::MaxPayloadExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Error)]
    #[error(transparent)]
    struct Wrapped(#[from] Error);

    #[test]
    fn the_bus_is_known_again_inside_other_errors_and_a_size_is_no_outage() {
        let of =
            |source: PublishErrorKind| Error::server("publish", "x")(PublishError::new(source));
        let away = of(PublishErrorKind::TimedOut);
        assert!(away.class().is_outage());
        let told = std::error::Error::source(&away).map(ToString::to_string);
        assert_eq!(
            told.as_deref(),
            Some("timed out: didn't receive ack in time")
        );
        assert!(is_of_server(&Wrapped(away)));
        let missing = Error::Missing {
            what: "x".to_owned(),
        };
        assert!(!is_of_server(&Wrapped(missing)));
        assert_eq!(
            of(PublishErrorKind::MaxPayloadExceeded).class(),
            Class::Permanent
        );
    }
}
