//! The connection to NATS JetStream, or to the simulation in its place.

mod authentication;
pub mod backend;
pub(crate) mod headers;
mod message_ids;
mod permission_violations;
mod schedule_room;
pub(crate) mod storage_health;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, jetstream};
use sluice_service::{BusSettings, Host, Latch, error_chain};
use tokio::time::sleep;

use self::authentication::Identity;
use self::backend::{Backend, Outgoing, PublishAck};
use self::headers::to_map;
use self::message_ids::MessageIds;
pub(crate) use self::permission_violations::PermissionViolations;
use self::schedule_room::ScheduleRoom;
use self::storage_health::StorageHealth;
use crate::error::{BackendError, Error};
use crate::topology::{SCHEDULE, stream_of};

/// The interval of pings; after three without an answer the client reconnects.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long a request to JetStream may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// The delays between the attempts of a service to reach a server at its start; the last one repeats.
const START_DELAYS: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// A connection to NATS JetStream; cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus {
    pub(crate) link: Link,
    pub(crate) violations: PermissionViolations,
    pub(crate) service: String,
    pub(crate) storage_health: StorageHealth,
    message_ids: MessageIds,
    schedule_room: ScheduleRoom,
}

/// What the bus is connected to.
#[derive(Debug, Clone)]
pub(crate) enum Link {
    Server(Box<Context>),
    Simulated(Arc<dyn Backend>),
}

impl Bus {
    /// Connects to a server; the client reconnects by itself.
    ///
    /// # Errors
    /// Settings that would send passwords in plain text, a secret that cannot be read, a server that is unreachable or
    /// older than 2.14.
    pub async fn connect(settings: &BusSettings, service: &str) -> anyhow::Result<Self> {
        Self::open(settings, service, StorageHealth::default(), None, |_| {}).await
    }

    /// Connects as a service, which is not ready while it is disconnected, and waits for a server that is unreachable.
    ///
    /// # Errors
    /// As [`Bus::connect`], except for an unreachable server.
    pub async fn connect_service(
        settings: &BusSettings,
        service: &'static str,
        host: &Host,
    ) -> anyhow::Result<Self> {
        let disconnected: Mutex<Option<Latch>> = Mutex::default();
        let host = host.clone();
        let storage_health = StorageHealth::of_host(host.clone());
        let starting = host.clone();
        let on_event = move |event: &Event| {
            let mut latch = disconnected.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                Event::Connected => *latch = None,
                Event::Disconnected => *latch = Some(host.latch("bus")),
                _ => {}
            }
        };
        Self::open(settings, service, storage_health, Some(&starting), on_event).await
    }

    async fn open(
        settings: &BusSettings,
        service: &str,
        storage_health: StorageHealth,
        waiting: Option<&Host>,
        on_event: impl Fn(&Event) + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(
            settings.user.is_empty() || settings.password_file.is_some(),
            "`bus.user` is set without `bus.password_file`; give both or neither"
        );
        if let Some(problem) = settings.problem() {
            anyhow::bail!("{problem}");
        }
        let Identity {
            options,
            message_ids,
            inbox,
        } = Identity::of(settings, service)?;
        let violations = PermissionViolations::new(&inbox);
        let handle_event = {
            let (storage_health, violations) = (storage_health.clone(), violations.clone());
            Arc::new(move |event: &Event| {
                log_event(event);
                violations.record(event);
                if matches!(event, Event::Connected) {
                    storage_health.reset();
                }
                on_event(event);
            })
        };
        let mut options = options
            .name(format!("sluice-{service}"))
            .custom_inbox_prefix(format!("_INBOX_{inbox}"))
            .max_reconnects(None)
            .ping_interval(PING_INTERVAL)
            .event_callback(move |event| {
                let handle_event = handle_event.clone();
                async move { handle_event(&event) }
            });
        if let Some(ca) = &settings.ca_file {
            options = options.add_root_certificates(PathBuf::from(ca));
        }
        // Also required of other servers of a cluster, and of a server that offers no TLS.
        options = options.require_tls(settings.is_encrypted());
        let client = connect(options, &settings.url, waiting).await?;
        let version = client.server_info().version;
        if !client.is_server_compatible(2, 14, 0) {
            return Err(Error::OldServer { version }.into());
        }
        let mut context = jetstream::new(client);
        context.set_timeout(REQUEST_LIMIT);
        Ok(Self {
            link: Link::Server(Box::new(context)),
            violations,
            service: service.to_owned(),
            storage_health,
            message_ids,
            schedule_room: ScheduleRoom::default(),
        })
    }

    /// Makes a bus over a simulation.
    #[must_use]
    pub fn simulated(backend: Arc<dyn Backend>, service: &str) -> Self {
        Self {
            link: Link::Simulated(backend),
            violations: PermissionViolations::new(service),
            service: service.to_owned(),
            storage_health: StorageHealth::default(),
            message_ids: MessageIds::default(),
            schedule_room: ScheduleRoom::default(),
        }
    }

    /// Says whether the server is connected; a simulation always is.
    pub(crate) fn is_connected(&self) -> bool {
        match &self.link {
            Link::Server(context) => context.client().connection_state() == State::Connected,
            Link::Simulated(_) => true,
        }
    }

    pub(crate) const fn is_simulated(&self) -> bool {
        matches!(self.link, Link::Simulated(_))
    }

    /// Returns the JetStream context, for operations that a simulation does not have.
    pub(crate) fn server(&self) -> Result<&Context, Error> {
        match &self.link {
            Link::Server(context) => Ok(context),
            Link::Simulated(_) => Err(Error::server("use", "a server")(
                "this bus is connected to a simulation",
            )),
        }
    }

    /// Stores a message and waits for the confirmation.
    pub(crate) async fn store(&self, mut message: Outgoing) -> Result<PublishAck, BackendError> {
        let context = match &self.link {
            Link::Server(context) => context,
            Link::Simulated(backend) => return backend.publish(message).await,
        };
        message.message_id = message.message_id.map(|id| self.message_ids.derive(&id));
        let subject = message.subject.clone();
        let stored = async {
            if subject.starts_with(SCHEDULE) {
                let stream = stream_of(&subject);
                self.schedule_room.take(context, stream, &message).await?;
            }
            self.publish_confirmed(context, message).await
        };
        self.violations.fail_on(&[&subject], stored).await
    }

    async fn publish_confirmed(
        &self,
        context: &Context,
        message: Outgoing,
    ) -> Result<PublishAck, BackendError> {
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
        let stream = stream_of(&message.subject).to_owned();
        let sent = async { context.send_publish(message.subject, publish).await?.await };
        match self.storage_health.watch(context, &stream, sent).await {
            Ok(ack) => Ok(PublishAck {
                sequence: ack.sequence,
                duplicate: ack.duplicate,
            }),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Err(BackendError::Conflict)
            }
            Err(error) => Err(BackendError::failed(error)),
        }
    }

    /// Sends what the client has queued, such as the last acknowledgements.
    pub async fn flush(&self) {
        if let Link::Server(context) = &self.link
            && let Err(error) = context.client().flush().await
        {
            tracing::warn!(%error, "the last acknowledgements were not sent; their messages are delivered again");
        }
    }
}

/// Connects; a host waits for a server that is unreachable, and is not ready meanwhile.
async fn connect(
    options: ConnectOptions,
    url: &str,
    waiting: Option<&Host>,
) -> Result<Client, Error> {
    let servers: Vec<&str> = url.split(',').map(str::trim).collect();
    let mut delays = START_DELAYS.into_iter();
    let mut delay = Duration::ZERO;
    let mut latch = None;
    loop {
        let error = match options.clone().connect(servers.as_slice()).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        let is_unreachable = matches!(
            error.kind(),
            ConnectErrorKind::Dns
                | ConnectErrorKind::Io
                | ConnectErrorKind::TimedOut
                | ConnectErrorKind::MaxReconnects
        );
        let Some(host) = waiting.filter(|_| is_unreachable) else {
            return Err(Error::server("connect to", url)(error));
        };
        latch.get_or_insert_with(|| host.latch("bus"));
        delay = delays.next().unwrap_or(delay);
        tracing::warn!(
            url,
            error = error_chain(&error),
            retry_after = ?delay,
            "NATS is unreachable; not ready until it is"
        );
        sleep(delay).await;
    }
}

fn log_event(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        Event::Disconnected => tracing::warn!("disconnected from NATS; reconnecting"),
        // A permission violation also fails the operation that is waiting, through `PermissionViolations`.
        Event::ServerError(error) => tracing::error!(%error, "NATS refused an operation"),
        // Every command and every service closes its connection at its end.
        Event::Closed => tracing::debug!("closed the connection to NATS"),
        other => tracing::warn!(event = %other, "NATS"),
    }
}
