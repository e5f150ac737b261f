//! The errors of a registry and its responses.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::StatusCode;
use sluice_domain::{Class, Classify, ForbiddenAddress, RegistryHost};
use sluice_service::{certificate_fault, error_sources, tls_error};
use thiserror::Error;

/// A failure of a registry, or a response that must not be trusted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The registry could not be reached, or the connection broke.
    #[error("failed to {action} `{object}`")]
    Transport {
        /// The operation.
        action: &'static str,
        /// The manifest, blob, repository or registry.
        object: String,
        /// The error of the HTTP client, without the URL.
        source: reqwest::Error,
    },
    /// The registry shows a certificate that is not trusted, or breaks the rules of TLS.
    #[error(
        "failed to {action} `{object}`: the registry's TLS certificate is not accepted: {reason}"
    )]
    Certificate {
        /// The operation.
        action: &'static str,
        /// The manifest, blob, repository or registry.
        object: String,
        /// The fault of the certificate, and what to do.
        reason: String,
    },
    /// The registry speaks plain HTTP where TLS is expected, or the other way round.
    #[error("failed to {action} `{object}`: `{registry}` {reason}")]
    WrongProtocol {
        /// The operation.
        action: &'static str,
        /// The manifest, blob, repository or registry.
        object: String,
        /// The registry.
        registry: RegistryHost,
        /// The protocol that it speaks, and what to do.
        reason: String,
    },
    /// The registry refuses the client certificate, or requires one.
    #[error(
        "failed to {action} `{object}`: the registry does not accept the client's certificate, or asks for one"
    )]
    ClientCertificate {
        /// The operation.
        action: &'static str,
        /// The manifest, blob, repository or registry.
        object: String,
        /// The TLS alert.
        source: Box<rustls::Error>,
    },
    /// A quota is used up; a request before its end could prolong it.
    #[error(
        "failed to {action} `{object}`: the quota of `{registry}` is used up until {until}: {detail}"
    )]
    Quota {
        /// The operation.
        action: &'static str,
        /// The manifest, blob, repository or registry.
        object: String,
        /// The registry, which may be either end of a copy.
        registry: Box<RegistryHost>,
        /// When to retry.
        until: DateTime<Utc>,
        /// The beginning of the response.
        detail: String,
    },
    /// The registry answered 429 to several attempts.
    #[error("failed to {action} `{object}`: `{registry}` answered 429, too many requests{}: {detail}", asked_wait(*retry_after))]
    TooManyRequests {
        /// The operation.
        action: &'static str,
        /// The manifest, blob, repository or registry.
        object: String,
        /// The registry, which may be either end of a copy.
        registry: Box<RegistryHost>,
        /// How long the registry asks to wait.
        retry_after: Option<Duration>,
        /// The beginning of the response.
        detail: String,
    },
    /// The request budget of the account is used up.
    #[error("no requests to `{object}` until {until}: {reason}")]
    BudgetUsedUp {
        /// The registry.
        object: String,
        /// When to retry.
        until: DateTime<Utc>,
        /// The reason.
        reason: String,
    },
    /// The request budget cannot be read or written, so no request is sent.
    #[error("the request budget of `{object}` is not available")]
    BudgetUnavailable {
        /// The registry.
        object: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The registry answered with an unexpected status.
    #[error("failed to {action} `{object}`: the registry answered {status} {detail}")]
    UnexpectedStatus {
        /// The operation.
        action: &'static str,
        /// The manifest, blob, repository or registry.
        object: String,
        /// The HTTP status.
        status: StatusCode,
        /// The beginning of the response.
        detail: String,
        /// How long the registry asks to wait.
        retry_after: Option<Duration>,
    },
    /// The response breaks a rule and was not used.
    #[error("the answer for `{object}` cannot be trusted: {reason}")]
    Untrusted {
        /// The manifest, blob, repository or registry.
        object: String,
        /// The rule.
        reason: String,
    },
    /// The token of a streamed upload was refused; the retry uses a fresh one.
    #[error("the token for the upload of `{object}` was refused")]
    StaleToken {
        /// The blob.
        object: String,
    },
    /// A transfer was cut and cannot be resumed; the retry starts from the beginning.
    #[error("the transfer of `{object}` was cut: {reason}")]
    Interrupted {
        /// The blob, or the registry.
        object: String,
        /// Why it cannot be resumed.
        reason: &'static str,
    },
    /// A transfer was stalled for too long.
    #[error("the transfer of `{object}` is stalled")]
    Stalled {
        /// The blob, or the registry.
        object: String,
    },
    /// The object does not exist.
    #[error("`{object}` does not exist")]
    NotFound {
        /// The manifest, blob, repository or registry.
        object: String,
    },
    /// A manifest has none of the wanted platforms.
    #[error("`{object}` has none of the platforms {wanted}; it has: {offered}")]
    NoPlatform {
        /// The image or index.
        object: String,
        /// The wanted platforms.
        wanted: String,
        /// The platforms that it has; empty if it names none.
        offered: String,
    },
    /// The credential cannot be read.
    #[error("the credential for registry `{host}` cannot be read: {reason}")]
    Credential {
        /// The registry.
        host: String,
        /// Why.
        reason: String,
    },
    /// The settings of the registry are invalid.
    #[error("registry `{host}` cannot be used: {reason}")]
    Settings {
        /// The registry.
        host: String,
        /// The fault.
        reason: String,
    },
}

impl Error {
    pub(crate) fn transport(
        action: &'static str,
        object: impl ToString,
    ) -> impl FnOnce(reqwest::Error) -> Self {
        let object = object.to_string();
        // The URL may be signed, so the message names the object instead.
        move |source| {
            let fault = tls_error(&source);
            if let Some(reason) = fault.as_ref().and_then(certificate_fault) {
                return Self::Certificate {
                    action,
                    object,
                    reason,
                };
            }
            match (fault.filter(is_client_refusal), forbidden_address(&source)) {
                (Some(fault), _) => Self::ClientCertificate {
                    action,
                    object,
                    source: Box::new(fault),
                },
                (None, Some(reason)) => Self::Untrusted { object, reason },
                (None, None) => Self::Transport {
                    action,
                    object,
                    source: source.without_url(),
                },
            }
        }
    }

    pub(crate) fn untrusted(object: impl ToString, reason: impl Into<String>) -> Self {
        Self::Untrusted {
            object: object.to_string(),
            reason: reason.into(),
        }
    }

    /// Returns the delay after which a retry within the handler may help, as the registry asks; none if it cannot help.
    pub(crate) fn retry_delay(&self) -> Option<Duration> {
        match self {
            // A timeout has taken long enough.
            Self::Transport { source, .. } if source.is_timeout() => None,
            Self::Transport { .. } | Self::StaleToken { .. } | Self::Interrupted { .. } => {
                Some(Duration::ZERO)
            }
            Self::UnexpectedStatus {
                status,
                retry_after,
                ..
            } if matches!(status.as_u16(), 400 | 404 | 408 | 500..=599) => {
                Some(retry_after.unwrap_or_default())
            }
            _ => None,
        }
    }

    /// Returns whether the registry is unreachable, rather than refusing or sending a wrong response.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Interrupted { .. } | Self::Stalled { .. } => true,
            Self::UnexpectedStatus { status, .. } => matches!(status.as_u16(), 408 | 500..=599),
            _ => false,
        }
    }

    /// Returns whether the registry limits the rate of requests, which holds for other requests too.
    #[must_use]
    pub const fn is_rate_limited(&self) -> bool {
        matches!(self, Self::Quota { .. } | Self::TooManyRequests { .. })
    }

    /// Returns whether a transfer must start from the beginning.
    pub(crate) const fn is_interrupted(&self) -> bool {
        matches!(self, Self::Interrupted { .. })
    }

    /// Returns whether the registry may have refused a manifest because it lacks a blob or child of it.
    #[must_use]
    pub fn is_missing_reference(&self) -> bool {
        match self {
            Self::UnexpectedStatus { action, status, .. } => {
                *action == "write" && matches!(status.as_u16(), 400 | 404)
            }
            _ => false,
        }
    }

    /// Returns whether the object does not exist.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            // An outage is no failure of the work, however long it lasts.
            Self::Transport { .. }
            | Self::Interrupted { .. }
            | Self::Stalled { .. }
            | Self::BudgetUnavailable { .. } => Class::OUTAGE,
            // A credential file may be written just now, and a helper may be slow.
            Self::StaleToken { .. } | Self::Credential { .. } => Class::TRANSIENT,
            Self::Quota { until, .. } | Self::BudgetUsedUp { until, .. } => {
                Class::Unavailable { until: *until }
            }
            Self::TooManyRequests { retry_after, .. } => unavailable(*retry_after),
            Self::UnexpectedStatus {
                status,
                retry_after,
                ..
            } => match status.as_u16() {
                408 | 500..=599 => unavailable(*retry_after),
                // The status of a manifest whose blob was deleted meanwhile; the next attempt uploads it.
                400 | 404 => Class::TRANSIENT,
                _ => Class::Permanent,
            },
            Self::Certificate { .. }
            | Self::ClientCertificate { .. }
            | Self::WrongProtocol { .. }
            | Self::Untrusted { .. }
            | Self::NotFound { .. }
            | Self::NoPlatform { .. }
            | Self::Settings { .. } => Class::Permanent,
        }
    }
}

/// Returns the class of an outage, until the time that the registry names.
fn unavailable(retry_after: Option<Duration>) -> Class {
    retry_after.map_or(Class::OUTAGE, |after| Class::Unavailable {
        until: sluice_domain::now() + after,
    })
}

fn asked_wait(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |after| {
        format!(", and asks to wait for {} s", after.as_secs())
    })
}

/// Returns whether the peer refuses the client certificate.
fn is_client_refusal(fault: &rustls::Error) -> bool {
    use rustls::AlertDescription as Alert;
    match fault {
        rustls::Error::AlertReceived(alert) => matches!(
            alert,
            Alert::AccessDenied
                | Alert::BadCertificate
                | Alert::CertificateExpired
                | Alert::CertificateRequired
                | Alert::CertificateRevoked
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::UnsupportedCertificate
        ),
        _ => false,
    }
}

/// Returns the message of an address that the redirect policy forbids.
fn forbidden_address(error: &reqwest::Error) -> Option<String> {
    error_sources(error)
        .find_map(|cause| cause.downcast_ref::<ForbiddenAddress>())
        .map(ToString::to_string)
}
