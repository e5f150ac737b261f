//! Records deliveries and the health of endpoints.

use chrono::{DateTime, Utc};
use sluice_events::commands::DeliverEvent;
use sluice_events::time_to_wire;
use sluice_events::wire::state::{Attempt, Delivery, Endpoint};
use sluice_service::crash;
use sluice_state::{Error, State, key};

/// How many attempts an entry keeps.
const MAX_ATTEMPTS: usize = 20;

/// The result of an attempt.
#[derive(Debug, Clone)]
pub(crate) struct AttemptResult {
    /// When the attempt began.
    pub(crate) at: DateTime<Utc>,
    /// The HTTP status, 0 without an answer.
    pub(crate) status: u32,
    /// The failure, empty after a success.
    pub(crate) error: String,
    /// The duration.
    pub(crate) duration_ms: u64,
    /// Whether a failed attempt was the last one.
    pub(crate) given_up: bool,
}

/// Records a planned delivery, unless it is recorded.
pub(crate) async fn record_planned(
    state: &State,
    command: &DeliverEvent,
    event_name: &str,
) -> Result<(), Error> {
    let delivery = new_delivery(command, event_name);
    let key = key::delivery(&command.endpoint, &command.event_id.to_string());
    state
        .deliveries
        .try_write(&key, &delivery, None)
        .await
        .map(drop)
}

/// Records an attempt.
pub(crate) async fn record_attempt(
    state: &State,
    command: &DeliverEvent,
    event_name: &str,
    result: &AttemptResult,
) -> Result<(), Error> {
    let key = key::delivery(&command.endpoint, &command.event_id.to_string());
    state
        .deliveries
        .modify(&key, |delivery, _| {
            let before = std::mem::replace(delivery, new_delivery(command, event_name));
            delivery.attempts = before.attempts;
            delivery.attempts.push(Attempt {
                at: Some(time_to_wire(result.at)),
                status: result.status,
                error: result.error.clone(),
                duration_ms: result.duration_ms,
            });
            let surplus = delivery.attempts.len().saturating_sub(MAX_ATTEMPTS);
            delivery.attempts.drain(..surplus);
            delivery.attempt_count = before.attempt_count.saturating_add(1);
            delivery.delivered = before.delivered || result.error.is_empty();
            delivery.given_up = result.given_up && !delivery.delivered;
        })
        .await?;
    crash::point("webhook-dispatcher.attempt_recorded");
    let key = key::endpoint(&command.endpoint);
    let health = state.endpoints.modify(&key, |endpoint, _| {
        endpoint.name = command.endpoint.to_string();
        let at = Some(time_to_wire(result.at));
        if result.error.is_empty() {
            endpoint.consecutive_failures = 0;
            endpoint.last_success_at = at;
        } else {
            endpoint.consecutive_failures = endpoint.consecutive_failures.saturating_add(1);
            record_failure(endpoint, result.at, &result.error);
        }
    });
    log_health_error(command, health.await);
    Ok(())
}

/// Records that an endpoint cannot be used, without an attempt.
pub(crate) async fn record_unusable(state: &State, command: &DeliverEvent, reason: &str) {
    let key = key::endpoint(&command.endpoint);
    let health = state.endpoints.modify(&key, |endpoint, _| {
        endpoint.name = command.endpoint.to_string();
        record_failure(endpoint, Utc::now(), reason);
    });
    log_health_error(command, health.await);
}

/// Records that a delivery ended without an attempt.
pub(crate) async fn record_abandoned(
    state: &State,
    command: &DeliverEvent,
    event_name: &str,
) -> Result<(), Error> {
    let key = key::delivery(&command.endpoint, &command.event_id.to_string());
    state
        .deliveries
        .modify(&key, |delivery, _| {
            let before = std::mem::replace(delivery, new_delivery(command, event_name));
            delivery.attempts = before.attempts;
            delivery.attempt_count = before.attempt_count;
            delivery.delivered = before.delivered;
            delivery.given_up = !before.delivered;
        })
        .await
}

fn new_delivery(command: &DeliverEvent, event_name: &str) -> Delivery {
    Delivery {
        endpoint: command.endpoint.to_string(),
        event_id: command.event_id.to_string(),
        event_name: event_name.to_owned(),
        ..Default::default()
    }
}

fn record_failure(endpoint: &mut Endpoint, at: DateTime<Utc>, error: &str) {
    endpoint.last_failure_at = Some(time_to_wire(at));
    error.clone_into(&mut endpoint.last_error);
}

/// Logs a failure to record the health of an endpoint; a delivery must not be repeated for that.
fn log_health_error(command: &DeliverEvent, written: Result<(), Error>) {
    if let Err(error) = written {
        tracing::warn!(endpoint = %command.endpoint, %error, "failed to record the health of an endpoint");
    }
}
