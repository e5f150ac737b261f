//! Names and values with their rules, and the declarative resources.
//!
//! No I/O and no async: everything here can be tested with plain values.

mod address_guard;
pub mod clock;
mod duration;
/// The names and subjects of the events, generated from the table of `sluice-events`.
mod events {
    include!("gen/events.rs");
}
mod findings;
mod name;
pub mod resources;
mod retry;
mod severity;
pub mod stages;
mod verdict;

pub use address_guard::{AddressClass, AddressGuard, ForbiddenAddress};
pub use clock::now;
pub use duration::DurationText;
pub use findings::{Finding, FindingsDifference, ManifestFindings, Package};
pub use name::digest::Digest;
pub use name::name_regex::NameRegex;
pub use name::pattern::Pattern;
pub use name::platform::Platform;
pub use name::secret::{Origin, SecretName, SecretRef};
pub use name::target::Target;
pub use name::{
    AccountName, InvalidName, PackageKind, RegistryHost, RemoteRepository, Repository,
    ResourceName, Tag, split_registry,
};
pub use retry::backoff::{Backoff, InvalidBackoff};
pub use retry::classify::{Class, Classify};
pub use retry::retry_after::parse_retry_after;
pub use severity::{Severity, SeverityCounts};
pub use stages::{Stage, is_service_account, service_accounts};
pub use verdict::{ChildVerdict, Coverage, DtrCounts, ScanFacts};
