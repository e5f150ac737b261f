//! What the bus needs of a server: NATS JetStream, or what a simulation puts in its place.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use thiserror::Error;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use crate::connect::Bus;
use crate::consume::ConsumeSettings;
use crate::error::Error;
use crate::handler::{BoxError, Handler};
use crate::incoming::Incoming;
use crate::kv::Update;
use crate::message_ids::MessageIds;
use crate::permission_violations::Denials;
use crate::publish::stream_of;
use crate::room::Room;
use crate::settle::Worker;
use crate::storage_health::StorageHealth;
use crate::topology::{SCHEDULE, Stage};

/// What a backend will say.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// Headers with their values.
pub type Headers = Vec<(String, String)>;

/// Why something was not done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// What is stored is not what the writer had read.
    #[error("somebody else changed it first")]
    Conflict,
    /// Anything else; it may have been done all the same.
    #[error(transparent)]
    Failed(#[from] BoxError),
}

impl Refusal {
    pub(crate) fn failed(error: impl Into<BoxError>) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::failed(error)
    }
}

/// A message to be stored.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where to.
    pub subject: String,
    /// Its headers, but those that follow from the other fields.
    pub headers: Headers,
    /// Its body.
    pub payload: Bytes,
    /// The stream holds no two messages with this id at a time.
    pub message_id: Option<String>,
    /// It is only stored while this is the sequence of the last message of its subject; 0 for none.
    pub expected_sequence: Option<u64>,
    /// How long it is kept.
    pub ttl: Option<Duration>,
}

/// The confirmation that a message is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the stream.
    pub sequence: u64,
    /// Whether it was stored already.
    pub duplicate: bool,
}

/// The last message of a subject.
#[derive(Debug, Clone)]
pub struct Last {
    /// Its place in the stream.
    pub sequence: u64,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub payload: Bytes,
}

/// A message that is given to a stage.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What it is settled by.
    pub receipt: u64,
    /// Its stream.
    pub stream: String,
    /// Its place there.
    pub sequence: u64,
    /// How often it has been delivered by now.
    pub delivered: i64,
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub payload: Bytes,
}

/// What is said of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It is done.
    Done,
    /// It is never to be delivered again.
    Never,
    /// It is being worked on.
    Working,
}

/// An entry of a bucket, or the mark that one was removed.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Its revision.
    pub revision: u64,
    /// Its value; nothing where it was removed.
    pub value: Option<Bytes>,
}

/// What a simulation puts in the place of NATS JetStream.
pub trait Backend: Debug + Send + Sync + 'static {
    /// Stores a message.
    fn publish(&self, message: Outgoing) -> Answer<'_, Stored>;
    /// Settles a delivery.
    fn settle(&self, receipt: u64, how: Settlement) -> Answer<'_, ()>;
    /// Returns the last message of a subject.
    fn last(&self, subject: String) -> Answer<'_, Option<Last>>;
    /// Removes every message of a subject.
    fn purge(&self, subject: String) -> Answer<'_, ()>;
    /// Returns the subjects that match a filter and have messages.
    fn subjects(&self, filter: String) -> Answer<'_, Vec<String>>;
    /// Reads an entry.
    fn read(&self, bucket: &'static str, key: String) -> Answer<'_, Option<Mark>>;
    /// Writes an entry if it is still at this revision (0 for one that was never written), or whatever it is.
    fn write(
        &self,
        bucket: &'static str,
        key: String,
        value: Bytes,
        revision: Option<u64>,
    ) -> Answer<'_, u64>;
    /// Removes an entry if it is still at this revision, or whatever it is.
    fn remove(&self, bucket: &'static str, key: String, revision: Option<u64>) -> Answer<'_, ()>;
    /// Lists the last change of each key that matches a filter, removals among them, in the order of the keys.
    fn newest(&self, bucket: &'static str, filter: String) -> Answer<'_, Vec<Update>>;
    /// Watches the changes of a bucket from now on; old ones may be delivered again.
    fn watch(&self, bucket: &'static str) -> Answer<'_, BoxStream<'static, Update>>;
}

/// Where the bus leads to.
#[derive(Debug, Clone)]
pub(crate) enum Link {
    Server(Box<Context>),
    Simulated(Arc<dyn Backend>),
}

impl Bus {
    /// Makes a bus of a backend that is not NATS.
    #[must_use]
    pub fn supplied(backend: Arc<dyn Backend>, service: &str) -> Self {
        Self {
            link: Link::Simulated(backend),
            denials: Denials::new(service),
            service: service.to_owned(),
            storing: StorageHealth::default(),
            ids: MessageIds::default(),
            room: Room::default(),
        }
    }

    /// Says whether the server can be asked; what a simulation supplies always can.
    pub(crate) fn is_connected(&self) -> bool {
        match &self.link {
            Link::Server(context) => context.client().connection_state() == State::Connected,
            Link::Simulated(_) => true,
        }
    }

    /// Returns the connection, for what only a server can do.
    pub(crate) fn server(&self) -> Result<&Context, Error> {
        match &self.link {
            Link::Server(context) => Ok(context),
            Link::Simulated(_) => Err(Error::server("use", "a server")(
                "this bus leads to no server",
            )),
        }
    }

    /// Stores a message and waits for the confirmation.
    pub(crate) async fn store(&self, mut message: Outgoing) -> Result<Stored, Refusal> {
        let context = match &self.link {
            Link::Server(context) => context,
            Link::Simulated(backend) => return backend.publish(message).await,
        };
        message.message_id = message.message_id.map(|id| self.ids.own(&id));
        let subject = message.subject.clone();
        let confirmed = async {
            if subject.starts_with(SCHEDULE) {
                self.room
                    .take(context, stream_of(&subject), &message)
                    .await?;
            }
            confirmed(context, &self.storing, message).await
        };
        self.denials
            .fail_on_permission_violation(&[&subject], confirmed)
            .await
    }
}

async fn confirmed(
    context: &Context,
    storing: &StorageHealth,
    message: Outgoing,
) -> Result<Stored, Refusal> {
    let mut publish = PublishMessage::build()
        .payload(message.payload)
        .headers(to_map(&message.headers));
    if let Some(id) = message.message_id {
        publish = publish.message_id(id);
    }
    if let Some(sequence) = message.expected_sequence {
        publish = publish.expected_last_subject_sequence(sequence);
    }
    if let Some(ttl) = message.ttl {
        publish = publish.ttl(ttl);
    }
    let moment = storing.moment();
    let subject = message.subject.clone();
    let sent = async { context.send_publish(message.subject, publish).await?.await };
    let sent = sent.await;
    match storing.note(&context.client(), moment, stream_of(&subject), sent) {
        Ok(ack) => Ok(Stored {
            sequence: ack.sequence,
            duplicate: ack.duplicate,
        }),
        Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Err(Refusal::Conflict),
        Err(error) => Err(Refusal::failed(error)),
    }
}

/// One replica of a stage without the loop that pulls, for a simulation that decides itself what is delivered when.
#[derive(Debug)]
pub struct Replica<H> {
    worker: Worker<H>,
    backend: Arc<dyn Backend>,
}

impl<H: Handler> Replica<H> {
    /// Makes a replica.
    #[must_use]
    pub fn new(
        backend: Arc<dyn Backend>,
        bus: Bus,
        stage: &'static Stage,
        handler: H,
        settings: ConsumeSettings,
    ) -> Self {
        let worker = Worker {
            bus,
            stage,
            handler,
            settings,
            ack_wait: stage.ack_wait,
            alone: RwLock::new(()),
            stopping: CancellationToken::new(),
        };
        Self { worker, backend }
    }

    /// Settles one message as the consume loop does; dropping the future is the death of the process.
    pub async fn process(&self, delivery: Delivery) {
        let message = Incoming::supplied(self.backend.clone(), delivery);
        self.worker.process(message).await;
    }
}

pub(crate) fn to_map(headers: &[(String, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let Ok(value) = value.parse::<async_nats::HeaderValue>() {
            map.append(name.as_str(), value);
        }
    }
    map
}

pub(crate) fn from_map(map: &HeaderMap) -> Headers {
    let all = map.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values
            .iter()
            .map(move |value| (name.to_owned(), value.as_str().to_owned()))
    });
    let mut headers: Headers = all.collect();
    headers.sort();
    headers
}
