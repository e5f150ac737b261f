//! A message that a stage was given, and how it is settled.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::jetstream::{AckKind, Message};
use bytes::Bytes;

use crate::backend::{Backend, Delivery, Settlement, to_map};
use crate::handler::BoxError;

/// A message with its place in the stream.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
    pub(crate) stream: String,
    pub(crate) sequence: u64,
    /// How often the server has delivered this copy.
    pub(crate) delivered: i64,
    receipt: Receipt,
}

#[derive(Debug)]
enum Receipt {
    Server(Box<Message>),
    Simulated(Arc<dyn Backend>, u64),
}

impl Incoming {
    /// Takes a message from a server; one that does not say where it is from is none.
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

    pub(crate) fn supplied(backend: Arc<dyn Backend>, delivery: Delivery) -> Self {
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

    /// Settles the message and waits for the confirmation, but for a sign of life.
    pub(crate) async fn settle(&self, how: Settlement) -> Result<(), BoxError> {
        let message = match &self.receipt {
            Receipt::Server(message) => message,
            Receipt::Simulated(backend, receipt) => {
                return Ok(backend.settle(*receipt, how).await?);
            }
        };
        match how {
            Settlement::Done => message.double_ack().await,
            Settlement::Never => message.double_ack_with(AckKind::Term).await,
            Settlement::Working => message.ack_with(AckKind::Progress).await,
        }
    }
}
