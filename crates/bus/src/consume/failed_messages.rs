//! Messages that failed: a retry with backoff, a delay during an outage, or a dead letter after `Stage::max_attempts`.

use std::time::Duration;

use async_nats::HeaderMap;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use sluice_domain::{Backoff, Class, now};
use sluice_events::headers;
use sluice_service::{crash, error_chain};

use super::acknowledge::Acknowledger;
use super::handler::Failure;
use super::jitter::jitter;
use super::received_message::ReceivedMessage;
use crate::connection::backend::Acknowledgement;
use crate::connection::headers::{
    ATTEMPTS, DEAD_ATTEMPTS, DEAD_REASON, DEAD_SUBJECT, OCCURRENCE, WAITS, WAITS_FOR, copy_headers,
    inject_trace_context, set,
};
use crate::error::BoxError;
use crate::streams::cause::Cause;
use crate::streams::publish::outgoing;
use crate::streams::schedules::{SPEC, TARGET, at};
use crate::topology::{DEAD_LETTER, Stage};

/// The delay of a message that a process received while it was stopping.
const GIVE_BACK_DELAY: TimeDelta = TimeDelta::seconds(3);
/// The longest delay; a peer that asks for more is asked again after it.
const MAX_DELAY: Duration = Duration::from_secs(30 * 86_400);
/// The delays during an outage, growing with its length.
const OUTAGE_BACKOFF: Backoff = Backoff::new(Duration::from_secs(4), Duration::from_secs(300));
/// The pauses between attempts to store what becomes of a message.
const STORE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
/// The longest reason in a delayed copy, in characters: there may be many copies.
const MAX_WAIT_REASON: usize = 300;
/// The longest reason in a dead letter, in characters.
const MAX_DEAD_REASON: usize = 2_000;

/// Schedules retries and writes dead letters for the messages of one stage.
#[derive(Debug)]
pub(crate) struct FailedMessages {
    pub(crate) acknowledger: Acknowledger,
    pub(crate) stage: &'static Stage,
}

/// A retry: when, with which counters, and why.
struct Retry<'a> {
    until: DateTime<Utc>,
    attempts: u32,
    waits: u32,
    reason: &'a str,
}

impl FailedMessages {
    /// Stores what becomes of a message that failed, acknowledges it, and returns its outcome.
    ///
    /// While the bus does not store, this is repeated: a message that is not acknowledged would be delivered again as
    /// another attempt.
    pub(crate) async fn resolve(
        &self,
        message: &ReceivedMessage,
        cause: &Cause,
        failure: Failure,
    ) -> &'static str {
        let reason = error_chain(failure.error.as_ref());
        for tries in 1.. {
            match self
                .try_resolve(message, cause, failure.class, &reason)
                .await
            {
                Ok(outcome) => return outcome,
                Err(error) => tracing::error!(
                    error = error_chain(error.as_ref()),
                    reason,
                    "failed to store the retry or dead letter of a message; trying again"
                ),
            }
            tokio::select! {
                () = self.acknowledger.stopping.cancelled() => break,
                () = tokio::time::sleep(STORE_BACKOFF.delay(tries, jitter())) => {}
            }
        }
        "unsettled"
    }

    async fn try_resolve(
        &self,
        message: &ReceivedMessage,
        cause: &Cause,
        class: Class,
        reason: &str,
    ) -> Result<&'static str, BoxError> {
        let (retry, outcome) = match class {
            Class::Transient { after } if !cause.last_attempt => {
                let own = self.stage.backoff.delay(cause.attempt, jitter());
                let delay = after.map_or(own, |asked| asked.max(own));
                tracing::warn!(error = reason, ?delay, "failed; trying again");
                let retry = Retry {
                    until: now() + delay.min(MAX_DELAY),
                    attempts: cause.attempt,
                    waits: cause.waits,
                    reason,
                };
                (retry, "retried")
            }
            Class::Permanent | Class::Transient { .. } => {
                tracing::error!(
                    error = reason,
                    attempts = cause.attempt,
                    "dead letter; see `sluice dead-letters list`"
                );
                self.dead_letter(message, cause, reason).await?;
                let settled = self
                    .acknowledger
                    .acknowledge(message, Acknowledgement::Term, "dead");
                return Ok(settled.await);
            }
            Class::Unavailable { mut until } => {
                let waits = cause.waits.saturating_add(1);
                if class.is_outage() {
                    until = now() + OUTAGE_BACKOFF.delay(waits, jitter());
                    tracing::warn!(reason, %until, waits = cause.waits, "outage; waiting");
                } else {
                    tracing::info!(reason, %until, "waiting");
                }
                // Waiting is not an attempt.
                let retry = Retry {
                    until,
                    attempts: cause.attempt.saturating_sub(1),
                    waits,
                    reason,
                };
                (retry, "waiting")
            }
        };
        self.schedule_retry(message, cause, &retry).await?;
        let settled = self
            .acknowledger
            .acknowledge(message, Acknowledgement::Ack, outcome);
        Ok(settled.await)
    }

    /// Returns a message to the stage without an attempt, because this process is stopping.
    pub(crate) async fn give_back(&self, message: &ReceivedMessage) {
        let cause = message.cause(self.stage.max_attempts);
        let retry = Retry {
            until: now() + GIVE_BACK_DELAY,
            attempts: cause.attempt.saturating_sub(1),
            waits: cause.waits,
            reason: "the process that received it was stopping",
        };
        match self.schedule_retry(message, &cause, &retry).await {
            Ok(()) => {
                let how = Acknowledgement::Ack;
                self.acknowledger
                    .acknowledge(message, how, "given back")
                    .await;
            }
            Err(error) => tracing::warn!(
                error,
                "a message could not be given back; it is delivered again after `ack_wait`"
            ),
        }
    }

    /// Stores a delayed copy with the scheduler; the original is then acknowledged.
    ///
    /// This is the only way in which a message is delayed. The server counts a message that is returned to the consumer
    /// as delivered once more; so a message with several deliveries was neither acknowledged nor delayed.
    async fn schedule_retry(
        &self,
        message: &ReceivedMessage,
        cause: &Cause,
        retry: &Retry<'_>,
    ) -> Result<(), BoxError> {
        let stage = self.stage.name;
        let mut map = copied_headers(message, cause);
        set(&mut map, WAITS, &retry.waits.to_string());
        let reason: String = retry.reason.chars().take(MAX_WAIT_REASON).collect();
        set(&mut map, WAITS_FOR, &reason);
        set(&mut map, ATTEMPTS, &retry.attempts.to_string());
        // The copy continues this trace, not that of the process which stored the schedule of a tick.
        inject_trace_context(&mut map);
        let now = now();
        let until = retry
            .until
            .clamp(now + TimeDelta::seconds(1), now + MAX_DELAY);
        // Schedules fire on whole seconds, and not before the time that was asked for.
        let until = until + TimeDelta::milliseconds(999);
        map.insert(SPEC, at(until).as_str());
        map.insert(TARGET, format!("sluice.due.retry.{stage}").as_str());
        // A message has one copy: where the acknowledgement is lost, the next copy replaces this one.
        let subject = format!(
            "sluice.schedule.retry.{stage}.{}.{}",
            message.stream, message.sequence
        );
        let copy = outgoing(subject, message.payload.clone(), &map);
        self.acknowledger.bus.store(copy).await?;
        crash::point("bus.retry_scheduled");
        Ok(())
    }

    /// Stores a message with its error as a dead letter; the original is then terminated.
    async fn dead_letter(
        &self,
        message: &ReceivedMessage,
        cause: &Cause,
        reason: &str,
    ) -> Result<(), BoxError> {
        let mut map = copied_headers(message, cause);
        let reason: String = reason.chars().take(MAX_DEAD_REASON).collect();
        set(&mut map, DEAD_REASON, &reason);
        set(&mut map, DEAD_SUBJECT, &message.subject);
        set(&mut map, DEAD_ATTEMPTS, &cause.attempt.to_string());
        let stage = self.stage.name;
        let subject = format!("{DEAD_LETTER}{stage}");
        let mut dead_letter = outgoing(subject, message.payload.clone(), &map);
        let id = format!("dead/{stage}/{}/{}", message.stream, message.sequence);
        dead_letter.message_id = Some(id);
        self.acknowledger.bus.store(dead_letter).await?;
        crash::point("bus.dead_lettered");
        Ok(())
    }
}

/// Copies the headers of a message, with the identity of its cause: the headers of a tick are those of its schedule.
fn copied_headers(message: &ReceivedMessage, cause: &Cause) -> HeaderMap {
    let mut map = copy_headers(Some(&message.headers), |_| true);
    set(&mut map, headers::ID, &cause.id);
    let time = cause.time.to_rfc3339_opts(SecondsFormat::Millis, true);
    set(&mut map, headers::TIME, &time);
    set(&mut map, OCCURRENCE, &cause.occurrence);
    map
}
