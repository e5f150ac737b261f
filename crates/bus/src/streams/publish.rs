//! Publishing facts and commands; each is confirmed by its stream.

use async_nats::HeaderMap;
use bytes::Bytes;
use chrono::SecondsFormat;
use sluice_events::{Command, Event, EventId, headers};
use sluice_telemetry::metrics::EVENTS_PUBLISHED;

use super::cause::Cause;
use crate::connection::Bus;
use crate::connection::backend::{BackendError, Outgoing};
use crate::connection::headers::{from_map, inject_trace_context, set};
use crate::error::Error;
use crate::topology::COMMAND;

/// The confirmation that a stream holds a fact or a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedMessage {
    /// Its id.
    pub id: EventId,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Whether the stream held it already.
    pub duplicate: bool,
}

impl Bus {
    /// Publishes a fact and waits until the stream holds it; one occurrence of a fact is stored once.
    ///
    /// # Errors
    /// A server that does not confirm; the fact may be stored nevertheless, and publishing it again is safe.
    pub async fn publish(
        &self,
        event: &Event,
        cause: &Cause,
        occurrence: &str,
    ) -> Result<PublishedMessage, Error> {
        let id = event.id(occurrence);
        let headers = self.event_headers(event.type_name(), &id, Some(cause));
        let message = outgoing(event.subject(), event.encode().into(), &headers);
        let published = self.store_message(message, id, &id.to_string()).await?;
        if !published.duplicate {
            let registry = event.remote_registry();
            let registry = registry.as_ref().map_or("", |host| host.as_str());
            EVENTS_PUBLISHED.add(1, &[&self.service, event.name(), registry]);
        }
        Ok(published)
    }

    /// Publishes a command for a stage.
    pub async fn command(
        &self,
        command: &Command,
        cause: &Cause,
    ) -> Result<PublishedMessage, Error> {
        let id = EventId::random();
        self.command_once(command, cause, id, &id.to_string()).await
    }

    /// Publishes a command once: the stream drops a second one with this message id.
    pub async fn command_once(
        &self,
        command: &Command,
        cause: &Cause,
        id: EventId,
        message_id: &str,
    ) -> Result<PublishedMessage, Error> {
        let message = self.command_message(command, cause, id);
        self.store_message(message, id, message_id).await
    }

    /// Publishes a command unless one is pending on its subject or the stream knows this message id; says whether it did.
    pub async fn command_unless_pending(
        &self,
        command: &Command,
        cause: &Cause,
        message_id: &str,
    ) -> Result<bool, Error> {
        let mut message = self.command_message(command, cause, EventId::random());
        let subject = message.subject.clone();
        message.message_id = Some(message_id.to_owned());
        message.expected_sequence = Some(0);
        match self.store(message).await {
            Ok(ack) => Ok(!ack.duplicate),
            Err(BackendError::Conflict) => Ok(false),
            Err(error) => Err(Error::server("publish", subject)(error)),
        }
    }

    fn command_message(&self, command: &Command, cause: &Cause, id: EventId) -> Outgoing {
        let headers = self.event_headers(command.type_name(), &id, Some(cause));
        let subject = format!("{COMMAND}{}", command.topic());
        outgoing(subject, command.encode().into(), &headers)
    }

    async fn store_message(
        &self,
        mut message: Outgoing,
        id: EventId,
        message_id: &str,
    ) -> Result<PublishedMessage, Error> {
        message.message_id = Some(message_id.to_owned());
        let subject = message.subject.clone();
        let ack = self
            .store(message)
            .await
            .map_err(Error::server("publish", subject))?;
        Ok(PublishedMessage {
            id,
            sequence: ack.sequence,
            duplicate: ack.duplicate,
        })
    }

    /// Makes the CloudEvents headers, with the trace context of the current span.
    pub(crate) fn event_headers(
        &self,
        type_name: &str,
        id: &EventId,
        cause: Option<&Cause>,
    ) -> HeaderMap {
        let time = sluice_domain::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let mut map = HeaderMap::new();
        for (name, value) in [
            (headers::SPEC_VERSION, "1.0"),
            (headers::ID, &id.to_string()),
            (headers::SOURCE, &format!("/sluice/{}", self.service)),
            (headers::TYPE, type_name),
            (headers::TIME, &time),
            (headers::CONTENT_TYPE, "application/protobuf"),
        ] {
            set(&mut map, name, value);
        }
        if let Some(cause) = cause {
            set(&mut map, headers::CAUSATION_ID, &cause.id);
            set(&mut map, headers::CORRELATION_ID, &cause.correlation);
        }
        inject_trace_context(&mut map);
        map
    }
}

/// Makes a message without conditions.
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
