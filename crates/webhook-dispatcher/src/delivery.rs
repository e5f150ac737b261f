//! One delivery of one event to one endpoint.

mod answer_evaluation;
pub(crate) mod client;
pub(crate) mod endpoint_limits;
mod envelope;
pub(crate) mod record;
mod resolver;
mod signature;

use std::time::Duration;

use chrono::Utc;
use secrecy::ExposeSecret as _;
use sluice_bus::{Cause, Outcome};
use sluice_domain::resources::{Kind, Resource, Webhook};
use sluice_domain::{AddressGuard, Class, Classify as _, ResourceName};
use sluice_events::Event;
use sluice_events::commands::DeliverEvent;
use sluice_events::facts::{WebhookDelivered, WebhookFailed};
use sluice_service::{crash, error_chain};
use sluice_state::key;
use sluice_telemetry::metrics::WEBHOOK_DELIVERY_DURATION;
use tokio::time::Instant;

use self::answer_evaluation::{evaluate_answer, status_of};
use self::client::Post;
use self::endpoint_limits::Permit;
use self::record::AttemptResult;
use self::signature::SigningKeys;
use crate::error::Error;
use crate::handler::Dispatcher;

/// When unusable secrets are read again.
const SECRETS_RETRY: Duration = Duration::from_secs(10);
/// When a webhook of a newer version is read again.
const NEWER_VERSION_RETRY: Duration = Duration::from_secs(2);
/// Spreads the retries of deliveries to one endpoint: at most this, times a thousand.
const RETRY_SPREAD: Duration = Duration::from_millis(4);

impl Dispatcher {
    /// Delivers an event, unless that is recorded; a crash before the record repeats it with the same id.
    pub(crate) async fn deliver(
        &self,
        command: DeliverEvent,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        let event = decode_event(&command)?;
        let key = key::delivery(&command.endpoint, &command.event_id.to_string());
        let (before, _) = self.state.deliveries.get_or_default(&key).await?;
        if before.delivered {
            return Ok(Outcome::done());
        }
        let Some(webhook) = self.webhook(&command.endpoint).await? else {
            return Ok(self.abandon(command, &event, before.attempt_count));
        };
        let (keys, authorities) = self.secrets(&webhook, &command).await?;
        let permit = self.acquire_permit(&command.endpoint).await?;
        let post = Post {
            url: &webhook.url,
            guard: if webhook.allow_private_addresses {
                AddressGuard::PrivateAllowed
            } else {
                AddressGuard::PublicOnly
            },
            authorities: authorities.as_deref(),
            id: &command.event_id.to_string(),
            keys: keys.as_ref(),
            body: envelope::body(
                webhook.format,
                &command,
                &event,
                &cause.correlation,
                &self.trace_url,
            ),
        };
        let (at, began) = (Utc::now(), Instant::now());
        let answer = self.clients.post(post).await;
        let took = began.elapsed();
        crash::point("webhook-dispatcher.posted");
        permit.record_answer(answer.is_ok());
        let attempt = Attempt {
            number: before.attempt_count.saturating_add(1),
            result: AttemptResult {
                at,
                status: status_of(&answer),
                error: String::new(),
                duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                given_up: false,
            },
        };
        drop(permit);
        let evaluated = evaluate_answer(&command.endpoint, answer);
        let outcome = if evaluated.is_ok() {
            "delivered"
        } else {
            "failed"
        };
        WEBHOOK_DELIVERY_DURATION.record(took, &[command.endpoint.as_str(), outcome]);
        match evaluated {
            Ok(()) => Ok(self.delivered(command, &event, attempt)),
            Err((error, detail)) => Err(self
                .record_failure(&command, &event, cause, attempt, error, detail)
                .await?),
        }
    }

    fn delivered(&self, command: DeliverEvent, event: &Event, attempt: Attempt) -> Outcome {
        let Attempt { number, result } = attempt;
        tracing::info!(
            endpoint = %command.endpoint, delivered = %command.event_id, name = event.name(),
            attempts = number, duration_ms = result.duration_ms, "delivered"
        );
        let fact = WebhookDelivered {
            endpoint: command.endpoint.clone(),
            event_id: command.event_id,
            event_name: event.name().to_owned(),
            attempts: number,
            status: result.status,
            duration_ms: result.duration_ms,
        };
        let (state, name) = (self.state.clone(), event.name());
        Outcome::done()
            .fact(fact)
            .then(async move { record::record_attempt(&state, &command, name, &result).await })
    }

    /// Records a failed attempt, publishes a final failure, and returns the error of the message.
    async fn record_failure(
        &self,
        command: &DeliverEvent,
        event: &Event,
        cause: &Cause,
        attempt: Attempt,
        error: Error,
        detail: String,
    ) -> Result<Error, Error> {
        let Attempt { number, mut result } = attempt;
        let error = match error.class() {
            Class::Permanent => error,
            _ if cause.last_attempt || cause.attempt >= self.max_attempts => Error::GivenUp {
                attempts: number,
                source: Box::new(error),
            },
            _ => error,
        };
        result.given_up = matches!(error.class(), Class::Permanent);
        result.error = detail;
        if result.given_up {
            let fact = WebhookFailed {
                endpoint: command.endpoint.clone(),
                event_id: command.event_id,
                event_name: event.name().to_owned(),
                attempts: number,
                status: result.status,
                reason: error_chain(&error),
            };
            self.bus
                .publish(&fact.into(), cause, &cause.occurrence)
                .await
                .map_err(sluice_state::Error::from)?;
            crash::point("webhook-dispatcher.failure_published");
        }
        record::record_attempt(&self.state, command, event.name(), &result).await?;
        crash::point("webhook-dispatcher.failure_recorded");
        Ok(error)
    }

    /// Ends a delivery whose webhook was removed or disabled.
    fn abandon(&self, command: DeliverEvent, event: &Event, attempts: u32) -> Outcome {
        tracing::warn!(
            endpoint = %command.endpoint, delivered = %command.event_id, name = event.name(),
            "not delivered: the webhook was removed or disabled"
        );
        let fact = WebhookFailed {
            endpoint: command.endpoint.clone(),
            event_id: command.event_id,
            event_name: event.name().to_owned(),
            attempts,
            status: 0,
            reason: "the webhook was removed or disabled".to_owned(),
        };
        let (state, name) = (self.state.clone(), event.name());
        Outcome::done()
            .fact(fact)
            .then(async move { record::record_abandoned(&state, &command, name).await })
    }

    /// Returns a webhook that is enabled. The catalogue of this replica may be older than that of the one that
    /// published the command.
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
            _ => Err(Error::NewerWebhook {
                endpoint: name.clone(),
                until: Utc::now() + NEWER_VERSION_RETRY,
            }),
        }
    }

    /// Reads the signing keys and certificate authorities of a webhook, at each delivery, because they may be rotated.
    /// While they are missing nothing is sent unsigned or to another server.
    async fn secrets(
        &self,
        webhook: &Webhook,
        command: &DeliverEvent,
    ) -> Result<(Option<SigningKeys>, Option<String>), Error> {
        let keys = || self.keys(webhook).transpose();
        let authorities = || self.authorities(webhook).transpose();
        match keys().and_then(|keys| Ok((keys, authorities()?))) {
            Ok(secrets) => Ok(secrets),
            Err(reason) => {
                let error = Error::Secret {
                    endpoint: webhook.name.clone(),
                    reason,
                    until: Utc::now() + SECRETS_RETRY,
                };
                record::record_unusable(&self.state, command, &error.to_string()).await;
                Err(error)
            }
        }
    }

    fn keys(&self, webhook: &Webhook) -> Option<Result<SigningKeys, String>> {
        let named = webhook.signing_key.as_ref()?;
        // A key may only be used for the origins listed beside it.
        let origins = webhook.origin().into_iter().collect();
        let file = self.secrets.sent_to(&named.secret, origins);
        let text = file.text().map_err(|error| format!("{error:#}"));
        Some(
            text.and_then(|text| {
                SigningKeys::read(&text).map_err(|error| format!("{file}: {error}"))
            }),
        )
    }

    /// Returns the certificate authorities to trust, in PEM.
    fn authorities(&self, webhook: &Webhook) -> Option<Result<String, String>> {
        let file = self.secrets.public_file(&webhook.ca.as_ref()?.secret);
        let text = file.text().map_err(|error| format!("{error:#}"));
        Some(text.and_then(|text| {
            // Without the error of the parser, since a resource may name any secret here.
            let has_certificate =
                reqwest::Certificate::from_pem_bundle(text.expose_secret().as_bytes())
                    .is_ok_and(|certificates| !certificates.is_empty());
            if has_certificate {
                Ok(text.expose_secret().to_owned())
            } else {
                Err(format!("{file} holds no certificates in PEM"))
            }
        }))
    }

    async fn acquire_permit(&self, endpoint: &ResourceName) -> Result<Permit, Error> {
        self.endpoint_limits
            .acquire(endpoint)
            .await
            .map_err(|wait| {
                let now = Utc::now();
                let spread = RETRY_SPREAD * (now.timestamp_subsec_millis() % 1_000);
                Error::Busy {
                    endpoint: endpoint.clone(),
                    until: now + wait + spread,
                }
            })
    }
}

/// An attempt with its number.
struct Attempt {
    number: u32,
    result: AttemptResult,
}

fn decode_event(command: &DeliverEvent) -> Result<Event, Error> {
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
