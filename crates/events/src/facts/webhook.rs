//! Facts about deliveries to webhooks.

use sluice_domain::ResourceName;

use crate::convert::messages;
use crate::id::EventId;

messages! {
/// An event was delivered to an endpoint.
WebhookDelivered {
    /// The endpoint, by its resource name.
    endpoint: ResourceName,
    /// The event.
    event_id: EventId,
    /// Its name, as in `image.promoted`.
    event_name: String,
    /// How many attempts it took.
    attempts: u32,
    /// The HTTP status of the answer.
    status: u32,
    /// How long the last attempt took.
    duration_ms: u64,
}
/// An event could not be delivered to an endpoint.
WebhookFailed {
    /// The endpoint, by its resource name.
    endpoint: ResourceName,
    /// The event.
    event_id: EventId,
    /// Its name, as in `image.promoted`.
    event_name: String,
    /// How many attempts were made.
    attempts: u32,
    /// The HTTP status of the last answer, 0 where there was none.
    status: u32,
    /// The error.
    reason: String,
}}
