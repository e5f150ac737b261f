//! Registries, repositories and accounts: who may reach what.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::name::{RegistryHost, Repository, ResourceName};
use crate::pattern::Pattern;

/// A named remote registry with one rotatable credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// Its name.
    pub name: ResourceName,
    /// The registry that it describes.
    pub host: RegistryHost,
    /// The account, if not anonymous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The file that holds the password, read at use so that it can be rotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Speaks HTTP without TLS.
    #[serde(default)]
    pub plain_http: bool,
    /// A PEM file with the authorities to trust instead of the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Further hosts that may issue tokens for this registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub realms: Vec<RegistryHost>,
}

impl Registry {
    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        match (&self.username, &self.password_file) {
            (Some(_), None) => vec![(
                "username",
                "add `password_file`, or remove `username`".to_owned(),
            )],
            (None, Some(_)) => vec![(
                "password_file",
                "add `username`, or remove `password_file`".to_owned(),
            )],
            _ => Vec::new(),
        }
    }
}

/// Who may pull without an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Only accounts.
    #[default]
    Private,
    /// Everybody.
    Public,
}

/// When images are scanned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScanMode {
    /// As soon as they arrive.
    #[default]
    OnPush,
    /// When somebody asks.
    Manual,
}

/// Settings of the local repositories that match a pattern, which is the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositorySettings {
    /// The pattern, as in `hub/*`.
    pub name: ResourceName,
    /// Who may pull without an account.
    #[serde(default)]
    pub visibility: Visibility,
    /// When images are scanned.
    #[serde(default)]
    pub scan: ScanMode,
    /// How many tags are kept, oldest out first; 0 for all.
    #[serde(default)]
    pub keep: u32,
}

impl RepositorySettings {
    /// Returns the pattern, which is checked when the resource is read.
    #[must_use]
    pub fn pattern(&self) -> Option<Pattern> {
        self.name.as_str().parse().ok()
    }

    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        match self.name.as_str().parse::<Pattern>() {
            Ok(_) => Vec::new(),
            Err(error) => vec![("name", error.to_string())],
        }
    }
}

/// Returns the settings for a repository: those of the matching pattern with the longest literal beginning.
#[must_use]
pub fn settings_for<'a>(
    all: impl IntoIterator<Item = &'a RepositorySettings>,
    repository: &Repository,
) -> Option<&'a RepositorySettings> {
    all.into_iter()
        .filter_map(|settings| settings.pattern().map(|pattern| (settings, pattern)))
        .filter(|(_, pattern)| pattern.matches(repository.as_str()))
        .max_by_key(|(_, pattern)| pattern.literal_prefix())
        .map(|(settings, _)| settings)
}

/// A person's or a build system's account at the internal registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The user name.
    pub name: ResourceName,
    /// The file that holds the password.
    pub password_file: PathBuf,
    /// Repositories that it may pull besides the public ones.
    #[serde(default)]
    pub pull: Vec<Pattern>,
    /// Repositories that it may push; targets of promotion policies are never among them.
    #[serde(default)]
    pub push: Vec<Pattern>,
}

impl Account {
    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        match self.name.as_str().parse::<crate::AccountName>() {
            Ok(_) => Vec::new(),
            Err(error) => vec![("name", error.to_string())],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_pattern_decides() {
        let settings = |name: &str, keep| RepositorySettings {
            name: name.parse().unwrap(),
            visibility: Visibility::Private,
            scan: ScanMode::OnPush,
            keep,
        };
        let all = [
            settings("hub/*", 1),
            settings("hub/alpine", 2),
            settings("**", 3),
        ];
        let keep = |repository: &str| {
            settings_for(&all, &repository.parse().unwrap())
                .unwrap()
                .keep
        };
        assert_eq!(
            (keep("hub/alpine"), keep("hub/nginx"), keep("other/x")),
            (2, 1, 3)
        );
    }
}
