//! Keys of entries: encoded tokens, so that entries can be listed by filter.

use sluice_domain::{Digest, Repository, ResourceName, Tag, Target};
use sluice_events::subject;

/// The name of the one scanner of this version.
pub const SCANNER: &str = "trivy";

/// The key of the entry that records the last cleanup.
pub const CLEANUP: &str = "cleanup";

/// The prefix of the keys of unauthorised tags, in the bucket `control`.
const UNAUTHORISED: &str = "unauthorised";
/// The prefix of the keys of promotion targets, in the same bucket.
const TARGET: &str = "target";

/// Encodes the parts of a key and joins them.
fn join<const N: usize>(parts: [&str; N]) -> String {
    parts.map(subject::encode).join(".")
}

/// Returns the filter of all keys of two parts whose first one is this.
fn all_of(first: &str) -> String {
    format!("{}.*", subject::encode(first))
}

/// `kind.name`.
#[must_use]
pub fn resource(kind: &str, name: &ResourceName) -> String {
    join([kind, name.as_str()])
}

/// `mirror.tag`.
#[must_use]
pub fn upstream(mirror: &ResourceName, tag: &Tag) -> String {
    join([mirror.as_str(), tag.as_str()])
}

/// `mirror`, for the last poll.
#[must_use]
pub fn poll(mirror: &ResourceName) -> String {
    subject::encode(mirror.as_str())
}

/// `repository.tag`.
#[must_use]
pub fn tag(repository: &Repository, tag: &Tag) -> String {
    join([repository.as_str(), tag.as_str()])
}

/// `target.tag`, for a target in its stored form.
#[must_use]
pub fn stored_tag(stored: &str, tag: &Tag) -> String {
    join([stored, tag.as_str()])
}

/// `target.tag`; for a repository of the internal registry as [`tag`].
#[must_use]
pub fn target_tag(target: &Target, tag: &Tag) -> String {
    join([&target.stored(), tag.as_str()])
}

/// The filter of a target's tags; for a repository of the internal registry as [`tags_of`].
#[must_use]
pub fn tags_of_target(target: &Target) -> String {
    all_of(&target.stored())
}

/// The filter of a repository's tags.
#[must_use]
pub fn tags_of(repository: &Repository) -> String {
    all_of(repository.as_str())
}

/// `digest`.
#[must_use]
pub fn image(digest: &Digest) -> String {
    subject::encode(digest.as_str())
}

/// `repository.digest`, for the last pull.
#[must_use]
pub fn pull(repository: &Repository, digest: &Digest) -> String {
    join([repository.as_str(), digest.as_str()])
}

/// `digest.scanner`.
#[must_use]
pub fn verdict(digest: &Digest) -> String {
    format!("{}.{SCANNER}", subject::encode(digest.as_str()))
}

/// `policy.source-repository.tag.digest`.
#[must_use]
pub fn decision(
    policy: &ResourceName,
    repository: &Repository,
    tag: &Tag,
    digest: &Digest,
) -> String {
    join([
        policy.as_str(),
        repository.as_str(),
        tag.as_str(),
        digest.as_str(),
    ])
}

/// The filter of every policy's decision on an image at a tag.
#[must_use]
pub fn decisions_on(repository: &Repository, tag: &Tag) -> String {
    format!(
        "*.{}.{}.*",
        subject::encode(repository.as_str()),
        subject::encode(tag.as_str())
    )
}

/// The filter of every policy's decisions on a repository.
#[must_use]
pub fn decisions_in(repository: &Repository) -> String {
    format!("*.{}.*.*", subject::encode(repository.as_str()))
}

/// The filter of a policy's decisions.
#[must_use]
pub fn decisions_by(policy: &ResourceName) -> String {
    format!("{}.*.*.*", subject::encode(policy.as_str()))
}

/// The filter of every decision on a digest, in any repository.
#[must_use]
pub fn decisions_about(digest: &Digest) -> String {
    format!("*.*.*.{}", subject::encode(digest.as_str()))
}

/// `endpoint`.
#[must_use]
pub fn endpoint(name: &ResourceName) -> String {
    subject::encode(name.as_str())
}

/// `stage`.
#[must_use]
pub fn reconciliation(stage: &str) -> String {
    subject::encode(stage)
}

/// `endpoint.event`.
#[must_use]
pub fn delivery(endpoint: &ResourceName, event: &str) -> String {
    join([endpoint.as_str(), event])
}

/// `target.repository`.
#[must_use]
pub fn promotion_target(repository: &Repository) -> String {
    format!("{TARGET}.{}", subject::encode(repository.as_str()))
}

/// The filter of all promotion targets.
#[must_use]
pub fn promotion_targets() -> String {
    format!("{TARGET}.*")
}

/// `repository.digest`.
#[must_use]
pub fn target_image(repository: &Repository, digest: &Digest) -> String {
    join([repository.as_str(), digest.as_str()])
}

/// The filter of the images of a target.
#[must_use]
pub fn images_of_target(repository: &Repository) -> String {
    all_of(repository.as_str())
}

/// Returns the repository of a key that [`promotion_target`] made.
pub(crate) fn repository_of_target(key: &str) -> Option<Repository> {
    let name = key.strip_prefix(TARGET)?.strip_prefix('.')?;
    subject::decode(name)?.parse().ok()
}

/// `unauthorised.repository.tag`.
#[must_use]
pub fn unauthorised(repository: &Repository, at: &Tag) -> String {
    format!("{UNAUTHORISED}.{}", tag(repository, at))
}

/// The filter of the unauthorised tags of a target.
#[must_use]
pub fn unauthorised_in(repository: &Repository) -> String {
    format!("{UNAUTHORISED}.{}", tags_of(repository))
}
