//! Facts about scans.

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, Platform, Repository, ResourceName, SeverityCounts, Tag};

use crate::convert::{messages, repeated_field};

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
/// Every platform of an image was scanned, and the scanner supports its content.
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
/// An image could not be scanned, or the scanner does not support its content.
ScanFailed {
    /// The repository.
    repository: Repository,
    /// The tag, empty where only the digest is known.
    tag: Option<Tag>,
    /// The digest of the image or index.
    digest: Digest,
    /// The scanner, by its name.
    scanner: ResourceName,
    /// The error.
    reason: String,
    /// Whether the scanner ran and supports nothing in the image.
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
    /// The findings with the older database.
    before: SeverityCounts,
    /// The findings with the newer database.
    after: SeverityCounts,
}
/// A scanner has a newer vulnerability database.
ScannerDatabaseUpdated {
    /// The scanner, by its name.
    scanner: ResourceName,
    /// Its version.
    database_version: String,
    /// When it was built.
    updated_at: DateTime<Utc>,
}}

repeated_field!(ScannedChild);
