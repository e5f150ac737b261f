//! Registries, repositories and accounts: who may reach what.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::proxy::ProxySetting;
use crate::name::{AccountName, RegistryHost, Repository, ResourceName};
use crate::pattern::Pattern;
use crate::service_account::is_service_account;

/// The largest tag limit of a repository.
const MOST_KEPT: u32 = 100_000;

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
    /// Docker's `config.json`, instead of `username` and `password_file`; its credential helpers are run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_config_file: Option<PathBuf>,
    /// Speaks HTTP without TLS.
    #[serde(default)]
    pub plain_http: bool,
    /// A PEM file with the authorities to trust instead of the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Trusts the public authorities besides those of `ca_file`.
    #[serde(default, skip_serializing_if = "is_off")]
    pub public_authorities: bool,
    /// A PEM file with the certificate that the registry asks of its clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_file: Option<PathBuf>,
    /// The PEM file with its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<PathBuf>,
    /// The proxy on the way to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxySetting>,
    /// The user name at the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_username: Option<String>,
    /// The file that holds the password at the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_password_file: Option<PathBuf>,
    /// Hosts, domains and networks that are reached without the proxy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_proxy: Vec<String>,
    /// Further hosts that may issue tokens for this registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub realms: Vec<RegistryHost>,
    /// How many pulls of the account's quota background work leaves to others.
    #[serde(default)]
    pub reserve: u32,
}

impl Registry {
    /// Says whether an account at the registry is named.
    #[must_use]
    pub const fn has_credential(&self) -> bool {
        self.password_file.is_some()
    }

    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        faults.extend(both(
            ("username", self.username.is_some()),
            ("password_file", self.password_file.is_some()),
        ));
        faults.extend(both(
            (
                "client_certificate_file",
                self.client_certificate_file.is_some(),
            ),
            ("client_key_file", self.client_key_file.is_some()),
        ));
        faults.extend(both(
            ("proxy_username", self.proxy_username.is_some()),
            ("proxy_password_file", self.proxy_password_file.is_some()),
        ));
        let mut fault = |wrong: bool, key, told: &str| {
            if wrong {
                faults.push((key, told.to_owned()));
            }
        };
        fault(
            self.docker_config_file.is_some() && self.username.is_some(),
            "docker_config_file",
            "the account is named by `username` already; remove one of them",
        );
        fault(
            self.public_authorities && self.ca_file.is_none(),
            "public_authorities",
            "without `ca_file` the public authorities are trusted anyway; remove it",
        );
        let has_tls = self.ca_file.is_some() || self.client_certificate_file.is_some();
        fault(
            self.plain_http && has_tls,
            "plain_http",
            "certificates mean nothing without TLS; remove `plain_http`, or the files",
        );
        fault(
            self.plain_http && self.host.is_docker_hub(),
            "plain_http",
            "Docker Hub speaks TLS, and nothing is sent to it without; remove it",
        );
        let server = matches!(self.proxy, Some(ProxySetting::Server(_)));
        fault(
            !server && self.proxy_username.is_some(),
            "proxy_username",
            "write the address of the proxy in `proxy`",
        );
        fault(
            !server && !self.no_proxy.is_empty(),
            "no_proxy",
            "it goes with the address of a proxy in `proxy`; the environment has a list of its own",
        );
        let broken = |entry: &String| {
            entry.is_empty()
                || entry == "*"
                || entry.contains([',', '/', ' ']) && !is_network(entry)
        };
        fault(
            self.no_proxy.iter().any(broken),
            "no_proxy",
            "expected hosts, domains and networks, as in `[registry.internal, .example.com, 10.0.0.0/8]`",
        );
        faults
    }
}

/// Says of two keys that go together that one is missing.
fn both(one: (&'static str, bool), other: (&'static str, bool)) -> Option<(&'static str, String)> {
    let (given, missing) = match (one.1, other.1) {
        (true, false) => (one.0, other.0),
        (false, true) => (other.0, one.0),
        _ => return None,
    };
    Some((given, format!("add `{missing}`, or remove `{given}`")))
}

/// Says whether this is an address with the length of its prefix.
fn is_network(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, length)| {
        address.parse::<std::net::IpAddr>().is_ok() && length.parse::<u8>().is_ok()
    })
}

// The signature is the one that serde asks for.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_off(switch: &bool) -> bool {
    !*switch
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

/// What becomes of an image that stands in a target without a decision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unauthorised {
    /// It is told.
    #[default]
    Report,
    /// It is told, and the tag is put back or removed.
    Revert,
}

impl Unauthorised {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
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
    /// What becomes of an image that stands in it, as a target, without a decision.
    #[serde(default, skip_serializing_if = "Unauthorised::is_default")]
    pub unauthorised: Unauthorised,
    /// A tag that names an image never comes to name another one; it may still be removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub immutable: bool,
}

impl RepositorySettings {
    /// Returns the pattern, which is checked when the resource is read.
    #[must_use]
    pub fn pattern(&self) -> Option<Pattern> {
        self.name.as_str().parse().ok()
    }

    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if let Err(error) = self.name.as_str().parse::<Pattern>() {
            faults.push(("name", error.to_string()));
        }
        if self.keep > MOST_KEPT {
            faults.push((
                "keep",
                format!("at most {MOST_KEPT} tags can be counted; write `0` to keep all"),
            ));
        }
        faults
    }
}

/// Returns the settings for a repository: those of the most specific pattern that matches, whatever their order.
#[must_use]
pub fn settings_for<'a>(
    all: impl IntoIterator<Item = &'a RepositorySettings>,
    repository: &Repository,
) -> Option<&'a RepositorySettings> {
    all.into_iter()
        .filter_map(|settings| settings.pattern().map(|pattern| (settings, pattern)))
        .filter(|(_, pattern)| pattern.matches(repository.as_str()))
        .max_by(|(_, one), (_, other)| one.specificity().cmp(&other.specificity()))
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
        let mut faults = Vec::new();
        if let Err(error) = self.name.as_str().parse::<AccountName>() {
            faults.push(("name", error.to_string()));
        }
        if is_service_account(self.name.as_str()) {
            faults.push((
                "name",
                "this is the account of one of Sluice's own services; choose another name"
                    .to_owned(),
            ));
        }
        if self.pull.is_empty() && self.push.is_empty() {
            faults.push((
                "name",
                "the account may neither pull nor push; add `pull` or `push`, as in `push: [hub/*]`".to_owned(),
            ));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(name: &str, keep: u32) -> RepositorySettings {
        RepositorySettings {
            name: name.parse().unwrap(),
            visibility: Visibility::Private,
            scan: ScanMode::OnPush,
            keep,
            unauthorised: Unauthorised::Report,
            immutable: false,
        }
    }

    fn faults(keys: &str) -> Vec<(usize, String)> {
        let text = format!("kind: Registry\nname: r\nhost: r.example\n{keys}");
        match crate::resources::documents(&text) {
            Ok(_) => Vec::new(),
            Err(problems) => problems
                .into_iter()
                .map(|problem| (problem.line, problem.message))
                .collect(),
        }
    }

    #[test]
    fn a_registry_takes_what_goes_together() {
        for good in [
            "",
            "username: u\npassword_file: /p\n",
            "docker_config_file: /c\nca_file: /ca\npublic_authorities: true\n",
            "client_certificate_file: /c\nclient_key_file: /k\n",
            "proxy: http://proxy:3128\nproxy_username: u\nproxy_password_file: /p\nno_proxy: [a.example, .b.example, 10.0.0.0/8, '::1']\n",
            "proxy: environment\nplain_http: true\n",
        ] {
            assert_eq!(faults(good), [], "{good}");
        }
    }

    #[test]
    fn a_registry_is_told_what_is_missing_and_what_is_too_much() {
        for (keys, line, told) in [
            ("username: u\n", 4, "add `password_file`"),
            ("client_key_file: /k\n", 4, "add `client_certificate_file`"),
            (
                "proxy: http://p\nproxy_username: u\n",
                5,
                "add `proxy_password_file`",
            ),
            ("proxy_username: u\nproxy_password_file: /p\n", 4, "`proxy`"),
            ("no_proxy: [a]\n", 4, "`proxy`"),
            (
                "proxy: environment\nno_proxy: [a]\n",
                5,
                "a list of its own",
            ),
            ("proxy: http://p\nno_proxy: ['a,b']\n", 5, "10.0.0.0/8"),
            ("proxy: http://p\nno_proxy: ['http://a']\n", 5, "10.0.0.0/8"),
            ("proxy: http://p\nno_proxy: ['*']\n", 5, "10.0.0.0/8"),
            ("proxy: http://u:hunter2@p\n", 4, "proxy_password_file"),
            ("public_authorities: true\n", 4, "`ca_file`"),
            ("plain_http: true\nca_file: /ca\n", 4, "without TLS"),
            (
                "username: u\npassword_file: /p\ndocker_config_file: /c\n",
                6,
                "`username` already",
            ),
            ("skip_tls_verification: true\n", 4, "unknown key"),
        ] {
            let found = faults(keys);
            assert_eq!(found.len(), 1, "{keys}: {found:?}");
            assert_eq!(found[0].0, line, "{keys}: {found:?}");
            assert!(found[0].1.contains(told), "{keys}: {found:?}");
            assert!(!found[0].1.contains("hunter2"), "{found:?}");
        }
    }

    #[test]
    fn docker_hub_is_never_spoken_to_without_tls() {
        for host in ["docker.io", "registry-1.docker.io"] {
            let text = format!("kind: Registry\nname: hub\nhost: {host}\nplain_http: true\n");
            let problems = crate::resources::documents(&text).unwrap_err();
            assert!(problems[0].message.contains("speaks TLS"), "{problems:?}");
        }
    }

    #[test]
    fn the_most_specific_pattern_decides_in_any_order() {
        let mut all = [
            settings("hub/**", 1),
            settings("hub/*", 2),
            settings("hub/alpine", 3),
            settings("hub/al*", 4),
            settings("hub/*e", 5),
            settings("**", 6),
        ];
        for _ in 0..2 {
            all.reverse();
            for (repository, keep) in [
                ("hub/alpine", 3),
                ("hub/almost", 4),
                ("hub/cache", 5),
                ("hub/nginx", 2),
                ("hub/team/app", 1),
                ("other/x", 6),
            ] {
                let found = settings_for(&all, &repository.parse().unwrap()).unwrap();
                assert_eq!(found.keep, keep, "{repository}");
            }
        }
    }

    #[test]
    fn a_repository_that_no_pattern_matches_has_no_settings() {
        let all = [settings("hub/*", 1)];
        assert!(settings_for(&all, &"hub/team/app".parse().unwrap()).is_none());
        assert!(settings_for(&[], &"hub/app".parse().unwrap()).is_none());
    }

    #[test]
    fn every_name_of_settings_is_a_pattern() {
        for name in ["*", "**", "***", "a**b", "/", "hub/*/x", "**/*", "-/_*.**"] {
            assert!(settings(name, 0).pattern().is_some(), "{name}");
        }
    }
}
