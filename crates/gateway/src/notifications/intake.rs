//! The intake of the registry's notifications: answers 2xx only once the stream holds the events, except those of
//! pulls.
//!
//! The registry sends one notification at a time and repeats it until it is accepted, and all others wait. So a
//! notification that can never be decoded is accepted too, with an error in the log; only one that may succeed later is
//! refused.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State as Extract;
use axum::http::{HeaderMap, StatusCode};
use futures_util::StreamExt as _;
use secrecy::SecretString;
use sluice_bus::topology::GATEWAY;
use sluice_bus::{Bus, Cause, Fact};
use sluice_domain::{Digest, RegistryHost};
use sluice_events::Event;
use sluice_events::subject::of_repository;
use sluice_service::crash;
use sluice_state::reconcile::{self, reason};
use sluice_state::{State, key};
use tokio::sync::{Mutex, Semaphore};

use super::decode::{DecodedNotification, Envelope};
use super::pulls::PullQueue;
use crate::tokens::bearer::is_bearer;

/// The largest body; without references, which are not needed, a notification has about a thousand bytes.
const MAX_BODY: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How many notifications are processed at a time; each replica of a registry sends one.
const CONCURRENCY: usize = 16;
/// How many processes of the registry are known; a notification of an unknown one requests a comparison.
const MAX_INSTANCES: usize = 64;

/// The intake of notifications.
pub(crate) struct Intake {
    pub(crate) bus: Bus,
    pub(crate) state: State,
    /// The internal registry, as clients name it.
    pub(crate) registry: RegistryHost,
    pub(crate) secret: SecretString,
    pub(crate) pulls: PullQueue,
    pub(crate) permits: Semaphore,
    /// The processes of the registry that have sent notifications, the latest last.
    pub(crate) instances: Mutex<VecDeque<String>>,
}

impl Intake {
    pub(crate) fn new(
        bus: Bus,
        state: State,
        registry: RegistryHost,
        secret: SecretString,
        pulls: PullQueue,
    ) -> Self {
        Self {
            pulls,
            bus,
            state,
            registry,
            secret,
            permits: Semaphore::new(CONCURRENCY),
            instances: Mutex::default(),
        }
    }
}

/// Publishes the events of a notification.
pub(crate) async fn receive(
    Extract(intake): Extract<Arc<Intake>>,
    headers: HeaderMap,
    body: Body,
) -> StatusCode {
    if !is_bearer(&headers, &intake.secret) {
        // This blocks the queue of a registry with another secret, so that its notifications are not lost.
        tracing::warn!("refused a notification without the secret");
        return StatusCode::UNAUTHORIZED;
    }
    let Ok(_permit) = intake.permits.try_acquire() else {
        return StatusCode::SERVICE_UNAVAILABLE;
    };
    let envelope = match tokio::time::timeout(BODY_TIMEOUT, read_body(body)).await {
        Ok(Ok(envelope)) => envelope,
        Ok(Err(BodyError::Interrupted)) | Err(_) => return StatusCode::BAD_REQUEST,
        Ok(Err(BodyError::Invalid(reason))) => {
            tracing::error!(reason, "lost a notification that cannot be decoded");
            return StatusCode::ACCEPTED;
        }
    };
    let mut pulls = Vec::new();
    for notification in envelope.events {
        if let Err(error) = intake.record_instance(notification.instance()).await {
            tracing::warn!(%error, "failed to request a comparison after a restart of the registry; the registry sends this notification again");
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let decoded = match notification.decode(&intake.registry) {
            Ok(Some(decoded)) => decoded,
            Ok(None) => continue,
            Err(error) => {
                let id: String = notification.id().chars().take(64).collect();
                tracing::error!(%error, id, "lost a notification that cannot be decoded");
                continue;
            }
        };
        // A body that the registry sends again because of a push must not queue its pulls twice.
        if decoded.is_pull() {
            pulls.push(decoded);
            continue;
        }
        if let Err(error) = intake.publish(decoded).await {
            tracing::warn!(%error, "failed to publish the events of a notification; the registry sends it again");
            return StatusCode::SERVICE_UNAVAILABLE;
        }
    }
    for pull in pulls {
        intake.pulls.offer(pull);
    }
    StatusCode::OK
}

/// Why a body was not read.
enum BodyError {
    /// The connection broke.
    Interrupted,
    /// The body can never be decoded.
    Invalid(String),
}

async fn read_body(body: Body) -> Result<Envelope, BodyError> {
    let mut bytes = Vec::new();
    let mut too_large = false;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| BodyError::Interrupted)?;
        // A body that is too large is still read to its end: after a broken connection it would be sent for ever.
        too_large |= bytes.len() + chunk.len() > MAX_BODY;
        if !too_large {
            bytes.extend_from_slice(&chunk);
        }
    }
    if too_large {
        return Err(BodyError::Invalid(format!(
            "the body is larger than {MAX_BODY} bytes"
        )));
    }
    Envelope::parse(&bytes).map_err(BodyError::Invalid)
}

impl Intake {
    /// Records the process of the registry. A new one shows a restart, which loses the notifications that were not
    /// sent, so a comparison is requested, once for each process.
    async fn record_instance(&self, instance: Option<&str>) -> Result<(), sluice_state::Error> {
        let Some(instance) = instance else {
            return Ok(());
        };
        let is_known =
            |instances: &VecDeque<String>| instances.iter().any(|known| known == instance);
        if is_known(&*self.instances.lock().await) {
            return Ok(());
        }
        reconcile::request(&self.bus, &GATEWAY, reason::RESTARTED, instance).await?;
        let mut instances = self.instances.lock().await;
        if !is_known(&instances) {
            instances.push_back(instance.to_owned());
        }
        if instances.len() > MAX_INSTANCES {
            instances.pop_front();
        }
        Ok(())
    }

    async fn publish(&self, decoded: DecodedNotification) -> Result<(), sluice_state::Error> {
        if let Some(digest) = &decoded.digest
            && self
                .state
                .tombstones
                .get(&key::image(digest))
                .await?
                .is_some()
        {
            return Ok(());
        }
        if decoded.may_be_blob && !self.is_manifest(&decoded).await? {
            tracing::info!(image.digest = ?decoded.digest, "a deleted digest is not that of a known manifest; publishing no event");
            return Ok(());
        }
        // The registry's id is the occurrence and the correlation of the events.
        let cause = Cause::external(decoded.id.clone());
        for event in &decoded.events {
            self.bus.publish(event, &cause, &decoded.id).await?;
            crash::point_of("gateway.event_published", event.name());
        }
        Ok(())
    }

    /// Says whether a deleted digest was that of a manifest: it has an entry, or its push is in the log.
    async fn is_manifest(
        &self,
        decoded: &DecodedNotification,
    ) -> Result<bool, sluice_state::Error> {
        let (Some(digest), Some(Event::ManifestDeleted(deleted))) =
            (&decoded.digest, decoded.events.first())
        else {
            return Ok(false);
        };
        if self.state.images.get(&key::image(digest)).await?.is_some() {
            return Ok(true);
        }
        let filter = format!(
            "sluice.v1.manifest.pushed.{}",
            of_repository(&deleted.repository)
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
