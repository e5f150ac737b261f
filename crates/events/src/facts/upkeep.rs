//! Retention, deliveries and applied resources.

use sluice_domain::{Digest, Repository, ResourceName, Tag};

use crate::convert::{messages, repeated_field};
use crate::id::EventId;

messages! {
/// A tag that was deleted by retention.
PrunedTag {
    /// The tag.
    tag: Tag,
    /// What it pointed to.
    digest: Digest,
    /// Why it was deleted.
    reason: String,
}
/// Retention ran in a repository.
PruneCompleted {
    /// The repository.
    repository: Repository,
    /// The pruning policy, empty for the tag limit.
    policy: Option<ResourceName>,
    /// The tags that were deleted.
    deleted: Vec<PrunedTag>,
    /// How many tags were kept.
    kept: u64,
    /// Whether nothing was really deleted.
    dry_run: bool,
}
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
    /// What went wrong.
    reason: String,
}
/// A resource was applied or removed.
ResourceApplied {
    /// Its kind, as in Mirror.
    kind: String,
    /// Its name.
    name: ResourceName,
    /// The revision of the catalogue that holds it.
    revision: u64,
    /// Whether it was removed.
    removed: bool,
    /// Who did it.
    actor: String,
}}

repeated_field!(PrunedTag);
