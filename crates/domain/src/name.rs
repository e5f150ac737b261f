//! Names of the field: registries, repositories, tags, accounts and resources.
//!
//! Grammar: OCI distribution specification 1.1, "Pulling manifests"; hosts as in a URL authority.

pub(crate) mod attachment_tag;
pub(crate) mod digest;
pub(crate) mod name_regex;
pub(crate) mod pattern;
pub(crate) mod platform;
pub(crate) mod platform_filter;
pub(crate) mod secret;
pub(crate) mod target;
pub(crate) mod target_template;

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

const EXPECTED_V6: &str = "write an IPv6 address in brackets, as in `[::1]:5000`";
/// What Docker Hub is called besides its name in references.
const DOCKER_HUB_NAMES: [&str; 3] = [
    "index.docker.io",
    "registry-1.docker.io",
    "registry.hub.docker.com",
];

/// Reports a text that is not a valid name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{value}` is not a valid {kind}: {reason}")]
pub struct InvalidName {
    /// What the text was meant to be.
    pub kind: &'static str,
    /// The text, shortened to 100 characters.
    pub value: String,
    /// The rule that it breaks.
    pub reason: &'static str,
}

impl InvalidName {
    pub(crate) fn new(kind: &'static str, value: &str, reason: &'static str) -> Self {
        let value = value
            .chars()
            .take(100)
            .flat_map(char::escape_default)
            .collect();
        Self {
            kind,
            value,
            reason,
        }
    }
}

/// Declares a newtype over a string with one check, used by `FromStr`, `TryFrom` and serde alike.
macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(title = $kind)]
        pub struct $name(String);

        impl $name {
            /// Returns the text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = $crate::name::InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $check(text)
                    .map(Self)
                    .map_err(|reason| $crate::name::InvalidName::new($kind, text, reason))
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::name::InvalidName;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}
pub(crate) use text_newtype;

text_newtype!(
    /// Names a registry: a host with an optional port, lower-cased (`docker.io`, `127.0.0.1:5000`, `[::1]:5000`).
    RegistryHost,
    "registry host",
    check_host
);
text_newtype!(
    /// Names a repository inside a registry (`library/alpine`), at most 255 characters.
    Repository,
    "repository",
    check_repository
);
text_newtype!(
    /// Names a tag, at most 128 characters.
    Tag,
    "tag",
    check_tag
);
text_newtype!(
    /// Names a declarative resource; `*` and `/` are allowed because a `Repository` is named by its pattern.
    ResourceName,
    "resource name",
    check_resource_name
);
text_newtype!(
    /// Names an account at the internal registry.
    AccountName,
    "account name",
    check_account
);
text_newtype!(
    /// Names a kind of packages as the scanner does (`conda-pkg`, `fedora`).
    PackageKind,
    "kind of packages",
    check_package_kind
);

impl RegistryHost {
    /// The name of Docker Hub, whichever of its names was written.
    pub const DOCKER_HUB: &str = "docker.io";

    /// Returns whether this is Docker Hub, whose endpoint and token issuer have other names.
    #[must_use]
    pub fn is_docker_hub(&self) -> bool {
        self.0 == Self::DOCKER_HUB
    }
}

impl Repository {
    /// Returns the first path component, if there is more than one.
    #[must_use]
    pub fn organisation(&self) -> Option<&str> {
        self.0.split_once('/').map(|(organisation, _)| organisation)
    }

    /// Returns what follows the organisation, or all of it where there is none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0
            .split_once('/')
            .map_or(self.0.as_str(), |(_, name)| name)
    }
}

/// Names a repository together with its registry (`docker.io/library/alpine`).
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(title = "remote repository")]
pub struct RemoteRepository {
    /// The registry.
    pub host: RegistryHost,
    /// The repository in it.
    pub repository: Repository,
}

impl FromStr for RemoteRepository {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const REASON: &str =
            "write it with its registry, as in `docker.io/library/alpine`, and without a tag";
        let invalid = || InvalidName::new("remote repository", text, REASON);
        let (host, repository) = split_registry(text).ok_or_else(invalid)?;
        let host: RegistryHost = host.parse()?;
        // Docker's own images are written without the organisation that they are in.
        let repository = if host.is_docker_hub() && !repository.contains('/') {
            format!("library/{repository}").parse()
        } else {
            repository.parse()
        };
        Ok(Self {
            host,
            repository: repository.map_err(|_| invalid())?,
        })
    }
}

impl TryFrom<String> for RemoteRepository {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RemoteRepository> for String {
    fn from(remote: RemoteRepository) -> Self {
        remote.to_string()
    }
}

impl fmt::Display for RemoteRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)
    }
}

/// Splits the registry off an image reference: its first component is a host if it has a dot or a port, or is `localhost`.
#[must_use]
pub fn split_registry(text: &str) -> Option<(&str, &str)> {
    let (host, rest) = text.split_once('/')?;
    let is_host = host.contains(['.', ':']) || host == "localhost";
    (is_host && !host.contains('{')).then_some((host, rest))
}

fn check_host(text: &str) -> Result<String, &'static str> {
    let (name, port) = split_port(text);
    if text.contains('/') {
        return Err("write the host alone, without `https://` and without a path");
    }
    if port
        .is_some_and(|port| port.len() > 5 || port.parse::<u16>().is_err() || port.starts_with('+'))
    {
        return Err("the port must be a number up to 65535");
    }
    if let Some(address) = bracketed(name) {
        let address: Ipv6Addr = address.parse().map_err(|_| EXPECTED_V6)?;
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        return Ok(format!("[{address}]{port}"));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(EXPECTED_V6);
    }
    let valid_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > 255 || !name.split('.').all(valid_label) {
        return Err("expected a host name with an optional port, as in `registry.example:5000`");
    }
    let host = text.to_ascii_lowercase();
    if DOCKER_HUB_NAMES.contains(&host.as_str()) {
        return Ok(RegistryHost::DOCKER_HUB.to_owned());
    }
    Ok(host)
}

/// Splits a host from its port; the colons of an address in brackets are its own.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (text, None),
    }
}

/// Returns what is in brackets, as an IPv6 address is in an URL.
fn bracketed(name: &str) -> Option<&str> {
    name.strip_prefix('[')?.strip_suffix(']')
}

fn check_repository(text: &str) -> Result<String, &'static str> {
    if text.len() > 255 {
        return Err("it is longer than 255 characters");
    }
    if !text.split('/').all(valid_component) {
        return Err(
            "expected lower-case path components of letters and digits, joined by `.`, `_`, `__` or dashes",
        );
    }
    Ok(text.to_owned())
}

/// One component: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn valid_component(component: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !(bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric)) {
        return false;
    }
    bytes.split(alphanumeric).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

fn check_tag(text: &str) -> Result<String, &'static str> {
    let mut bytes = text.bytes();
    let first_valid = bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !first_valid || !bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    {
        return Err("expected letters, digits, `_`, `.` and `-`, not starting with `.` or `-`");
    }
    if text.len() > 128 {
        return Err("it is longer than 128 characters");
    }
    Ok(text.to_owned())
}

fn check_resource_name(text: &str) -> Result<String, &'static str> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/' | b'*' | b'-');
    if text.is_empty() || text.len() > 128 || !text.bytes().all(valid) {
        return Err("expected 1 to 128 letters, digits, `.`, `_`, `/`, `*` or `-`");
    }
    Ok(text.to_owned())
}

fn check_account(text: &str) -> Result<String, &'static str> {
    let valid =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    let starts = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !starts || text.len() > 63 || !text.bytes().all(valid) {
        return Err("expected up to 63 lower-case letters, digits, `.`, `_` or `-`");
    }
    Ok(text.to_owned())
}

fn check_package_kind(text: &str) -> Result<String, &'static str> {
    let valid =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    if text.is_empty() || text.len() > 64 || !text.bytes().all(valid) {
        return Err("expected one kind as the scanner names it, as in `conda-pkg`");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
