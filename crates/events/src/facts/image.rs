//! What is promoted, what is not, and what should not have been.

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, RegistryHost, Repository, ResourceName, Tag};

use crate::convert::{messages, repeated_field};

messages! {
/// One rule of a decision and how it came out.
Reason {
    /// The rule, as in a term of the condition, or coverage, platforms, soak.
    rule: String,
    /// What was found, in words.
    detail: String,
    /// Whether the rule held.
    passed: bool,
    /// Whether it cannot be told; then it did not pass either.
    undetermined: bool,
}
/// An image was promoted.
ImagePromoted {
    /// The promotion policy, by its resource name.
    policy: ResourceName,
    /// The repository it came from.
    source: Repository,
    /// The tag there.
    source_tag: Tag,
    /// The repository it was promoted into.
    target: Repository,
    /// The tag there.
    target_tag: Tag,
    /// The digest of the image or index.
    digest: Digest,
    /// When it was decided.
    decided_at: DateTime<Utc>,
    /// What the tag pointed to before, empty for a new tag.
    previous: Option<Digest>,
    /// The remote registry of the target, empty for the internal one.
    registry: Option<RegistryHost>,
}
/// An image was judged and may not be promoted, or nobody can tell whether it may.
ImagePromotionDenied {
    /// The promotion policy, by its resource name.
    policy: ResourceName,
    /// The repository it is in.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// The digest of the image or index.
    digest: Digest,
    /// Where it would have gone.
    target: Repository,
    /// Every rule and how it came out.
    reasons: Vec<Reason>,
    /// When it was decided.
    decided_at: DateTime<Utc>,
    /// The remote registry of the target, empty for the internal one.
    registry: Option<RegistryHost>,
}
/// A promoted image no longer passes its policy.
ImageFlagged {
    /// The promotion policy, by its resource name.
    policy: ResourceName,
    /// The repository it was promoted into.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// The digest of the image or index.
    digest: Digest,
    /// Why it no longer passes.
    reason: String,
    /// The remote registry of the target, empty for the internal one.
    registry: Option<RegistryHost>,
}
/// A promoted image was removed because it no longer passes its policy.
ImageWithdrawn {
    /// The promotion policy, by its resource name.
    policy: ResourceName,
    /// The repository it was removed from.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// The digest of the image or index.
    digest: Digest,
    /// Why it no longer passes.
    reason: String,
    /// The remote registry of the target, empty for the internal one.
    registry: Option<RegistryHost>,
}
/// A target holds an image that no decision allows.
ImageUnauthorised {
    /// The target repository.
    repository: Repository,
    /// The tag, empty where only the digest is known.
    tag: Option<Tag>,
    /// The digest of the image or index.
    digest: Digest,
    /// Whether it was removed, or the tag put back.
    reverted: bool,
    /// Why it is not authorised.
    reason: String,
    /// Who pushed it, empty where nobody knows.
    pushed_by: String,
    /// What the tag should name by the decisions, empty for nothing.
    expected: Option<Digest>,
    /// The remote registry of the target, empty for the internal one.
    registry: Option<RegistryHost>,
}}

repeated_field!(Reason);
