//! Names and values with their rules, and the declarative resources.
//!
//! No I/O and no async: everything here can be tested with plain values.

pub mod address;
mod attachment;
pub mod backoff;
pub mod classify;
pub mod clock;
pub mod digest;
pub mod duration;
pub mod name;
pub mod name_regex;
pub mod pattern;
pub mod platform;
pub mod resources;
mod secret;
pub mod service_account;
pub mod severity;
pub mod target;

pub use backoff::Backoff;
pub use classify::{Class, Classify};
pub use clock::now;
pub use digest::Digest;
pub use duration::DurationText;
pub use name::{
    AccountName, InvalidName, PackageKind, RegistryHost, RemoteRepository, Repository,
    ResourceName, Tag,
};
pub use name_regex::NameRegex;
pub use pattern::Pattern;
pub use platform::Platform;
pub use secret::{Origin, SecretName, SecretRef};
pub use service_account::{SERVICE_ACCOUNTS, is_service_account};
pub use severity::{Severity, SeverityCounts};
pub use target::Target;
