//! The connection.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Auth, AuthError, ConnectOptions, Event};
use secrecy::ExposeSecret as _;
use sluice_service::{BusSettings, Host, Latch};

use crate::backend::Link;
use crate::error::Error;
use crate::message_ids::MessageIds;
use crate::permission_violations::Denials;
use crate::room::Room;
use crate::storage_health::StorageHealth;

/// How often the server is asked whether it is there; after three silences the connection is made anew.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// A connection to NATS JetStream; cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus {
    pub(crate) link: Link,
    pub(crate) denials: Denials,
    pub(crate) service: String,
    pub(crate) storing: StorageHealth,
    pub(crate) ids: MessageIds,
    pub(crate) room: Room,
}

impl Bus {
    /// Connects; the connection then heals itself.
    ///
    /// # Errors
    /// Plain text beyond this machine that nobody allowed, a secret that cannot be read, a server that cannot be reached
    /// or is older than 2.14.
    pub async fn connect(settings: &BusSettings, service: &str) -> anyhow::Result<Self> {
        Self::open(settings, service, StorageHealth::default(), |_| {}).await
    }

    /// Connects as a service, which is not ready for as long as the connection is down.
    ///
    /// # Errors
    /// As [`Bus::connect`].
    pub async fn attach(
        settings: &BusSettings,
        service: &'static str,
        host: &Host,
    ) -> anyhow::Result<Self> {
        let down: Mutex<Option<Latch>> = Mutex::default();
        let host = host.clone();
        let storing = StorageHealth::of(host.clone());
        Self::open(settings, service, storing, move |event| {
            let mut down = down.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                Event::Connected => *down = None,
                Event::Disconnected => *down = Some(host.latch("bus")),
                _ => {}
            }
        })
        .await
    }

    async fn open(
        settings: &BusSettings,
        service: &str,
        storing: StorageHealth,
        notice: impl Fn(&Event) + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(
            settings.user.is_empty() || settings.password_file.is_some(),
            "`bus.user` is set without `bus.password_file`; give both or neither"
        );
        if let Some(problem) = settings.problem() {
            anyhow::bail!("{problem}");
        }
        let notice = Arc::new(notice);
        // Answers arrive where this user alone may listen.
        let inbox = match settings.user.as_str() {
            "" => service,
            user => user,
        };
        let denials = Denials::new(inbox);
        let (heard, told) = (storing.clone(), denials.clone());
        let mut ids = MessageIds::default();
        let mut options = ConnectOptions::new();
        if let Some(file) = settings.password_file.clone() {
            ids = MessageIds::of(&sluice_service::secret_file(&file)?);
            let user = settings.user.clone();
            // Read at each connection, so that a password can be changed while everything runs.
            options = ConnectOptions::with_auth_callback(move |_| {
                let (file, user) = (file.clone(), user.clone());
                async move {
                    let password = sluice_service::secret_file(&file).map_err(AuthError::new)?;
                    let mut auth = Auth::new();
                    auth.username = Some(user);
                    auth.password = Some(password.expose_secret().to_owned());
                    Ok(auth)
                }
            });
        }
        let mut options = options
            .name(format!("sluice-{service}"))
            .custom_inbox_prefix(format!("_INBOX_{inbox}"))
            .max_reconnects(None)
            .ping_interval(PING_INTERVAL)
            .event_callback(move |event| {
                let (notice, heard, denials) = (notice.clone(), heard.clone(), told.clone());
                async move {
                    log(&event);
                    denials.notice(&event);
                    if matches!(event, Event::Connected) {
                        heard.connected();
                    }
                    notice(&event);
                }
            });
        if let Some(ca) = &settings.ca_file {
            options = options.add_root_certificates(PathBuf::from(ca));
        }
        // Also where a server names others of its cluster, or pretends to have no TLS.
        options = options.require_tls(settings.is_encrypted());
        let client = options
            .connect(&settings.url)
            .await
            .map_err(Error::server("connect to", &settings.url))?;
        let version = client.server_info().version;
        if !client.is_server_compatible(2, 14, 0) {
            return Err(Error::OldServer { version }.into());
        }
        let mut js = jetstream::new(client);
        js.set_timeout(Duration::from_secs(10));
        Ok(Self {
            link: Link::Server(Box::new(js)),
            denials,
            service: service.to_owned(),
            storing,
            ids,
            room: Room::default(),
        })
    }

    /// Sends what is queued, the last acknowledgements among it.
    pub async fn flush(&self) {
        if let Link::Server(js) = &self.link
            && let Err(error) = js.client().flush().await
        {
            tracing::warn!(%error, "the last acknowledgements were not sent; their messages come again");
        }
    }
}

fn log(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        Event::Disconnected => tracing::warn!("disconnected from NATS; reconnecting"),
        // A missing permission is told here with its subject, and by `Denials` to the call.
        Event::ServerError(error) => tracing::error!(%error, "NATS refused an operation"),
        // We ended it ourselves: it is the last thing of every command and every stop.
        Event::Closed => tracing::debug!("left NATS"),
        other => tracing::warn!(event = %other, "NATS"),
    }
}
