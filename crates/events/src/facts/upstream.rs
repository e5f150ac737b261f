//! Facts about upstream tags and their mirrors.

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, RemoteRepository, Repository, ResourceName, Tag};

use crate::convert::messages;

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
    /// What it points to now.
    digest: Digest,
    /// What it pointed to before, empty for a new tag.
    previous: Option<Digest>,
    /// Which move of the tag this is, counted from 1.
    move_number: u64,
    /// When this digest was first seen at this tag, by our clock.
    first_seen_at: DateTime<Utc>,
    /// Whether a person waits for it.
    urgent: bool,
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
    /// The error.
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
    /// The digest upstream, where only some platforms of that index were mirrored; nothing where it is the digest itself.
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
    /// The error.
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
    /// What it points to upstream.
    digest: Digest,
    /// The digest that it keeps here.
    kept: Digest,
    /// Which move of the tag this is, counted from 1.
    move_number: u64,
}
/// A mirrored tag, or a part of its image, was missing from the registry and was copied again.
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
}}
