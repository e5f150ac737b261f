//! Facts about retention.

use sluice_domain::{Digest, Repository, ResourceName, Tag};

use crate::convert::{messages, repeated_field};

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
}}

repeated_field!(PrunedTag);
