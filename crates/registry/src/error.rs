//! What can go wrong with a registry.

use std::error::Error as _;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::StatusCode;
use sluice_domain::address::ForbiddenAddress;
use sluice_domain::{Class, Classify, RegistryHost};
use sluice_service::{certificate_fault, tls_error};
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
    /// The registry shows a certificate that is not trusted, or breaks the rules of TLS.
    #[error(
        "failed to {action} `{what}`: the registry's TLS certificate is not accepted: {reason}"
    )]
    Certificate {
        /// What was tried.
        action: &'static str,
        /// On what.
        what: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The registry speaks HTTP where TLS is expected, or the other way round.
    #[error("failed to {action} `{what}`: `{registry}` {reason}")]
    WrongProtocol {
        /// What was tried.
        action: &'static str,
        /// On what.
        what: String,
        /// The registry.
        registry: RegistryHost,
        /// What it speaks, and what to do.
        reason: String,
    },
    /// The registry wants another certificate of its clients, or one at all.
    #[error(
        "failed to {action} `{what}`: the registry does not accept the client's certificate, or asks for one"
    )]
    ClientCertificate {
        /// What was tried.
        action: &'static str,
        /// On what.
        what: String,
        /// What it says.
        source: Box<rustls::Error>,
    },
    /// A quota is used up; to ask before it is there again would only prolong it.
    #[error(
        "failed to {action} `{what}`: the quota of `{registry}` is used up until {until}: {detail}"
    )]
    Quota {
        /// What was tried.
        action: &'static str,
        /// On what.
        what: String,
        /// The registry that says so, which may be either end of a copy.
        registry: Box<RegistryHost>,
        /// When to ask again.
        until: DateTime<Utc>,
        /// The beginning of its answer.
        detail: String,
    },
    /// The registry has no time for more requests, although it was left alone between several tries.
    #[error("failed to {action} `{what}`: `{registry}` answered 429, too many requests{}: {detail}", wait(*retry_after))]
    Throttled {
        /// What was tried.
        action: &'static str,
        /// On what.
        what: String,
        /// The registry that says so, which may be either end of a copy.
        registry: Box<RegistryHost>,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
        /// The beginning of its answer.
        detail: String,
    },
    /// Nothing may be spent at the registry now.
    #[error("nothing is asked of `{what}` until {until}: {reason}")]
    Withheld {
        /// The registry.
        what: String,
        /// When to ask again.
        until: DateTime<Utc>,
        /// What is the matter.
        reason: String,
    },
    /// It cannot be told whether something may be spent, so nothing is.
    #[error("cannot tell what may still be asked of `{what}`")]
    Budget {
        /// The registry.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
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
    /// A transfer broke off and cannot go on where it was; another one starts from the beginning.
    #[error("the transfer of `{what}` broke off: {reason}")]
    Interrupted {
        /// What was transferred.
        what: String,
        /// Why it cannot go on.
        reason: &'static str,
    },
    /// A transfer stood still for too long.
    #[error("the transfer of `{what}` stands still")]
    Standstill {
        /// What was transferred.
        what: String,
    },
    /// It does not exist.
    #[error("`{what}` does not exist")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// It has none of the platforms that are wanted.
    #[error("`{what}` has none of the platforms {wanted}; it has: {offered}")]
    NoPlatform {
        /// The image or index.
        what: String,
        /// What is wanted.
        wanted: String,
        /// What it has, empty where it names nothing.
        offered: String,
    },
    /// The account is kept where it cannot be read.
    #[error("the credential for registry `{host}` cannot be read: {reason}")]
    Credential {
        /// The registry.
        host: String,
        /// What is in the way.
        reason: String,
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
        move |source| {
            let fault = tls_error(&source);
            if let Some(reason) = fault.as_ref().and_then(certificate_fault) {
                return Self::Certificate {
                    action,
                    what,
                    reason,
                };
            }
            match (fault.filter(is_about_client), forbidden(&source)) {
                (Some(fault), _) => Self::ClientCertificate {
                    action,
                    what,
                    source: Box::new(fault),
                },
                (None, Some(reason)) => Self::Untrusted { what, reason },
                (None, None) => Self::Transport {
                    action,
                    what,
                    source: source.without_url(),
                },
            }
        }
    }

    pub(crate) fn untrusted(what: impl ToString, reason: impl Into<String>) -> Self {
        Self::Untrusted {
            what: what.to_string(),
            reason: reason.into(),
        }
    }

    /// Returns after how long another try may help at once, as the registry asks; for a quota there is none.
    pub(crate) fn may_pass(&self) -> Option<Duration> {
        match self {
            // It has taken long enough.
            Self::Transport { source, .. } if source.is_timeout() => None,
            Self::Transport { .. } | Self::StaleToken { .. } | Self::Interrupted { .. } => {
                Some(Duration::ZERO)
            }
            Self::Refused {
                status,
                retry_after,
                ..
            } if matches!(status.as_u16(), 400 | 404 | 408 | 500..=599) => {
                Some(retry_after.unwrap_or_default())
            }
            _ => None,
        }
    }

    /// Says whether the registry is away, rather than that it refuses or that its answer is wrong.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Interrupted { .. } | Self::Standstill { .. } => true,
            Self::Refused { status, .. } => matches!(status.as_u16(), 408 | 500..=599),
            _ => false,
        }
    }

    /// Says whether the registry refused because it was asked too much, which holds for other requests too.
    #[must_use]
    pub const fn is_rate_limited(&self) -> bool {
        matches!(self, Self::Quota { .. } | Self::Throttled { .. })
    }

    /// Says whether a transfer must begin anew.
    pub(crate) const fn is_interrupted(&self) -> bool {
        matches!(self, Self::Interrupted { .. })
    }

    /// Says whether a registry may have refused a manifest because it lacks a part of it.
    #[must_use]
    pub fn is_missing_part(&self) -> bool {
        match self {
            Self::Refused { action, status, .. } => {
                *action == "write" && matches!(status.as_u16(), 400 | 404)
            }
            _ => false,
        }
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
            // What is away says nothing of the work, however long it takes to come back.
            Self::Transport { .. }
            | Self::Interrupted { .. }
            | Self::Standstill { .. }
            | Self::Budget { .. } => Class::OUTAGE,
            // A file may be just about to be written, and a helper may be slow.
            Self::StaleToken { .. } | Self::Credential { .. } => Class::TRANSIENT,
            Self::Quota { until, .. } | Self::Withheld { until, .. } => {
                Class::Unavailable { until: *until }
            }
            Self::Throttled { retry_after, .. } => unavailable(*retry_after),
            Self::Refused {
                status,
                retry_after,
                ..
            } => match status.as_u16() {
                408 | 500..=599 => unavailable(*retry_after),
                // A blob that vanished between two requests is answered like this; the next attempt uploads it.
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

/// Classes what is away for as long as the registry says, or until it is back.
fn unavailable(retry_after: Option<Duration>) -> Class {
    retry_after.map_or(Class::OUTAGE, |after| Class::Unavailable {
        until: sluice_domain::now() + after,
    })
}

fn wait(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |after| {
        format!(", and asks to wait for {} s", after.as_secs())
    })
}

/// Says whether the peer does not accept the client's certificate.
fn is_about_client(fault: &rustls::Error) -> bool {
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

/// Finds the place that the registry may not send on to.
fn forbidden(error: &reqwest::Error) -> Option<String> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(forbidden) = cause.downcast_ref::<ForbiddenAddress>() {
            return Some(forbidden.to_string());
        }
        source = cause.source();
    }
    None
}
