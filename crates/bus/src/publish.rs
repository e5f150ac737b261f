//! Publishing: every fact is confirmed by the stream before anybody goes on.

use async_nats::HeaderMap;
use bytes::Bytes;
use chrono::SecondsFormat;
use sluice_events::{Command, Event, EventId, headers};

use crate::backend::{Outgoing, Refusal, from_map};
use crate::cause::Cause;
use crate::connect::Bus;
use crate::envelope::set;
use crate::error::Error;
use crate::subject_patterns::covers;
use crate::telemetry::inject;
use crate::topology::{DEAD_LETTERS, EVENTS, PULL_SUBJECTS, PULLS, SCHEDULE, Stage, WORK};

/// A message that the stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its id.
    pub id: EventId,
    /// Its place in the stream.
    pub sequence: u64,
    /// Whether the stream held it already.
    pub duplicate: bool,
}

impl Bus {
    /// Publishes a fact and waits until the stream holds it; the same happening is held once.
    ///
    /// # Errors
    /// A server that does not confirm; the fact may be held all the same, and publishing again is safe.
    pub async fn publish(
        &self,
        event: &Event,
        cause: &Cause,
        occurrence: &str,
    ) -> Result<Published, Error> {
        let id = event.id(occurrence);
        let headers = self.headers(event.type_name(), &id, Some(cause));
        let message = outgoing(event.subject(), event.encode().into(), &headers);
        self.send(message, id, &id.to_string()).await
    }

    /// Asks a stage to do something.
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub async fn command(&self, command: &Command, cause: &Cause) -> Result<Published, Error> {
        let id = EventId::random();
        self.command_once(command, cause, id, &id.to_string()).await
    }

    /// Asks for something once: a second command with this message id is dropped by the stream.
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub async fn command_once(
        &self,
        command: &Command,
        cause: &Cause,
        id: EventId,
        message_id: &str,
    ) -> Result<Published, Error> {
        let headers = self.headers(command.type_name(), &id, Some(cause));
        let subject = format!("sluice.do.{}", command.topic());
        let message = outgoing(subject, command.encode().into(), &headers);
        self.send(message, id, message_id).await
    }

    /// Asks for something unless the same is asked for already: a command waits on its subject, or this message id is known.
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub async fn command_unless_waiting(
        &self,
        command: &Command,
        cause: &Cause,
        message_id: &str,
    ) -> Result<bool, Error> {
        let subject = format!("sluice.do.{}", command.topic());
        let headers = self.headers(command.type_name(), &EventId::random(), Some(cause));
        let mut message = outgoing(subject.clone(), command.encode().into(), &headers);
        message.message_id = Some(message_id.to_owned());
        message.expected_sequence = Some(0);
        match self.store(message).await {
            Ok(stored) => Ok(!stored.duplicate),
            Err(Refusal::Conflict) => Ok(false),
            Err(error) => Err(Error::server("publish", subject)(error)),
        }
    }

    async fn send(
        &self,
        mut message: Outgoing,
        id: EventId,
        message_id: &str,
    ) -> Result<Published, Error> {
        message.message_id = Some(message_id.to_owned());
        let subject = message.subject.clone();
        let ack = self
            .store(message)
            .await
            .map_err(Error::server("publish", subject))?;
        Ok(Published {
            id,
            sequence: ack.sequence,
            duplicate: ack.duplicate,
        })
    }

    /// Makes the CloudEvents headers, with the trace context of the current span.
    pub(crate) fn headers(
        &self,
        type_name: &str,
        id: &EventId,
        cause: Option<&Cause>,
    ) -> HeaderMap {
        let mut map = HeaderMap::new();
        set(&mut map, headers::SPEC_VERSION, "1.0");
        set(&mut map, headers::ID, &id.to_string());
        set(
            &mut map,
            headers::SOURCE,
            &format!("/sluice/{}", self.service),
        );
        set(&mut map, headers::TYPE, type_name);
        set(
            &mut map,
            headers::TIME,
            &sluice_domain::now().to_rfc3339_opts(SecondsFormat::Millis, true),
        );
        set(&mut map, headers::CONTENT_TYPE, "application/protobuf");
        if let Some(cause) = cause {
            set(&mut map, headers::CAUSATION_ID, &cause.id);
            set(&mut map, headers::CORRELATION_ID, &cause.correlation);
        }
        inject(&mut map);
        map
    }
}

/// Names the stream that holds a subject.
pub(crate) fn stream_of(subject: &str) -> &str {
    if let Some(name) = subject.strip_prefix(SCHEDULE) {
        return Stage::of_schedule(name).map_or(subject, |stage| stage.schedules);
    }
    if PULL_SUBJECTS.iter().any(|pulls| covers(pulls, subject)) {
        return PULLS;
    }
    match subject.split('.').nth(1) {
        Some("v1") => EVENTS,
        Some("do") => WORK,
        Some("dead") => DEAD_LETTERS,
        _ => subject,
    }
}

/// Makes a message with nothing asked of the stream.
pub(crate) fn outgoing(subject: String, payload: Bytes, headers: &HeaderMap) -> Outgoing {
    Outgoing {
        subject,
        headers: from_map(headers),
        payload,
        message_id: None,
        expected_sequence: None,
        ttl: None,
    }
}
