//! One message: decode, handle, publish, record, acknowledge; or retry, wait, bury.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{AckKind, Message};
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::FutureExt as _;
use sluice_domain::{Class, Classify as _};
use sluice_events::{Decode as _, Message as Payload, headers};
use thiserror::Error;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::cause::{ATTEMPTS, Cause, OCCURRENCE, header};
use crate::consume::Worker;
use crate::handler::{BoxError, Handler, Outcome, Output};
use crate::publish::set;
use crate::topology::SCHEDULES;

/// Longer delays are kept by a schedule, not by the consumer.
const LONGEST_NAK: Duration = Duration::from_secs(30);

#[derive(Debug, Error)]
enum Fault {
    #[error("the handler panicked")]
    Panicked,
    #[error("not finished within {0:?}")]
    TimedOut(Duration),
    #[error("given up after {0} attempts")]
    Exhausted(u32),
}

struct Failure {
    class: Class,
    error: BoxError,
}

impl Failure {
    fn transient(error: impl Into<BoxError>) -> Self {
        Self {
            class: Class::TRANSIENT,
            error: error.into(),
        }
    }

    fn permanent(error: impl Into<BoxError>) -> Self {
        Self {
            class: Class::Permanent,
            error: error.into(),
        }
    }
}

impl<H: Handler> Worker<H> {
    /// Settles one message; whatever cannot be settled comes again.
    pub(crate) async fn process(&self, message: Message) {
        let cause = Cause::of(&message, self.stage.max_attempts);
        let span = self.span(&message, &cause);
        let started = Instant::now();
        sluice_telemetry::metrics::message_started(self.stage.name);
        let outcome = async {
            let result = self
                .with_heartbeat(&message, self.attempt(&message, &cause))
                .await;
            match result {
                Ok(()) => match message.double_ack().await {
                    Ok(()) => "done",
                    Err(error) => {
                        tracing::warn!(
                            error,
                            "an acknowledgement was lost; the message comes again"
                        );
                        "unacknowledged"
                    }
                },
                Err(failure) => self.failed(&message, &cause, failure).await,
            }
        }
        .instrument(span)
        .await;
        sluice_telemetry::metrics::message_settled(self.stage.name, outcome, started.elapsed());
    }

    /// Ticks and redrives begin a new trace with a link; everything else continues the one it came in.
    fn span(&self, message: &Message, cause: &Cause) -> tracing::Span {
        let type_name = header(message.headers.as_ref(), headers::TYPE).unwrap_or_default();
        let span = tracing::info_span!(
            "stage",
            otel.name = H::SPAN,
            otel.kind = "consumer",
            stage = self.stage.name,
            event.id = %cause.id,
            event.r#type = type_name,
            delivery.attempt = cause.attempt,
        );
        let read = |name: &str| Some(message.headers.as_ref()?.get(name)?.as_str());
        let subject = message.subject.as_str();
        let begins = subject.starts_with("sluice.do.redrive.")
            || (subject.starts_with("sluice.due.") && !subject.starts_with("sluice.due.retry."));
        if begins {
            sluice_telemetry::context::link(&span, &read);
        } else {
            sluice_telemetry::context::set_parent(&span, &read);
        }
        span
    }

    async fn with_heartbeat<T>(&self, message: &Message, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut beat = tokio::time::interval(self.stage.ack_wait / 3);
        beat.tick().await;
        loop {
            tokio::select! {
                result = &mut work => return result,
                _ = beat.tick() => {
                    if let Err(error) = message.ack_with(AckKind::Progress).await {
                        tracing::warn!(error, "a sign of life was lost");
                    }
                }
            }
        }
    }

    async fn attempt(&self, message: &Message, cause: &Cause) -> Result<(), Failure> {
        if cause.attempt > self.stage.max_attempts {
            return Err(Failure::permanent(Fault::Exhausted(cause.attempt - 1)));
        }
        let type_name = header(message.headers.as_ref(), headers::TYPE).unwrap_or_default();
        let payload = Payload::decode(&type_name, &message.payload).map_err(Failure::permanent)?;
        let input = H::Input::decode(payload).map_err(Failure::permanent)?;
        let (_shared, _alone) = if cause.attempt > 2 {
            (None, Some(self.alone.write().await))
        } else {
            (Some(self.alone.read().await), None)
        };
        let limit = self.settings.handler_timeout;
        let handled = AssertUnwindSafe(self.handler.handle(input, cause)).catch_unwind();
        let outcome = match tokio::time::timeout(limit, handled).await {
            Ok(Ok(Ok(outcome))) => outcome,
            Ok(Ok(Err(error))) => {
                return Err(Failure {
                    class: error.class(),
                    error: error.into(),
                });
            }
            Ok(Err(_)) => return Err(Failure::transient(Fault::Panicked)),
            Err(_) => return Err(Failure::transient(Fault::TimedOut(limit))),
        };
        self.finish(outcome, cause).await
    }

    /// Publishes, then records; the order is what makes a crash repeat work and lose none.
    async fn finish(&self, outcome: Outcome, cause: &Cause) -> Result<(), Failure> {
        for output in outcome.outputs {
            match output {
                Output::Fact { event, occurrence } => {
                    let occurrence = occurrence.as_deref().unwrap_or(&cause.occurrence);
                    self.bus
                        .publish(&event, cause, occurrence)
                        .await
                        .map_err(Failure::transient)?;
                }
                Output::Command {
                    command,
                    id,
                    message_id,
                } => {
                    self.bus
                        .command_once(&command, cause, id, &message_id)
                        .await
                        .map_err(Failure::transient)?;
                }
            }
        }
        for record in outcome.records {
            record.await.map_err(Failure::transient)?;
        }
        Ok(())
    }

    async fn failed(&self, message: &Message, cause: &Cause, failure: Failure) -> &'static str {
        let told = chain(failure.error.as_ref());
        let result = match failure.class {
            Class::Permanent => {
                tracing::error!(error = told, "given up; see `sluice dead-letters list`");
                self.bury(message, cause, &told).await.map(|()| "dead")
            }
            Class::Transient { .. } if cause.last_attempt => {
                tracing::error!(
                    error = told,
                    attempts = cause.attempt,
                    "given up; see `sluice dead-letters list`"
                );
                self.bury(message, cause, &told).await.map(|()| "dead")
            }
            Class::Transient { after } => {
                let own = self.stage.backoff.delay(cause.attempt, random());
                let delay = after.map_or(own, |asked| asked.max(own));
                tracing::warn!(error = told, ?delay, "failed; trying again");
                self.retry(message, cause, delay).await.map(|()| "retried")
            }
            Class::Unavailable { until } => {
                tracing::info!(reason = told, %until, "waiting");
                self.later(message, cause, until, cause.attempt.saturating_sub(1))
                    .await
                    .map(|()| "waiting")
            }
        };
        result.unwrap_or_else(|error| {
            tracing::error!(
                error = chain(error.as_ref()),
                "a message could not be settled; it comes again"
            );
            "unsettled"
        })
    }

    async fn retry(
        &self,
        message: &Message,
        cause: &Cause,
        delay: Duration,
    ) -> Result<(), BoxError> {
        if delay <= LONGEST_NAK {
            return message.double_ack_with(AckKind::Nak(Some(delay))).await;
        }
        self.later(message, cause, Utc::now() + delay, cause.attempt)
            .await
    }

    /// Leaves a copy with the scheduler and acknowledges the original.
    async fn later(
        &self,
        message: &Message,
        cause: &Cause,
        until: DateTime<Utc>,
        attempts: u32,
    ) -> Result<(), BoxError> {
        let stage = self.stage.name;
        let mut map = copied_headers(message);
        set(&mut map, ATTEMPTS, &attempts.to_string());
        set(&mut map, OCCURRENCE, &cause.occurrence);
        set(&mut map, headers::ID, &cause.id);
        let until = until.max(Utc::now() + Duration::from_secs(1));
        let at = format!("@at {}", until.to_rfc3339_opts(SecondsFormat::Secs, true));
        map.insert("Nats-Schedule", at.as_str());
        map.insert(
            "Nats-Schedule-Target",
            format!("sluice.due.retry.{stage}").as_str(),
        );
        let subject = format!("sluice.schedule.retry.{stage}.{}", uuid::Uuid::new_v4());
        let copy = PublishMessage::build()
            .payload(message.payload.clone())
            .headers(map)
            .expected_stream(SCHEDULES);
        self.bus.js.send_publish(subject, copy).await?.await?;
        message.double_ack().await
    }

    /// Keeps the message with its reason, then ends it.
    async fn bury(&self, message: &Message, cause: &Cause, reason: &str) -> Result<(), BoxError> {
        let mut map = copied_headers(message);
        set(
            &mut map,
            "sluice-dead-reason",
            &reason.chars().take(2_000).collect::<String>(),
        );
        set(&mut map, "sluice-dead-subject", message.subject.as_str());
        set(&mut map, "sluice-dead-attempts", &cause.attempt.to_string());
        set(&mut map, OCCURRENCE, &cause.occurrence);
        let place = message
            .info()
            .map(|info| format!("{}/{}", info.stream, info.stream_sequence))?;
        let letter = PublishMessage::build()
            .payload(message.payload.clone())
            .headers(map)
            .message_id(format!("dead/{}/{place}", self.stage.name));
        self.bus
            .js
            .send_publish(format!("sluice.dead.{}", self.stage.name), letter)
            .await?
            .await?;
        message.double_ack_with(AckKind::Term).await
    }
}

/// Copies the headers without the server's own, which would act again.
fn copied_headers(message: &Message) -> async_nats::HeaderMap {
    let mut map = async_nats::HeaderMap::new();
    for (name, values) in message.headers.iter().flat_map(async_nats::HeaderMap::iter) {
        let text: &str = name.as_ref();
        if text.to_ascii_lowercase().starts_with("nats-") {
            continue;
        }
        for value in values {
            map.append(name.clone(), value.clone());
        }
    }
    map
}

/// Writes an error with everything that led to it.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Enough chance to spread retries.
fn random() -> f64 {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    f64::from(u32::try_from(high >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
