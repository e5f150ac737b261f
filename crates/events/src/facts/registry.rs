//! Facts about pushes, pulls and deletions in the internal registry.

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, RegistryHost, Repository, Tag};

use crate::convert::messages;

messages! {
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
}}
