//! What can go wrong with a registry.

use std::time::Duration;

use reqwest::StatusCode;
use sluice_domain::{Class, Classify};
use thiserror::Error;

/// A failure of a registry, or of an answer that must not be trusted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The registry could not be reached, or the connection broke.
    #[error("failed to {action} `{what}`")]
    Transport {
        /// What was tried.
        action: &'static str,
        /// On what.
        what: String,
        /// What the client says, without its address.
        source: reqwest::Error,
    },
    /// The registry refused.
    #[error("failed to {action} `{what}`: the registry answered {status} {detail}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// On what.
        what: String,
        /// The HTTP status.
        status: StatusCode,
        /// The beginning of its answer.
        detail: String,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// The answer breaks a rule and was not used.
    #[error("the answer for `{what}` cannot be trusted: {reason}")]
    Untrusted {
        /// What was asked for.
        what: String,
        /// The rule.
        reason: String,
    },
    /// The token of a streamed upload was refused; a fresh one is used for the next try.
    #[error("the token for the upload of `{what}` was refused")]
    StaleToken {
        /// What was uploaded.
        what: String,
    },
    /// It does not exist.
    #[error("`{what}` does not exist")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The settings of the registry cannot be used.
    #[error("registry `{host}` cannot be used: {reason}")]
    Settings {
        /// The registry.
        host: String,
        /// What is wrong with them.
        reason: String,
    },
}

impl Error {
    pub(crate) fn transport(
        action: &'static str,
        what: impl ToString,
    ) -> impl FnOnce(reqwest::Error) -> Self {
        let what = what.to_string();
        // The address may be signed; the message names the thing instead.
        move |source| Self::Transport {
            action,
            what,
            source: source.without_url(),
        }
    }

    pub(crate) fn untrusted(what: impl ToString, reason: impl Into<String>) -> Self {
        Self::Untrusted {
            what: what.to_string(),
            reason: reason.into(),
        }
    }

    /// Says whether a quota is used up; never answered by trying at once.
    pub(crate) fn is_quota(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::TOO_MANY_REQUESTS)
    }

    /// Says whether the thing does not exist.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Transport { .. } | Self::StaleToken { .. } => Class::TRANSIENT,
            Self::Refused {
                status,
                retry_after,
                ..
            } => match status.as_u16() {
                429 => Class::Transient {
                    after: Some(retry_after.unwrap_or(Duration::from_secs(60))),
                },
                408 | 500..=599 => Class::Transient {
                    after: *retry_after,
                },
                // A blob that vanished between two requests is answered like this; the next attempt uploads it.
                400 | 404 => Class::TRANSIENT,
                _ => Class::Permanent,
            },
            Self::Untrusted { .. } | Self::NotFound { .. } | Self::Settings { .. } => {
                Class::Permanent
            }
        }
    }
}
