//! A message that was delivered to a stage, and its acknowledgement.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::jetstream::{AckKind, Message};
use bytes::Bytes;
use sluice_events::{EventId, headers};

use crate::connection::backend::{Acknowledgement, Backend, Delivery};
use crate::connection::headers::{ATTEMPTS, OCCURRENCE, WAITS, header, to_map};
use crate::error::BoxError;
use crate::streams::cause::Cause;

/// A message with its position in the stream.
#[derive(Debug)]
pub(crate) struct ReceivedMessage {
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
    pub(crate) stream: String,
    pub(crate) sequence: u64,
    /// How many times the server has delivered this message.
    pub(crate) delivered: i64,
    receipt: Receipt,
}

/// What an acknowledgement is sent to.
#[derive(Debug)]
enum Receipt {
    Server(Box<Message>),
    Simulated(Arc<dyn Backend>, u64),
}

impl ReceivedMessage {
    /// Reads a message of a server, which has to name its stream and sequence.
    pub(crate) fn new(message: Message) -> Result<Self, BoxError> {
        let info = message.info()?;
        Ok(Self {
            subject: message.subject.to_string(),
            headers: message.headers.clone().unwrap_or_default(),
            payload: message.payload.clone(),
            stream: info.stream.to_owned(),
            sequence: info.stream_sequence,
            delivered: info.delivered,
            receipt: Receipt::Server(Box::new(message)),
        })
    }

    pub(crate) fn simulated(backend: Arc<dyn Backend>, delivery: Delivery) -> Self {
        Self {
            subject: delivery.subject,
            headers: to_map(&delivery.headers),
            payload: delivery.payload,
            stream: delivery.stream,
            sequence: delivery.sequence,
            delivered: delivery.delivered,
            receipt: Receipt::Simulated(backend, delivery.receipt),
        }
    }

    /// Acknowledges the message and waits for the confirmation, except for progress.
    pub(crate) async fn acknowledge(&self, how: Acknowledgement) -> Result<(), BoxError> {
        let message = match &self.receipt {
            Receipt::Server(message) => message,
            Receipt::Simulated(backend, receipt) => {
                return Ok(backend.acknowledge(*receipt, how).await?);
            }
        };
        match how {
            Acknowledgement::Ack => message.double_ack().await,
            Acknowledgement::Term => message.double_ack_with(AckKind::Term).await,
            Acknowledgement::Progress => message.ack_with(AckKind::Progress).await,
        }
    }

    /// Says whether a schedule of a person or a stage fired the message; a delayed copy is no tick.
    pub(crate) fn is_tick(&self) -> bool {
        self.subject.starts_with("sluice.due.") && !self.subject.starts_with("sluice.due.retry.")
    }

    /// Returns the type of the message, as its publisher declared it.
    pub(crate) fn type_name(&self) -> String {
        header(Some(&self.headers), headers::TYPE).unwrap_or_default()
    }

    /// Returns the message as the cause of what a stage publishes for it.
    pub(crate) fn cause(&self, max_attempts: u32) -> Cause {
        let delivered = u32::try_from(self.delivered).unwrap_or(u32::MAX);
        let sequence = self.sequence;
        let read = |name: &str| header(Some(&self.headers), name);
        let number = |name| read(name).and_then(|text| text.parse::<u32>().ok());
        let attempt = number(ATTEMPTS).unwrap_or(0).saturating_add(delivered);
        let subject = self.subject.as_str();
        let is_tick = self.is_tick();
        // A schedule gives each of its ticks the same headers, so a tick is identified by its sequence.
        let id = match read(headers::ID) {
            Some(id) if !is_tick => id,
            _ => EventId::of("tick", subject, &sequence.to_string()).to_string(),
        };
        let occurrence = match read(OCCURRENCE) {
            Some(original) => original,
            None if is_tick => format!(
                "{}@{sequence}",
                read("Nats-Scheduler").unwrap_or_else(|| subject.to_owned())
            ),
            None => id.clone(),
        };
        let correlation = read(headers::CORRELATION_ID)
            .filter(|_| !is_tick)
            .unwrap_or_else(|| id.clone());
        // The time in the headers of a tick is that at which its schedule was stored.
        let time = read(headers::TIME)
            .filter(|_| !is_tick)
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(sluice_domain::now);
        Cause {
            id,
            correlation,
            occurrence,
            source: read(headers::SOURCE).unwrap_or_default(),
            time,
            attempt,
            last_attempt: attempt >= max_attempts,
            waits: number(WAITS).unwrap_or(0),
        }
    }
}
