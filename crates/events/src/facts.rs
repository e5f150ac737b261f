//! Facts: what happened. One struct each, and [`Event`] over all of them.

use chrono::{DateTime, Utc};
use prost::Message as _;
use sluice_domain::{
    Digest, Platform, RegistryHost, RemoteRepository, Repository, ResourceName, SeverityCounts, Tag,
};

use crate::convert::{DecodeError, messages, repeated_field};
use crate::id::EventId;
use crate::subject;

messages! {
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
    /// The operating system that the scanner recognised, empty where there is none.
    os: String,
    /// Whether that operating system gets no more updates.
    end_of_life: bool,
}
/// One rule of a decision and how it came out.
Reason {
    /// The rule, as in a term of the condition, or coverage, platforms, soak.
    rule: String,
    /// What was found, in words.
    detail: String,
    /// Whether the rule held.
    passed: bool,
}
/// A tag that was deleted by retention.
PrunedTag {
    /// The tag.
    tag: Tag,
    /// What it pointed to.
    digest: Digest,
    /// Why it was deleted.
    reason: String,
}
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
    /// What it points to now.
    digest: Digest,
    /// What it pointed to before, empty for a new tag.
    previous: Option<Digest>,
    /// Which move of the tag this is, counted from 1.
    move_number: u64,
    /// When this digest was first seen at this tag, by our clock.
    first_seen_at: DateTime<Utc>,
}
/// A tag that was mirrored is no longer listed upstream.
UpstreamTagGone {
    /// The mirror, by its resource name.
    mirror: ResourceName,
    /// The remote repository, as in `docker.io/library/alpine`.
    source: RemoteRepository,
    /// The staging repository.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// What it pointed to last.
    last_digest: Option<Digest>,
    /// Which move of the tag this is, counted from 1.
    move_number: u64,
    /// Whether the mirror asks to remove it here too.
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
/// Every platform of an image was scanned and understood.
ScanSucceeded {
    /// The repository.
    repository: Repository,
    /// The tag, empty where only the digest is known.
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
/// An image could not be scanned, or the scanner did not understand it.
ScanFailed {
    /// The repository.
    repository: Repository,
    /// The tag, empty where only the digest is known.
    tag: Option<Tag>,
    /// The digest of the image or index.
    digest: Digest,
    /// The scanner, by its name.
    scanner: ResourceName,
    /// What went wrong.
    reason: String,
    /// Whether the scanner ran and understood nothing in the image.
    unsupported: bool,
    /// The platform that failed, empty for the whole image.
    platform: Option<Platform>,
}
/// A newer database finds something else in an image.
ScanFindingsChanged {
    /// The repository.
    repository: Repository,
    /// The tag, empty where only the digest is known.
    tag: Option<Tag>,
    /// The digest of the image or index.
    digest: Digest,
    /// The scanner, by its name.
    scanner: ResourceName,
    /// The version of the newer database.
    database_version: String,
    /// What was found before.
    before: SeverityCounts,
    /// What is found now.
    after: SeverityCounts,
}
/// A scanner has a newer vulnerability database.
ScannerDatabaseUpdated {
    /// The scanner, by its name.
    scanner: ResourceName,
    /// Its version.
    database_version: String,
    /// When it was made.
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
    /// What the tag pointed to before, empty for a new tag.
    previous: Option<Digest>,
}
/// An image was judged and may not be promoted.
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
}
/// A target holds an image that no decision allows.
ImageUnauthorised {
    /// The target repository.
    repository: Repository,
    /// The tag, empty where only the digest is known.
    tag: Option<Tag>,
    /// The digest of the image or index.
    digest: Digest,
    /// Whether it was removed.
    reverted: bool,
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

repeated_field!(ScannedChild, Reason, PrunedTag);

/// Declares the enum over all facts with what is the same for each.
macro_rules! events {
    ($( $name:ident => $noun:literal $fact:literal $place:ident [$($key:ident)*], )*) => {
        /// Any fact.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each variant is documented at its struct")]
        pub enum Event { $( $name($name), )* }

        $( impl From<$name> for Event {
            fn from(fact: $name) -> Self {
                Self::$name(fact)
            }
        } )*

        impl Event {
            /// Every type name with its public name, in the order of the protocol.
            pub const TYPES: &'static [(&'static str, &'static str)] =
                &[$( (concat!("sluice.events.v1.", stringify!($name)), concat!($noun, ".", $fact)), )*];

            /// Returns the full name of the protobuf message.
            #[must_use]
            pub const fn type_name(&self) -> &'static str {
                match self { $( Self::$name(_) => concat!("sluice.events.v1.", stringify!($name)), )* }
            }

            /// Returns the name as used in webhooks, as in `image.promoted`.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $( Self::$name(_) => concat!($noun, ".", $fact), )* }
            }

            /// Returns the subject that it is published on.
            #[must_use]
            pub fn subject(&self) -> String {
                match self { $( Self::$name(fact) =>
                    format!(concat!("sluice.v1.", $noun, ".", $fact, ".{}"), place!($place, fact)), )* }
            }

            /// Returns the whole identity of the fact.
            #[must_use]
            pub fn key(&self) -> String {
                match self { $( Self::$name(fact) => [$( part(&fact.$key), )*].join("|"), )* }
            }

            /// Returns the protobuf form.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                match self { $( Self::$name(fact) => crate::wire::events::$name::from(fact).encode_to_vec(), )* }
            }

            /// Returns the public JSON form: lower camel case, digests and times as text.
            #[must_use]
            pub fn to_json(&self) -> serde_json::Value {
                match self { $( Self::$name(fact) => serde_json::to_value(fact), )* }.unwrap_or_default()
            }

            /// Reads a fact, if the type is one.
            ///
            /// # Errors
            /// Bytes or fields that are not what the type says.
            pub fn decode(type_name: &str, payload: &[u8]) -> Option<Result<Self, DecodeError>> {
                match type_name {
                    $( concat!("sluice.events.v1.", stringify!($name)) => Some(
                        crate::wire::events::$name::decode(payload)
                            .map_err(|source| DecodeError::Bytes { type_name: type_name.to_owned(), source })
                            .and_then(|wire| $name::try_from(wire).map(Self::$name)),
                    ), )*
                    _ => None,
                }
            }
        }
    };
}

/// The last two tokens of the subject.
macro_rules! place {
    (repository, $fact:ident) => {
        subject::of_repository(&$fact.repository)
    };
    (target, $fact:ident) => {
        subject::of_repository(&$fact.target)
    };
    (scanner, $fact:ident) => {
        format!("_.{}", subject::token($fact.scanner.as_str()))
    };
    (endpoint, $fact:ident) => {
        format!("_.{}", subject::token($fact.endpoint.as_str()))
    };
    (resource, $fact:ident) => {
        format!(
            "{}.{}",
            subject::token(&$fact.kind.to_ascii_lowercase()),
            subject::token($fact.name.as_str())
        )
    };
}

events! {
    UpstreamTagMoved => "upstream" "tag_moved" repository [mirror source repository tag digest],
    UpstreamTagGone => "upstream" "tag_gone" repository [mirror source repository tag],
    UpstreamPollFailed => "upstream" "poll_failed" repository [mirror source],
    UpstreamPollRecovered => "upstream" "poll_recovered" repository [mirror source],
    TagMirrored => "tag" "mirrored" repository [mirror source repository tag digest],
    TagMirrorFailed => "tag" "mirror_failed" repository [mirror source repository tag digest],
    TagPushed => "tag" "pushed" repository [registry repository tag digest],
    TagPulled => "tag" "pulled" repository [registry repository tag digest],
    TagDeleted => "tag" "deleted" repository [registry repository tag],
    ManifestPushed => "manifest" "pushed" repository [registry repository digest],
    ManifestPulled => "manifest" "pulled" repository [registry repository digest],
    ManifestDeleted => "manifest" "deleted" repository [registry repository digest],
    ScanSucceeded => "scan" "succeeded" repository [repository tag digest scanner],
    ScanFailed => "scan" "failed" repository [repository tag digest scanner],
    ScanFindingsChanged => "scan" "findings_changed" repository [repository tag digest scanner database_version],
    ScannerDatabaseUpdated => "scanner" "database_updated" scanner [scanner database_version],
    ImagePromoted => "image" "promoted" target [policy source source_tag target target_tag digest],
    ImagePromotionDenied => "image" "promotion_denied" repository [policy repository tag digest target],
    ImageFlagged => "image" "flagged" repository [policy repository tag digest],
    ImageWithdrawn => "image" "withdrawn" repository [policy repository tag digest],
    ImageUnauthorised => "image" "unauthorised" repository [repository tag digest],
    PruneCompleted => "prune" "completed" repository [repository policy],
    WebhookDelivered => "webhook" "delivered" endpoint [endpoint event_id],
    WebhookFailed => "webhook" "failed" endpoint [endpoint event_id],
    ResourceApplied => "resource" "applied" resource [kind name revision],
}

impl Event {
    /// Returns the id of this happening of the fact.
    #[must_use]
    pub fn id(&self, occurrence: &str) -> EventId {
        EventId::of(self.type_name(), &self.key(), occurrence)
    }

    /// Returns the local repositories it is about: source and target.
    #[must_use]
    pub fn repositories(&self) -> Vec<&Repository> {
        match self {
            Self::UpstreamTagMoved(fact) => vec![&fact.repository],
            Self::UpstreamTagGone(fact) => vec![&fact.repository],
            Self::UpstreamPollFailed(fact) => vec![&fact.repository],
            Self::UpstreamPollRecovered(fact) => vec![&fact.repository],
            Self::TagMirrored(fact) => vec![&fact.repository],
            Self::TagMirrorFailed(fact) => vec![&fact.repository],
            Self::TagPushed(fact) => vec![&fact.repository],
            Self::TagPulled(fact) => vec![&fact.repository],
            Self::TagDeleted(fact) => vec![&fact.repository],
            Self::ManifestPushed(fact) => vec![&fact.repository],
            Self::ManifestPulled(fact) => vec![&fact.repository],
            Self::ManifestDeleted(fact) => vec![&fact.repository],
            Self::ScanSucceeded(fact) => vec![&fact.repository],
            Self::ScanFailed(fact) => vec![&fact.repository],
            Self::ScanFindingsChanged(fact) => vec![&fact.repository],
            Self::ImagePromoted(fact) => vec![&fact.source, &fact.target],
            Self::ImagePromotionDenied(fact) => vec![&fact.repository, &fact.target],
            Self::ImageFlagged(fact) => vec![&fact.repository],
            Self::ImageWithdrawn(fact) => vec![&fact.repository],
            Self::ImageUnauthorised(fact) => vec![&fact.repository],
            Self::PruneCompleted(fact) => vec![&fact.repository],
            Self::ScannerDatabaseUpdated(_)
            | Self::WebhookDelivered(_)
            | Self::WebhookFailed(_)
            | Self::ResourceApplied(_) => Vec::new(),
        }
    }
}

/// A part of a fact's identity, as text.
trait KeyPart {
    fn part(&self) -> String;
}

impl<T: ToString> KeyPart for T {
    fn part(&self) -> String {
        self.to_string()
    }
}

fn part<T: OptionalPart>(value: &T) -> String {
    value.text()
}

/// Values and optional values alike; an absent one is empty.
trait OptionalPart {
    fn text(&self) -> String;
}

macro_rules! key_parts {
    ($($type:ty),*) => { $(
        impl OptionalPart for $type {
            fn text(&self) -> String {
                self.part()
            }
        }

        impl OptionalPart for Option<$type> {
            fn text(&self) -> String {
                self.as_ref().map(KeyPart::part).unwrap_or_default()
            }
        }
    )* };
}
key_parts!(
    String,
    u64,
    Digest,
    EventId,
    RegistryHost,
    RemoteRepository,
    Repository,
    ResourceName,
    Tag
);
