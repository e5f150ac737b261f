//! Errors of the webhook dispatcher.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sluice_domain::{Class, Classify, ResourceName};
use sluice_events::EventId;
use thiserror::Error;

use crate::delivery::client::Fault;

/// Why an event was not delivered.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(transparent)]
    State(#[from] sluice_state::Error),
    #[error("the event has no id, by which endpoints detect duplicates")]
    Id,
    #[error("event `{id}` cannot be decoded")]
    Event {
        id: EventId,
        source: sluice_events::DecodeError,
    },
    #[error("`{type_name}` is not an event that this version knows")]
    Type { type_name: String },
    #[error("endpoint `{endpoint}` is at its concurrency limit")]
    Busy {
        endpoint: ResourceName,
        until: DateTime<Utc>,
    },
    #[error("webhook `{endpoint}` was written by a newer version; waiting for an update")]
    NewerWebhook {
        endpoint: ResourceName,
        until: DateTime<Utc>,
    },
    #[error("a secret of webhook `{endpoint}` cannot be used, so nothing is sent: {reason}")]
    Secret {
        endpoint: ResourceName,
        reason: String,
        until: DateTime<Utc>,
    },
    #[error("endpoint `{endpoint}` answered {status}{hint}")]
    Answered {
        endpoint: ResourceName,
        status: reqwest::StatusCode,
        hint: &'static str,
        retry_after: Option<Duration>,
    },
    #[error("endpoint `{endpoint}` returned 410 Gone; disable its webhook")]
    Gone { endpoint: ResourceName },
    #[error("endpoint `{endpoint}` did not answer")]
    NoAnswer {
        endpoint: ResourceName,
        source: Fault,
    },
    #[error("given up after {attempts} attempts")]
    GivenUp { attempts: u32, source: Box<Self> },
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::State(error) => error.class(),
            Self::Busy { until, .. }
            | Self::NewerWebhook { until, .. }
            | Self::Secret { until, .. } => Class::Unavailable { until: *until },
            Self::Answered { retry_after, .. } => Class::Transient {
                after: *retry_after,
            },
            Self::NoAnswer { source, .. } => match source {
                Fault::Forbidden { .. } | Fault::Url(_) => Class::Permanent,
                Fault::Certificate { .. } | Fault::TimedOut | Fault::Unreachable(_) => {
                    Class::TRANSIENT
                }
            },
            Self::Id
            | Self::Event { .. }
            | Self::Type { .. }
            | Self::Gone { .. }
            | Self::GivenUp { .. } => Class::Permanent,
        }
    }
}
