//! Publishing: every fact is confirmed by the stream before anybody goes on.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use chrono::{SecondsFormat, Utc};
use sluice_events::{Command, Event, EventId, headers};

use crate::cause::Cause;
use crate::connect::Bus;
use crate::envelope::set;
use crate::error::Error;
use crate::telemetry::inject;
use crate::topology::{DEAD_LETTERS, EVENTS, SCHEDULES, WORK};

/// Pulls are many and soon of no interest.
const PULL_TTL: Duration = Duration::from_secs(24 * 3_600);

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
        let mut message = PublishMessage::build()
            .payload(event.encode().into())
            .headers(headers);
        if matches!(event, Event::TagPulled(_) | Event::ManifestPulled(_)) {
            message = message.ttl(PULL_TTL);
        }
        self.send(event.subject(), message, id, &id.to_string())
            .await
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
        let message = PublishMessage::build()
            .payload(command.encode().into())
            .headers(headers);
        self.send(
            format!("sluice.do.{}", command.topic()),
            message,
            id,
            message_id,
        )
        .await
    }

    async fn send(
        &self,
        subject: String,
        message: PublishMessage,
        id: EventId,
        message_id: &str,
    ) -> Result<Published, Error> {
        let message = message.message_id(message_id);
        let ack = self
            .confirmed(&subject, message)
            .await
            .map_err(Error::server("publish", subject.as_str()))?;
        Ok(Published {
            id,
            sequence: ack.sequence,
            duplicate: ack.duplicate,
        })
    }

    /// Sends a message and waits until its stream holds it.
    pub(crate) async fn confirmed(
        &self,
        subject: &str,
        message: PublishMessage,
    ) -> Result<PublishAck, PublishError> {
        let moment = self.storing.moment();
        let sent = async {
            self.js
                .send_publish(subject.to_owned(), message)
                .await?
                .await
        };
        self.storing
            .note(&self.js.client(), moment, stream_of(subject), sent.await)
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
            &Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
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
fn stream_of(subject: &str) -> &str {
    match subject.split('.').nth(1) {
        Some("v1") => EVENTS,
        Some("do") => WORK,
        Some("schedule" | "due") => SCHEDULES,
        Some("dead") => DEAD_LETTERS,
        _ => subject,
    }
}
