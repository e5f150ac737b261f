// Generated from /proto.

use chrono::{DateTime, Utc};
use crate::convert::messages;
use crate::convert::repeated_field;
use crate::id::EventId;
use sluice_domain::Digest;
use sluice_domain::Platform;
use sluice_domain::RegistryHost;
use sluice_domain::RemoteRepository;
use sluice_domain::Repository;
use sluice_domain::ResourceName;
use sluice_domain::SeverityCounts;
use sluice_domain::Tag;

messages! {
/// A tag of a mirrored repository is new, or points to another digest.
UpstreamTagMoved {
    /// The mirror, by its resource name.
    mirror: ResourceName,
    /// The remote repository, as in `docker.io/library/alpine`.
    source: RemoteRepository,
    /// The staging repository.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// The digest that it points to now.
    digest: Digest,
    /// The digest that it pointed to before, empty for a new tag.
    previous: Option<Digest>,
    /// Which move of the tag this is, counted from 1.
    move_number: u64,
    /// When this digest was first seen at this tag, by our clock.
    first_seen_at: DateTime<Utc>,
    /// Whether a person asked for it, so that it may use the reserve of the account's pull budget.
    urgent: bool,
}
/// A mirrored tag was deleted upstream.
UpstreamTagGone {
    /// The mirror, by its resource name.
    mirror: ResourceName,
    /// The remote repository, as in `docker.io/library/alpine`.
    source: RemoteRepository,
    /// The staging repository.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// The last digest that it pointed to.
    last_digest: Option<Digest>,
    /// Which move of the tag this is, counted from 1.
    move_number: u64,
    /// Whether the mirror says to remove it here too.
    remove: bool,
}
/// A mirror could not be polled; published once until it recovers.
UpstreamPollFailed {
    /// The mirror, by its resource name.
    mirror: ResourceName,
    /// The remote repository, as in `docker.io/library/alpine`.
    source: RemoteRepository,
    /// The staging repository.
    repository: Repository,
    /// What went wrong.
    reason: String,
    /// How many polls failed in a row.
    failures: u64,
}
/// A mirror can be polled again.
UpstreamPollRecovered {
    /// The mirror, by its resource name.
    mirror: ResourceName,
    /// The remote repository, as in `docker.io/library/alpine`.
    source: RemoteRepository,
    /// The staging repository.
    repository: Repository,
    /// How many polls had failed in a row.
    failures: u64,
}
/// An image was mirrored into the staging repository.
TagMirrored {
    /// The mirror, by its resource name.
    mirror: ResourceName,
    /// The remote repository, as in `docker.io/library/alpine`.
    source: RemoteRepository,
    /// The staging repository.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// The digest of the image or index.
    digest: Digest,
    /// The media type of the manifest.
    media_type: String,
    /// The size of all manifests and layers in bytes.
    size_bytes: u64,
    /// Blobs that were transferred.
    blobs_copied: u64,
    /// Blobs that a sibling repository already had.
    blobs_mounted: u64,
    /// Blobs that the repository already had.
    blobs_skipped: u64,
    /// Bytes that were transferred.
    bytes_copied: u64,
    /// Which move of the tag this is, counted from 1.
    move_number: u64,
    /// The upstream digest, if only some platforms of that index were mirrored; otherwise empty.
    source_digest: Option<Digest>,
}
/// An image cannot be mirrored.
TagMirrorFailed {
    /// The mirror, by its resource name.
    mirror: ResourceName,
    /// The remote repository, as in `docker.io/library/alpine`.
    source: RemoteRepository,
    /// The staging repository.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// The digest of the image or index.
    digest: Digest,
    /// What went wrong.
    reason: String,
    /// Which move of the tag this is, counted from 1.
    move_number: u64,
}
/// A tag moved upstream, but not here, because its repository is immutable; published once per digest.
TagMoveRefused {
    /// The mirror, by its resource name.
    mirror: ResourceName,
    /// The remote repository, as in `docker.io/library/alpine`.
    source: RemoteRepository,
    /// The staging repository.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// The digest upstream.
    digest: Digest,
    /// The digest that it keeps here.
    kept: Digest,
    /// Which move of the tag this is, counted from 1.
    move_number: u64,
}
/// A mirrored tag, or a part of its image, was missing from the registry and was mirrored again.
TagRepaired {
    /// The mirror, by its resource name.
    mirror: ResourceName,
    /// The remote repository, as in `docker.io/library/alpine`.
    source: RemoteRepository,
    /// The staging repository.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// The digest of the image or index.
    digest: Digest,
    /// What was missing, as in `blob sha256:...`.
    missing: String,
    /// Which move of the tag this is, counted from 1.
    move_number: u64,
}
/// A tag was pushed to the internal registry.
TagPushed {
    /// The registry, as clients name it.
    registry: RegistryHost,
    /// The repository.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// The digest of the image or index.
    digest: Digest,
    /// The media type of the manifest.
    media_type: String,
    /// The size of the manifest in bytes.
    size_bytes: u64,
    /// The account that did it, empty for anonymous.
    actor: String,
    /// When it happened, by the clock of the registry.
    at: DateTime<Utc>,
}
/// A tag was pulled from the internal registry.
TagPulled {
    /// The registry, as clients name it.
    registry: RegistryHost,
    /// The repository.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// The digest of the image or index.
    digest: Digest,
    /// The media type of the manifest.
    media_type: String,
    /// The size of the manifest in bytes.
    size_bytes: u64,
    /// The account that did it, empty for anonymous.
    actor: String,
    /// When it happened, by the clock of the registry.
    at: DateTime<Utc>,
}
/// A tag was deleted from the internal registry.
TagDeleted {
    /// The registry, as clients name it.
    registry: RegistryHost,
    /// The repository.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// The account that did it, empty for anonymous.
    actor: String,
    /// When it happened, by the clock of the registry.
    at: DateTime<Utc>,
}
/// A manifest was pushed to the internal registry.
ManifestPushed {
    /// The registry, as clients name it.
    registry: RegistryHost,
    /// The repository.
    repository: Repository,
    /// The digest of the image or index.
    digest: Digest,
    /// The media type of the manifest.
    media_type: String,
    /// The size of the manifest in bytes.
    size_bytes: u64,
    /// The account that did it, empty for anonymous.
    actor: String,
    /// When it happened, by the clock of the registry.
    at: DateTime<Utc>,
}
/// A manifest was pulled from the internal registry.
ManifestPulled {
    /// The registry, as clients name it.
    registry: RegistryHost,
    /// The repository.
    repository: Repository,
    /// The digest of the image or index.
    digest: Digest,
    /// The media type of the manifest.
    media_type: String,
    /// The size of the manifest in bytes.
    size_bytes: u64,
    /// The account that did it, empty for anonymous.
    actor: String,
    /// When it happened, by the clock of the registry.
    at: DateTime<Utc>,
}
/// A manifest was deleted from the internal registry.
ManifestDeleted {
    /// The registry, as clients name it.
    registry: RegistryHost,
    /// The repository.
    repository: Repository,
    /// The digest of the image or index.
    digest: Digest,
    /// The account that did it, empty for anonymous.
    actor: String,
    /// When it happened, by the clock of the registry.
    at: DateTime<Utc>,
}
/// Every platform of an image was scanned, and the scanner supports its content.
ScanSucceeded {
    /// The repository.
    repository: Repository,
    /// The tag, empty if only the digest is known.
    tag: Option<Tag>,
    /// The digest of the image or index.
    digest: Digest,
    /// The scanner, by its name.
    scanner: ResourceName,
    /// The version of the scanner.
    scanner_version: String,
    /// The version of its vulnerability database.
    database_version: String,
    /// The findings of all platforms together.
    counts: SeverityCounts,
    /// The findings of each platform.
    children: Vec<ScannedChild>,
}
/// An image could not be scanned, or the scanner does not support its content.
ScanFailed {
    /// The repository.
    repository: Repository,
    /// The tag, empty if only the digest is known.
    tag: Option<Tag>,
    /// The digest of the image or index.
    digest: Digest,
    /// The scanner, by its name.
    scanner: ResourceName,
    /// What went wrong.
    reason: String,
    /// Whether the scanner ran and supports nothing in the image.
    unsupported: bool,
    /// The platform that failed, empty for the whole image.
    platform: Option<Platform>,
}
/// A newer vulnerability database changed the result of an image that was scanned before.
ScanFindingsChanged {
    /// The repository.
    repository: Repository,
    /// The tag, empty if only the digest is known.
    tag: Option<Tag>,
    /// The digest of the image or index.
    digest: Digest,
    /// The scanner, by its name.
    scanner: ResourceName,
    /// The version of the newer database.
    database_version: String,
    /// The findings before.
    before: SeverityCounts,
    /// The findings now.
    after: SeverityCounts,
    /// What is found now and was not before, at most 100.
    appeared: Vec<VulnerablePackage>,
    /// What was found before and is not now, at most 100.
    disappeared: Vec<VulnerablePackage>,
}
/// A scanner has a newer vulnerability database.
ScannerDatabaseUpdated {
    /// The scanner, by its name.
    scanner: ResourceName,
    /// Its version.
    database_version: String,
    /// When it was built.
    updated_at: DateTime<Utc>,
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
    /// The digest that the tag pointed to before, empty for a new tag.
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
    /// The target of the policy.
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
    /// The tag, empty if only the digest is known.
    tag: Option<Tag>,
    /// The digest of the image or index.
    digest: Digest,
    /// Whether the image was removed, or the tag restored.
    reverted: bool,
    /// Why it is unauthorised.
    reason: String,
    /// The account that pushed it, empty if unknown.
    pushed_by: String,
    /// The digest that the decisions allow at the tag, empty for none.
    expected: Option<Digest>,
    /// The remote registry of the target, empty for the internal one.
    registry: Option<RegistryHost>,
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
    /// Whether the run was a dry run and deleted nothing.
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
    /// The HTTP status of the response.
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
    /// The HTTP status of the last response, 0 without one.
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
}
/// What a scanner found in one platform of an image.
ScannedChild {
    /// The platform, as in `linux/amd64`.
    platform: Option<Platform>,
    /// The digest of that platform's manifest.
    digest: Digest,
    /// The findings.
    counts: SeverityCounts,
    /// How many packages the scanner saw.
    packages: u64,
    /// The operating system that the scanner recognised, empty without one.
    os: String,
    /// Whether that operating system gets no more advisories.
    end_of_life: bool,
}
/// A vulnerability of a package of an image.
VulnerablePackage {
    /// The identifier of the vulnerability.
    vulnerability: String,
    /// The name of the package.
    package: String,
    /// `critical`, `high`, `medium`, `low` or `unknown`.
    severity: String,
    /// The versions that fix it, empty where none does.
    fixed_version: String,
}
/// A rule of a decision, with its result.
Reason {
    /// The rule, as in a term of the condition, or coverage, platforms, soak.
    rule: String,
    /// The values that decided, as text.
    detail: String,
    /// Whether the rule held.
    passed: bool,
    /// Whether the result is undetermined; then it did not pass either.
    undetermined: bool,
}
/// A tag that was deleted by retention.
PrunedTag {
    /// The tag.
    tag: Tag,
    /// The digest that it pointed to.
    digest: Digest,
    /// Why it was deleted.
    reason: String,
}
}

repeated_field!(PrunedTag, Reason, ScannedChild, VulnerablePackage);
