// Generated from /proto.

use chrono::{DateTime, Utc};
use crate::convert::messages;
use crate::id::EventId;
use sluice_domain::Digest;
use sluice_domain::Repository;
use sluice_domain::ResourceName;
use sluice_domain::Tag;

messages! {
/// Poll a mirror now.
PollMirror {
    /// The mirror, by its resource name.
    mirror: ResourceName,
    /// Whether a person asked for it, so that it may use the reserve of the account's pull budget.
    urgent: bool,
}
/// Scan an image.
ScanImage {
    /// The repository.
    repository: Repository,
    /// The tag, empty if only the digest is known.
    tag: Option<Tag>,
    /// The digest of the image or index.
    digest: Digest,
}
/// Match an image that was scanned before with a newer vulnerability database; an event follows only if the result changed.
RematchImage {
    /// The repository.
    repository: Repository,
    /// The tag, empty if only the digest is known.
    tag: Option<Tag>,
    /// The digest of the image or index.
    digest: Digest,
    /// The version of the database.
    database_version: String,
}
/// Evaluate an image against the policies of its repository.
JudgeImage {
    /// The repository.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// The digest of the image or index.
    digest: Digest,
}
/// Run retention.
PruneRepositories {
    /// The pruning policy, empty for the tag limit.
    policy: Option<ResourceName>,
    /// The repository, empty for all that the policy names.
    repository: Option<Repository>,
}
/// Deliver an event to one endpoint.
DeliverEvent {
    /// The endpoint, by its resource name.
    endpoint: ResourceName,
    /// The event.
    event_id: EventId,
    /// Its full message name.
    event_type: String,
    /// When it happened.
    event_time: DateTime<Utc>,
    /// The event, encoded.
    payload: Vec<u8>,
    /// The process that published it, as in `/sluice/promoter`.
    event_source: String,
}
/// Find missing work from state, and queue it.
Reconcile {
    /// The stage, by its name.
    stage: String,
    /// Why: start, hourly, asked, changed, lost, restarted, audit or cleanup.
    reason: String,
    /// The reconciliation of which this is a page, empty for a new one.
    run: String,
    /// The number of the stage's scan that is continued.
    scan: u64,
    /// The revision in the bucket after which it continues.
    after: u64,
    /// The entries that earlier pages checked.
    looked_at: u64,
    /// The items of missing work that earlier pages found.
    found: u64,
    /// A number that the stage's scan has counted in earlier pages.
    counted: u64,
    /// The name after which it continues, where the scan has no revisions.
    after_name: String,
    /// The time of the last restore before the scan began, for scans that depend on it; empty if there was none.
    restored: String,
}
/// Copy a mirrored tag to the digest that it has upstream.
MirrorTag {
    /// The mirror, by its resource name.
    mirror: ResourceName,
    /// The tag.
    tag: Tag,
    /// Which move of the tag led to this, counted from 1.
    move_number: u64,
    /// Whether content of the tag is missing from the registry.
    damaged: bool,
    /// Whether only the referrers of the image are copied, and not the tag.
    referrers: bool,
    /// Whether a person asked for it, so that it may use the reserve of the account's pull budget.
    urgent: bool,
}
}
