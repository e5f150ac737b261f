//! What is remembered of deliveries and endpoints.

use chrono::{DateTime, Utc};
use sluice_events::commands::DeliverEvent;
use sluice_events::time_to_wire;
use sluice_events::wire::state::{Attempt, Delivery, Endpoint};
use sluice_service::crash;
use sluice_state::{Entries, Error, State, Stored, key};

/// How many attempts an entry keeps.
const KEPT: usize = 20;
/// How often an entry that others change too is written anew.
const ROUNDS: usize = 10;

/// How an attempt ended.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// When it began.
    pub(crate) at: DateTime<Utc>,
    /// The HTTP status, 0 where there was no answer.
    pub(crate) status: u32,
    /// What went wrong, empty if nothing did.
    pub(crate) error: String,
    /// How long it took.
    pub(crate) duration_ms: u64,
    /// Whether no attempt follows although it failed.
    pub(crate) given_up: bool,
}

/// Notes that a delivery was asked for, unless that is known.
pub(crate) async fn planned(
    state: &State,
    command: &DeliverEvent,
    event_name: &str,
) -> Result<(), Error> {
    let delivery = new(command, event_name);
    let key = key::delivery(&command.endpoint, &command.event_id.to_string());
    match state.deliveries.write(&key, &delivery, None).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Notes an attempt.
pub(crate) async fn attempted(
    state: &State,
    command: &DeliverEvent,
    event_name: &str,
    ended: &Ended,
) -> Result<(), Error> {
    let key = key::delivery(&command.endpoint, &command.event_id.to_string());
    change(&state.deliveries, &key, |delivery| {
        let before = std::mem::replace(delivery, new(command, event_name));
        delivery.attempts = before.attempts;
        delivery.attempts.push(Attempt {
            at: Some(time_to_wire(ended.at)),
            status: ended.status,
            error: ended.error.clone(),
            duration_ms: ended.duration_ms,
        });
        let surplus = delivery.attempts.len().saturating_sub(KEPT);
        delivery.attempts.drain(..surplus);
        delivery.attempt_count = before.attempt_count.saturating_add(1);
        delivery.delivered = before.delivered || ended.error.is_empty();
        delivery.given_up = ended.given_up && !delivery.delivered;
    })
    .await?;
    crash::point("webhook-dispatcher.attempt_noted");
    let key = key::endpoint(&command.endpoint);
    let health = change(&state.endpoints, &key, |endpoint| {
        endpoint.name = command.endpoint.to_string();
        let at = Some(time_to_wire(ended.at));
        if ended.error.is_empty() {
            endpoint.consecutive_failures = 0;
            endpoint.last_success_at = at;
        } else {
            endpoint.consecutive_failures = endpoint.consecutive_failures.saturating_add(1);
            failed(endpoint, ended.at, &ended.error);
        }
    });
    tolerate(command, health.await);
    Ok(())
}

/// Notes that an endpoint cannot be used, without an attempt.
pub(crate) async fn unusable(state: &State, command: &DeliverEvent, reason: &str) {
    let key = key::endpoint(&command.endpoint);
    let health = change(&state.endpoints, &key, |endpoint| {
        endpoint.name = command.endpoint.to_string();
        failed(endpoint, Utc::now(), reason);
    });
    tolerate(command, health.await);
}

/// Notes that a delivery is over without an attempt.
pub(crate) async fn abandoned(
    state: &State,
    command: &DeliverEvent,
    event_name: &str,
) -> Result<(), Error> {
    let key = key::delivery(&command.endpoint, &command.event_id.to_string());
    change(&state.deliveries, &key, |delivery| {
        let before = std::mem::replace(delivery, new(command, event_name));
        delivery.attempts = before.attempts;
        delivery.attempt_count = before.attempt_count;
        delivery.delivered = before.delivered;
        delivery.given_up = !before.delivered;
    })
    .await
}

fn new(command: &DeliverEvent, event_name: &str) -> Delivery {
    Delivery {
        endpoint: command.endpoint.to_string(),
        event_id: command.event_id.to_string(),
        event_name: event_name.to_owned(),
        ..Default::default()
    }
}

fn failed(endpoint: &mut Endpoint, at: DateTime<Utc>, error: &str) {
    endpoint.last_failure_at = Some(time_to_wire(at));
    error.clone_into(&mut endpoint.last_error);
}

/// The health of an endpoint is told to people; a delivery must not be repeated because it could not be written.
fn tolerate(command: &DeliverEvent, written: Result<(), Error>) {
    if let Err(error) = written {
        tracing::warn!(endpoint = %command.endpoint, %error, "the health of an endpoint could not be noted");
    }
}

async fn change<R: Stored>(
    entries: &Entries<R>,
    key: &str,
    change: impl Fn(&mut R) + Send + Sync,
) -> Result<(), Error> {
    let mut round = 0;
    loop {
        round += 1;
        let (mut value, revision) = match entries.get(key).await? {
            Some(entry) => (entry.value, Some(entry.revision)),
            None => (R::default(), None),
        };
        change(&mut value);
        match entries.write(key, &value, revision).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() && round < ROUNDS => {}
            Err(error) => return Err(error),
        }
    }
}
