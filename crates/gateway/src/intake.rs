//! The intake of the registry's notifications: 2xx only once the stream holds the facts, but for pulls.
//!
//! The registry sends one notification at a time and repeats it until it is taken, and everything behind it waits. So
//! what can never be understood is taken too, with an error in the log, and only what may work later is refused.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State as Extract;
use axum::http::{HeaderMap, StatusCode};
use futures_util::StreamExt as _;
use secrecy::SecretString;
use sluice_bus::{Bus, Cause, Fact};
use sluice_domain::{Digest, RegistryHost};
use sluice_events::Event;
use sluice_events::subject::of_repository;
use sluice_service::crash;
use sluice_state::{State, key};
use tokio::sync::{Mutex, Semaphore};

use crate::notifications::{DecodedNotification, Envelope};
use crate::pulls::Pulls;
use crate::reconcile::restarted;
use crate::secret::is_bearer;

/// The largest body; without references, which are not needed, a notification has about a thousand bytes.
const MAX_BODY: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// How many are worked on at once; each replica of a registry sends one.
const AT_ONCE: usize = 16;

/// How many processes of the registry are remembered; each that is not leads to a comparison.
const MOST_INSTANCES: usize = 64;

/// Takes notifications.
pub(crate) struct Intake {
    pub(crate) bus: Bus,
    pub(crate) state: State,
    /// The internal registry, as clients name it.
    pub(crate) registry: RegistryHost,
    pub(crate) secret: SecretString,
    /// Where pulls are left.
    pub(crate) pulls: Pulls,
    pub(crate) places: Semaphore,
    /// The processes of the registry that have spoken, the latest last.
    pub(crate) instances: Mutex<VecDeque<String>>,
}

impl Intake {
    pub(crate) fn new(
        bus: Bus,
        state: State,
        registry: RegistryHost,
        secret: SecretString,
        pulls: Pulls,
    ) -> Self {
        Self {
            pulls,
            bus,
            state,
            registry,
            secret,
            places: Semaphore::new(AT_ONCE),
            instances: Mutex::default(),
        }
    }
}

/// Publishes what a notification tells.
pub(crate) async fn take(
    Extract(intake): Extract<Arc<Intake>>,
    headers: HeaderMap,
    body: Body,
) -> StatusCode {
    if !is_bearer(&headers, &intake.secret) {
        // This holds up the queue of a registry whose secret is not ours, as it must: its notifications are not lost.
        tracing::warn!("a notification without the secret was refused");
        return StatusCode::UNAUTHORIZED;
    }
    let Ok(_place) = intake.places.try_acquire() else {
        return StatusCode::SERVICE_UNAVAILABLE;
    };
    let envelope = match tokio::time::timeout(BODY_LIMIT, read(body)).await {
        Ok(Ok(envelope)) => envelope,
        Ok(Err(Unread::Cut)) | Err(_) => return StatusCode::BAD_REQUEST,
        Ok(Err(Unread::Never(reason))) => {
            tracing::error!(reason, "a notification is lost: it cannot be understood");
            return StatusCode::ACCEPTED;
        }
    };
    let mut pulled = Vec::new();
    for notification in envelope.events {
        if let Err(error) = intake.note(notification.instance()).await {
            tracing::warn!(%error, "a restart of the registry could not be told; the registry sends this again");
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let told = match notification.read(&intake.registry) {
            Ok(Some(told)) => told,
            Ok(None) => continue,
            Err(error) => {
                let id: String = notification.id().chars().take(64).collect();
                tracing::error!(%error, id, "a notification is lost: it cannot be understood");
                continue;
            }
        };
        // What comes again because of a push must not be a second flood.
        if told.is_pull() {
            pulled.push(told);
            continue;
        }
        if let Err(error) = intake.tell(told).await {
            tracing::warn!(%error, "a notification could not be published; the registry sends it again");
            return StatusCode::SERVICE_UNAVAILABLE;
        }
    }
    for told in pulled {
        intake.pulls.offer(told);
    }
    StatusCode::OK
}

enum Unread {
    /// The sender went away.
    Cut,
    /// It is nothing that could be understood later.
    Never(String),
}

async fn read(body: Body) -> Result<Envelope, Unread> {
    let mut bytes = Vec::new();
    let mut too_large = false;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Unread::Cut)?;
        // What is too large is still read to its end, for a sender that is cut off would send it for ever.
        too_large |= bytes.len() + chunk.len() > MAX_BODY;
        if !too_large {
            bytes.extend_from_slice(&chunk);
        }
    }
    if too_large {
        return Err(Unread::Never(format!("it is larger than {MAX_BODY} bytes")));
    }
    Envelope::read(&bytes).map_err(Unread::Never)
}

impl Intake {
    /// Notes which process of the registry speaks. What an earlier one had not told yet, nobody tells any more.
    async fn note(&self, instance: Option<&str>) -> Result<(), sluice_state::Error> {
        let Some(instance) = instance else {
            return Ok(());
        };
        let known = |instances: &VecDeque<String>| instances.iter().any(|known| known == instance);
        if known(&*self.instances.lock().await) {
            return Ok(());
        }
        restarted(&self.bus, instance).await?;
        let mut instances = self.instances.lock().await;
        if !known(&instances) {
            instances.push_back(instance.to_owned());
        }
        if instances.len() > MOST_INSTANCES {
            instances.pop_front();
        }
        Ok(())
    }

    async fn tell(&self, told: DecodedNotification) -> Result<(), sluice_state::Error> {
        if let Some(digest) = &told.digest
            && self
                .state
                .tombstones
                .get(&key::image(digest))
                .await?
                .is_some()
        {
            return Ok(());
        }
        if told.may_be_blob && !self.is_manifest(&told).await? {
            tracing::info!(image.digest = ?told.digest, "a deletion is not told: no manifest of this digest is known");
            return Ok(());
        }
        // The registry's id is what tells this happening from the next, and what its facts have in common.
        let cause = Cause::external(told.id.clone());
        for fact in &told.facts {
            self.bus.publish(fact, &cause, &told.id).await?;
            crash::point_of("gateway.fact_told", fact.name());
        }
        Ok(())
    }

    /// Says whether a digest is known as one of a manifest: some stage has described it, or its push is in the log.
    async fn is_manifest(&self, told: &DecodedNotification) -> Result<bool, sluice_state::Error> {
        let (Some(digest), Some(Event::ManifestDeleted(fact))) = (&told.digest, told.facts.first())
        else {
            return Ok(false);
        };
        if self.state.images.get(&key::image(digest)).await?.is_some() {
            return Ok(true);
        }
        let filter = format!(
            "sluice.v1.manifest.pushed.{}",
            of_repository(&fact.repository)
        );
        Ok(was_pushed(digest, &self.bus.facts(&filter).await?))
    }
}

fn was_pushed(digest: &Digest, facts: &[Fact]) -> bool {
    facts.iter().any(|fact| match &fact.event {
        Some(Event::ManifestPushed(pushed)) => pushed.digest == *digest,
        _ => false,
    })
}
