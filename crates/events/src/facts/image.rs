//! Facts about promotion.

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, RegistryHost, Repository, ResourceName, Tag};

use crate::convert::{messages, repeated_field};

messages! {
/// A rule of a decision, with its result.
Reason {
    /// The rule, as in a term of the condition, or coverage, platforms, soak.
    rule: String,
    /// The finding, in words.
    detail: String,
    /// Whether the rule held.
    passed: bool,
    /// Whether the rule could not be evaluated; then it did not hold.
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
/// An image was evaluated and is not promoted: it does not pass its policy, or that cannot be determined.
ImagePromotionDenied {
    /// The promotion policy, by its resource name.
    policy: ResourceName,
    /// The repository it is in.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// The digest of the image or index.
    digest: Digest,
    /// The target into which it is not promoted.
    target: Repository,
    /// Every rule, with its result.
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
    /// Why it no longer passes the policy.
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
    /// Why it no longer passes the policy.
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
    /// Whether the image was removed, or the tag restored.
    reverted: bool,
    /// Why it is not authorised.
    reason: String,
    /// The account that pushed it, empty where it is not known.
    pushed_by: String,
    /// The digest that the decisions allow at the tag, empty for none.
    expected: Option<Digest>,
    /// The remote registry of the target, empty for the internal one.
    registry: Option<RegistryHost>,
}}

repeated_field!(Reason);
