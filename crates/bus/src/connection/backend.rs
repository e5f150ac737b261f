//! The operations that the bus needs of a server, as a simulation implements them in the place of NATS JetStream.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;

pub use crate::error::BackendError;
use crate::storage::entry::Update;

/// The result of a backend's operation, once it is awaited.
pub type BackendFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send + 'a>>;

/// Header names with their values.
pub type Headers = Vec<(String, String)>;

/// A message to be stored.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The subject that it is published on.
    pub subject: String,
    /// Its headers, except those that follow from the other fields.
    pub headers: Headers,
    /// Its body.
    pub payload: Bytes,
    /// The id by which the stream drops duplicates.
    pub message_id: Option<String>,
    /// The sequence that the last message of the subject must have, 0 for none; otherwise the message is refused.
    pub expected_sequence: Option<u64>,
    /// How long the stream keeps it.
    pub ttl: Option<Duration>,
}

/// The confirmation that a message is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishAck {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Whether the stream held it already.
    pub duplicate: bool,
}

/// The last message of a subject.
#[derive(Debug, Clone)]
pub struct LastMessage {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub payload: Bytes,
}

/// A message that is delivered to a stage.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The number by which it is acknowledged.
    pub receipt: u64,
    /// Its stream.
    pub stream: String,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// How many times it has been delivered, this time included.
    pub delivered: i64,
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub payload: Bytes,
}

/// An acknowledgement of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledgement {
    /// The work is done.
    Ack,
    /// The message must not be delivered again.
    Term,
    /// The work goes on: the server must not deliver the message to another worker yet.
    Progress,
}

/// What a bucket holds for a key: a value, or the marker of a removal.
#[derive(Debug, Clone)]
pub struct KeyState {
    /// The revision of the last change.
    pub revision: u64,
    /// The value; nothing after a removal.
    pub value: Option<Bytes>,
}

/// A simulation of NATS JetStream.
pub trait Backend: Debug + Send + Sync + 'static {
    /// Stores a message.
    fn publish(&self, message: Outgoing) -> BackendFuture<'_, PublishAck>;
    /// Acknowledges a delivery.
    fn acknowledge(&self, receipt: u64, how: Acknowledgement) -> BackendFuture<'_, ()>;
    /// Returns the last message of a subject.
    fn last(&self, subject: String) -> BackendFuture<'_, Option<LastMessage>>;
    /// Removes every message of a subject.
    fn purge(&self, subject: String) -> BackendFuture<'_, ()>;
    /// Returns the subjects that match a filter and have messages.
    fn subjects(&self, filter: String) -> BackendFuture<'_, Vec<String>>;
    /// Reads an entry.
    fn read(&self, bucket: &'static str, key: String) -> BackendFuture<'_, Option<KeyState>>;
    /// Writes an entry; with a revision (0 for a key that was never written) only while the key is at that revision.
    fn write(
        &self,
        bucket: &'static str,
        key: String,
        value: Bytes,
        revision: Option<u64>,
    ) -> BackendFuture<'_, u64>;
    /// Removes an entry; with a revision only while the key is at that revision.
    fn remove(
        &self,
        bucket: &'static str,
        key: String,
        revision: Option<u64>,
    ) -> BackendFuture<'_, ()>;
    /// Lists the last change of each key that matches a filter, removals included, in the order of the keys.
    fn last_changes(&self, bucket: &'static str, filter: String) -> BackendFuture<'_, Vec<Update>>;
    /// Watches the changes of a bucket from now on; earlier ones may be delivered again.
    fn watch(&self, bucket: &'static str) -> BackendFuture<'_, BoxStream<'static, Update>>;
}
