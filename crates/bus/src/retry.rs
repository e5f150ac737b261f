//! What becomes of a message that is not done: soon again, later again, or a dead letter with its reason.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use sluice_domain::{Backoff, Class, now};
use sluice_events::headers;
use sluice_service::crash;

use crate::backend::Settlement;
use crate::cause::Cause;
use crate::envelope::{
    ATTEMPTS, DEAD_ATTEMPTS, DEAD_REASON, DEAD_SUBJECT, OCCURRENCE, WAITS, WAITS_FOR, copied, set,
};
use crate::handler::{BoxError, Failure, Handler};
use crate::incoming::Incoming;
use crate::publish::outgoing;
use crate::schedules::{SPEC, TARGET, at};
use crate::settle::{Worker, random};
use crate::telemetry::inject;

/// When a message is taken up again that was given to a process which was told to stop.
const GIVE_BACK: TimeDelta = TimeDelta::seconds(3);
/// The longest delay that is kept at all; a peer that asks for more is asked again then.
const LONGEST_DELAY: Duration = Duration::from_secs(30 * 86_400);
/// The waits for something that is away; one that is away for long is asked seldom.
const OUTAGE: Backoff = Backoff::new(Duration::from_secs(4), Duration::from_secs(300));
/// The pauses between tries to settle a message that the bus does not take.
const UNSETTLED: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
/// The longest reason that a waiting copy keeps, in characters: there may be many.
const LONGEST_WAIT_REASON: usize = 300;
/// The longest reason that is kept, in characters.
const LONGEST_REASON: usize = 2_000;

impl<H: Handler> Worker<H> {
    /// Settles a message that failed, and says how.
    ///
    /// A bus that does not take what is kept of it is waited for: given up, the message would come again as another
    /// attempt.
    pub(crate) async fn unfinished(
        &self,
        message: &Incoming,
        cause: &Cause,
        failure: Failure,
    ) -> &'static str {
        let told = chain(failure.error.as_ref());
        for tries in 1.. {
            match self.settle(message, cause, failure.class, &told).await {
                Ok(how) => return how,
                Err(error) => tracing::error!(
                    error = chain(error.as_ref()),
                    reason = told,
                    "a message could not be settled; trying again"
                ),
            }
            tokio::select! {
                () = self.stopping.cancelled() => break,
                () = tokio::time::sleep(UNSETTLED.delay(tries, random())) => {}
            }
        }
        "unsettled"
    }

    async fn settle(
        &self,
        message: &Incoming,
        cause: &Cause,
        class: Class,
        told: &str,
    ) -> Result<&'static str, BoxError> {
        match class {
            Class::Permanent => self.give_up(message, cause, told).await,
            Class::Transient { .. } if cause.last_attempt => {
                self.give_up(message, cause, told).await
            }
            Class::Transient { after } => {
                let own = self.stage.backoff.delay(cause.attempt, random());
                let delay = after.map_or(own, |asked| asked.max(own));
                tracing::warn!(error = told, ?delay, "failed; trying again");
                let until = now() + delay.min(LONGEST_DELAY);
                let counts = (cause.attempt, cause.waits);
                self.schedule_retry(message, cause, until, counts, told)
                    .await?;
                Ok(self.acknowledge(message, Settlement::Done, "retried").await)
            }
            Class::Unavailable { mut until } => {
                if class.is_outage() {
                    until = now() + OUTAGE.delay(cause.waits.saturating_add(1), random());
                    tracing::warn!(reason = told, %until, waits = cause.waits, "something is away; waiting");
                } else {
                    tracing::info!(reason = told, %until, "waiting");
                }
                // Waiting is no attempt.
                let attempts = cause.attempt.saturating_sub(1);
                let waits = cause.waits.saturating_add(1);
                let counts = (attempts, waits);
                self.schedule_retry(message, cause, until, counts, told)
                    .await?;
                Ok(self.acknowledge(message, Settlement::Done, "waiting").await)
            }
        }
    }

    /// Leaves a message to others that nobody has begun with.
    pub(crate) async fn give_back(&self, message: &Incoming) {
        let cause = Cause::of(message, self.stage.max_attempts);
        let counts = (cause.attempt.saturating_sub(1), cause.waits);
        let until = now() + GIVE_BACK;
        let told = "the process that had it stopped";
        match self
            .schedule_retry(message, &cause, until, counts, told)
            .await
        {
            Ok(()) => drop(
                self.acknowledge(message, Settlement::Done, "given back")
                    .await,
            ),
            Err(error) => tracing::warn!(
                error,
                "a message could not be given back; it comes again by itself"
            ),
        }
    }

    /// Leaves a copy with the scheduler; the original is to be acknowledged.
    ///
    /// This is the only way in which a message is delayed. The server counts a message that is handed back to the
    /// consumer as delivered once more; so what was delivered more than once was neither finished nor put off.
    async fn schedule_retry(
        &self,
        message: &Incoming,
        cause: &Cause,
        until: DateTime<Utc>,
        (attempts, waits): (u32, u32),
        told: &str,
    ) -> Result<(), BoxError> {
        let stage = self.stage.name;
        let mut map = self.copied_headers(message, cause);
        set(&mut map, WAITS, &waits.to_string());
        let reason: String = told.chars().take(LONGEST_WAIT_REASON).collect();
        set(&mut map, WAITS_FOR, &reason);
        set(&mut map, ATTEMPTS, &attempts.to_string());
        // The copy continues this trace; a schedule's own context would be that of whoever made the schedule.
        inject(&mut map);
        let now = now();
        let until = until.clamp(now + TimeDelta::seconds(1), now + LONGEST_DELAY);
        // Schedules fire on whole seconds, and never before the time that was asked for.
        let until = until + TimeDelta::milliseconds(999);
        map.insert(SPEC, at(until).as_str());
        map.insert(TARGET, format!("sluice.due.retry.{stage}").as_str());
        // One message has one copy: where the acknowledgement is lost, the next copy replaces this one.
        let subject = format!(
            "sluice.schedule.retry.{stage}.{}.{}",
            message.stream, message.sequence
        );
        let copy = outgoing(subject, message.payload.clone(), &map);
        self.bus.store(copy).await?;
        crash::point("bus.postponed");
        Ok(())
    }

    async fn give_up(
        &self,
        message: &Incoming,
        cause: &Cause,
        reason: &str,
    ) -> Result<&'static str, BoxError> {
        tracing::error!(
            error = reason,
            attempts = cause.attempt,
            "given up; see `sluice dead-letters list`"
        );
        self.dead_letter(message, cause, reason).await?;
        Ok(self.acknowledge(message, Settlement::Never, "dead").await)
    }

    /// Keeps the message with its reason; the original is to be ended.
    async fn dead_letter(
        &self,
        message: &Incoming,
        cause: &Cause,
        reason: &str,
    ) -> Result<(), BoxError> {
        let mut map = self.copied_headers(message, cause);
        let reason: String = reason.chars().take(LONGEST_REASON).collect();
        set(&mut map, DEAD_REASON, &reason);
        set(&mut map, DEAD_SUBJECT, &message.subject);
        set(&mut map, DEAD_ATTEMPTS, &cause.attempt.to_string());
        let stage = self.stage.name;
        let subject = format!("sluice.dead.{stage}");
        let mut letter = outgoing(subject, message.payload.clone(), &map);
        let id = format!("dead/{stage}/{}/{}", message.stream, message.sequence);
        letter.message_id = Some(id);
        self.bus.store(letter).await?;
        crash::point("bus.buried");
        Ok(())
    }

    /// Copies the headers, and with them what this happening is called: a tick's own headers are those of all ticks.
    fn copied_headers(&self, message: &Incoming, cause: &Cause) -> async_nats::HeaderMap {
        let mut map = copied(Some(&message.headers), |_| true);
        set(&mut map, headers::ID, &cause.id);
        let time = cause.time.to_rfc3339_opts(SecondsFormat::Millis, true);
        set(&mut map, headers::TIME, &time);
        set(&mut map, OCCURRENCE, &cause.occurrence);
        map
    }
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
