//! One delivery of one event to one endpoint.

use std::error::Error as _;
use std::time::Duration;

use chrono::Utc;
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use sluice_bus::{Cause, Outcome};
use sluice_domain::resources::{Kind, Resource, Webhook};
use sluice_domain::{Class, Classify as _, ResourceName};
use sluice_events::Event;
use sluice_events::commands::DeliverEvent;
use sluice_events::facts::{WebhookDelivered, WebhookFailed};
use sluice_service::crash;
use sluice_state::key;
use tokio::time::Instant;

use crate::client::{Answer, Fault, Post, milliseconds_since};
use crate::dispatch::{Dispatcher, Error};
use crate::endpoint_limits::Permit;
use crate::envelope::cloud_event;
use crate::record::{self, Ended};
use crate::signature::Keys;

/// When secrets that cannot be used are looked at again.
const SECRETS_AGAIN: Duration = Duration::from_secs(10);
/// When a catalogue that is behind is looked at again.
const CATALOGUE_AGAIN: Duration = Duration::from_secs(2);
/// Spreads what waits for one endpoint.
const SPREAD: Duration = Duration::from_millis(4);

impl Dispatcher {
    /// Delivers, unless that is done; a crash before the record repeats it with the same id.
    pub(crate) async fn deliver(
        &self,
        command: DeliverEvent,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        let event = read(&command)?;
        let key = key::delivery(&command.endpoint, &command.event_id.to_string());
        let entry = self.state.deliveries.get(&key).await?;
        let before = entry.map(|entry| entry.value).unwrap_or_default();
        if before.delivered {
            return Ok(Outcome::done());
        }
        let Some(webhook) = self.webhook(&command.endpoint).await? else {
            return Ok(self.abandon(command, &event, before.attempt_count));
        };
        let (keys, authorities) = self.secrets(&webhook, &command).await?;
        let place = self.place(&command.endpoint).await?;
        let post = Post {
            url: &webhook.url,
            private: webhook.allow_private_addresses,
            authorities: authorities.as_deref(),
            id: &command.event_id.to_string(),
            keys: keys.as_ref(),
            body: cloud_event(&command, &event, &cause.correlation)
                .to_string()
                .into_bytes(),
        };
        let (at, began) = (Utc::now(), Instant::now());
        let answer = self.clients.post(post).await;
        crash::point("webhook-dispatcher.posted");
        place.note(answer.is_ok());
        let attempt = Attempt {
            number: before.attempt_count.saturating_add(1),
            ended: Ended {
                at,
                status: status_of(&answer),
                error: String::new(),
                duration_ms: milliseconds_since(began),
                given_up: false,
            },
        };
        drop(place);
        match judge(&command.endpoint, answer) {
            Ok(()) => Ok(self.delivered(command, &event, attempt)),
            Err((error, told)) => Err(self
                .failed(&command, &event, cause, attempt, error, told)
                .await?),
        }
    }

    fn delivered(&self, command: DeliverEvent, event: &Event, attempt: Attempt) -> Outcome {
        let Attempt { number, ended } = attempt;
        tracing::info!(
            endpoint = %command.endpoint, delivered = %command.event_id, name = event.name(),
            attempts = number, duration_ms = ended.duration_ms, "delivered"
        );
        let fact = WebhookDelivered {
            endpoint: command.endpoint.clone(),
            event_id: command.event_id,
            event_name: event.name().to_owned(),
            attempts: number,
            status: ended.status,
            duration_ms: ended.duration_ms,
        };
        let (state, name) = (self.state.clone(), event.name());
        Outcome::done()
            .fact(fact)
            .then(async move { record::attempted(&state, &command, name, &ended).await })
    }

    /// Notes a failure, tells it if it is final, and returns what the message fails with.
    async fn failed(
        &self,
        command: &DeliverEvent,
        event: &Event,
        cause: &Cause,
        attempt: Attempt,
        error: Error,
        told: String,
    ) -> Result<Error, Error> {
        let Attempt { number, mut ended } = attempt;
        let error = match error.class() {
            Class::Permanent => error,
            _ if cause.last_attempt || cause.attempt >= self.attempts => Error::GivenUp {
                attempts: number,
                source: Box::new(error),
            },
            _ => error,
        };
        ended.given_up = matches!(error.class(), Class::Permanent);
        ended.error = told;
        if ended.given_up {
            let fact = WebhookFailed {
                endpoint: command.endpoint.clone(),
                event_id: command.event_id,
                event_name: event.name().to_owned(),
                attempts: number,
                status: ended.status,
                reason: chain(&error),
            };
            self.bus
                .publish(&fact.into(), cause, &cause.occurrence)
                .await
                .map_err(sluice_state::Error::from)?;
            crash::point("webhook-dispatcher.failure_told");
        }
        record::attempted(&self.state, command, event.name(), &ended).await?;
        crash::point("webhook-dispatcher.failure_noted");
        Ok(error)
    }

    /// Ends a delivery that nobody waits for any more.
    fn abandon(&self, command: DeliverEvent, event: &Event, attempts: u32) -> Outcome {
        tracing::warn!(
            endpoint = %command.endpoint, delivered = %command.event_id, name = event.name(),
            "not delivered: the webhook was removed or switched off"
        );
        let fact = WebhookFailed {
            endpoint: command.endpoint.clone(),
            event_id: command.event_id,
            event_name: event.name().to_owned(),
            attempts,
            status: 0,
            reason: "the webhook was removed or switched off".to_owned(),
        };
        let (state, name) = (self.state.clone(), event.name());
        Outcome::done()
            .fact(fact)
            .then(async move { record::abandoned(&state, &command, name).await })
    }

    /// Returns a webhook that is on. The view of this replica may be behind that of the one that asked for the delivery.
    async fn webhook(&self, name: &ResourceName) -> Result<Option<Webhook>, Error> {
        let known = self.catalog.current().webhooks.get(name).cloned();
        if let Some(webhook) = known.filter(|webhook| webhook.enabled) {
            return Ok(Some(webhook));
        }
        let key = key::resource(Kind::Webhook.as_str(), name);
        let Some(entry) = self.state.resources.get(&key).await? else {
            return Ok(None);
        };
        match Resource::from_json(Kind::Webhook, &entry.value.json) {
            Ok(Resource::Webhook(webhook)) => Ok(Some(webhook).filter(|webhook| webhook.enabled)),
            // A newer version wrote it; what cannot be read is not half understood.
            _ => Err(Error::Behind {
                endpoint: name.clone(),
                until: Utc::now() + CATALOGUE_AGAIN,
            }),
        }
    }

    /// Reads the keys and authorities of a webhook now, because they may have been changed. While they are missing
    /// nothing goes out unsigned, or to somebody else.
    async fn secrets(
        &self,
        webhook: &Webhook,
        command: &DeliverEvent,
    ) -> Result<(Option<Keys>, Option<String>), Error> {
        let keys = || self.keys(webhook).transpose();
        let authorities = || self.authorities(webhook).transpose();
        match keys().and_then(|keys| Ok((keys, authorities()?))) {
            Ok(secrets) => Ok(secrets),
            Err(reason) => {
                let error = Error::Secret {
                    endpoint: webhook.name.clone(),
                    reason,
                    until: Utc::now() + SECRETS_AGAIN,
                };
                record::unusable(&self.state, command, &error.to_string()).await;
                Err(error)
            }
        }
    }

    fn keys(&self, webhook: &Webhook) -> Option<Result<Keys, String>> {
        let named = webhook.signing_key.as_ref()?;
        // A key for one receiver signs nothing for another.
        let origins = webhook.origin().into_iter().collect();
        let file = self.secrets.sent(&named.secret, origins);
        let text = file.text().map_err(|error| format!("{error:#}"));
        Some(text.and_then(|text| Keys::read(&text).map_err(|error| format!("{file}: {error}"))))
    }

    /// Returns the PEM of the authorities to trust.
    fn authorities(&self, webhook: &Webhook) -> Option<Result<String, String>> {
        let file = self.secrets.public(&webhook.ca.as_ref()?.secret);
        let text = file.text().map_err(|error| format!("{error:#}"));
        Some(text.and_then(|text| {
            // The error of the parser is left out, since a resource may name any secret here.
            let holds_any = reqwest::Certificate::from_pem_bundle(text.expose_secret().as_bytes())
                .is_ok_and(|found| !found.is_empty());
            let none = || format!("{file} holds no certificates in PEM");
            holds_any
                .then(|| text.expose_secret().to_owned())
                .ok_or_else(none)
        }))
    }

    async fn place(&self, endpoint: &ResourceName) -> Result<Permit, Error> {
        self.lanes.enter(endpoint).await.map_err(|wait| {
            let now = Utc::now();
            let spread = SPREAD * (now.timestamp_subsec_millis() % 1_000);
            Error::Busy {
                endpoint: endpoint.clone(),
                until: now + wait + spread,
            }
        })
    }
}

/// An attempt that was made.
struct Attempt {
    number: u32,
    ended: Ended,
}

fn read(command: &DeliverEvent) -> Result<Event, Error> {
    match Event::decode(&command.event_type, &command.payload) {
        Some(Ok(event)) => Ok(event),
        Some(Err(source)) => Err(Error::Event {
            id: command.event_id,
            source,
        }),
        None => Err(Error::Type {
            type_name: command.event_type.clone(),
        }),
    }
}

fn status_of(answer: &Result<Answer, Fault>) -> u32 {
    answer
        .as_ref()
        .map_or(0, |answer| u32::from(answer.status.as_u16()))
}

/// Says whether an endpoint took the event; if not, with which error, and what is kept of it.
///
/// As Standard Webhooks has it, everything but 2xx is tried again, and only 410 is final.
fn judge(endpoint: &ResourceName, answer: Result<Answer, Fault>) -> Result<(), (Error, String)> {
    let endpoint = endpoint.clone();
    let Answer {
        status,
        retry_after,
        excerpt,
    } = match answer {
        Ok(answer) => answer,
        Err(source) => {
            let error = Error::NoAnswer { endpoint, source };
            let told = chain(&error);
            return Err((error, told));
        }
    };
    if status.is_success() {
        return Ok(());
    }
    let hint = if status.is_redirection() {
        "; redirects are not followed"
    } else if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        "; does it have the same secret?"
    } else {
        ""
    };
    let error = if status == StatusCode::GONE {
        Error::Gone { endpoint }
    } else {
        Error::Answered {
            endpoint,
            status,
            hint,
            retry_after,
        }
    };
    let told = if excerpt.is_empty() {
        error.to_string()
    } else {
        format!("{error}: {excerpt}")
    };
    Err((error, told))
}

/// Writes an error with everything that led to it.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, excerpt: &str) -> Result<(), (Error, String)> {
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: Some(Duration::from_secs(7)),
            excerpt: excerpt.to_owned(),
        };
        judge(&"hook".parse().unwrap(), Ok(answer))
    }

    #[test]
    fn only_what_is_gone_is_not_tried_again() {
        for status in [200, 201, 202, 204, 299] {
            assert!(answered(status, "").is_ok(), "{status}");
        }
        for status in [
            300, 302, 307, 400, 401, 403, 404, 408, 409, 422, 425, 429, 500, 503,
        ] {
            let (error, _) = answered(status, "").unwrap_err();
            let after = Some(Duration::from_secs(7));
            assert_eq!(error.class(), Class::Transient { after }, "{status}");
        }
        let (error, _) = answered(410, "").unwrap_err();
        assert_eq!(error.class(), Class::Permanent);
        assert!(error.to_string().contains("410 Gone"));
    }

    #[test]
    fn a_body_is_kept_in_the_record_and_not_in_the_error() {
        let (error, told) = answered(500, "hunter2").unwrap_err();
        assert!(!chain(&error).contains("hunter2"));
        assert!(
            told.contains("500 Internal Server Error: hunter2"),
            "{told}"
        );
        let (error, _) = answered(302, "").unwrap_err();
        assert!(error.to_string().ends_with("redirects are not followed"));
    }
}
