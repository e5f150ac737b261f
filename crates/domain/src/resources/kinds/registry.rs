//! Remote registries: address, credential, certificates and proxy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::secret::{Origin, SecretRef};
use crate::name::{InvalidName, RegistryHost, ResourceName};
use crate::resources::proxy::{ProxyBypass, ProxySetting};

/// A named remote registry with one rotatable credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// Name of the resource.
    pub name: ResourceName,
    /// The registry, with its port.
    pub host: RegistryHost,
    /// User name of the account; anonymous without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Password or access token of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// Docker's `config.json`, instead of `username` and `password`; its credential helpers are run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_config: Option<SecretRef>,
    /// Use HTTP without TLS; refused for Docker Hub.
    #[serde(default)]
    pub plain_http: bool,
    /// Certificate authorities to trust instead of the public ones, or the one server certificate, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretRef>,
    /// Trust the public certificate authorities besides those of `ca`.
    #[serde(default, skip_serializing_if = "is_off")]
    pub public_authorities: bool,
    /// Client certificate for mutual TLS, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<SecretRef>,
    /// Private key of `client_certificate`, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key: Option<SecretRef>,
    /// Proxy to reach the registry through: its URL, or `environment` for `HTTPS_PROXY` and the like of each service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxySetting>,
    /// User name of the account at the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_username: Option<String>,
    /// Password of the account at the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_password: Option<SecretRef>,
    /// Hosts, domains and networks that are reached without the proxy; a host or domain may have a port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_proxy: Vec<String>,
    /// Further hosts, with their ports, that may issue tokens for this registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub realms: Vec<RegistryHost>,
    /// Pulls of the account's quota that scheduled work leaves unused.
    #[serde(default)]
    pub reserve: u32,
}

impl Registry {
    /// Returns whether an account at the registry is named.
    #[must_use]
    pub const fn has_credential(&self) -> bool {
        self.password.is_some()
    }

    /// Returns every origin that its password, Docker configuration or client certificate may have to be sent to: its
    /// own, and those of the token issuers that it names.
    ///
    /// # Errors
    /// A name among them that makes no address.
    pub fn origins(&self) -> Result<Vec<Origin>, InvalidName> {
        std::iter::once(&self.host)
            .chain(&self.realms)
            .map(|host| Origin::of_registry(host, self.plain_http))
            .collect()
    }

    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        faults.extend(missing_counterpart(
            ("username", self.username.is_some()),
            ("password", self.password.is_some()),
        ));
        faults.extend(missing_counterpart(
            ("client_certificate", self.client_certificate.is_some()),
            ("client_key", self.client_key.is_some()),
        ));
        faults.extend(missing_counterpart(
            ("proxy_username", self.proxy_username.is_some()),
            ("proxy_password", self.proxy_password.is_some()),
        ));
        let mut fault = |wrong: bool, key, message: &str| {
            if wrong {
                faults.push((key, message.to_owned()));
            }
        };
        fault(
            self.docker_config.is_some() && self.username.is_some(),
            "docker_config",
            "the account is named by `username` already; remove one of them",
        );
        fault(
            self.public_authorities && self.ca.is_none(),
            "public_authorities",
            "without `ca` the public authorities are trusted anyway; remove it",
        );
        let has_tls = self.ca.is_some() || self.client_certificate.is_some();
        fault(
            self.plain_http && has_tls,
            "plain_http",
            "certificates mean nothing without TLS; remove `plain_http`, or the certificates",
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
        for entry in &self.no_proxy {
            if let Err(error) = entry.parse::<ProxyBypass>() {
                faults.push(("no_proxy", error.to_string()));
            }
        }
        faults
    }
}

/// Returns a fault if only one of two keys that go together is set.
fn missing_counterpart(
    one: (&'static str, bool),
    other: (&'static str, bool),
) -> Option<(&'static str, String)> {
    let (given, missing) = match (one.1, other.1) {
        (true, false) => (one.0, other.0),
        (false, true) => (other.0, one.0),
        _ => return None,
    };
    Some((given, format!("add `{missing}`, or remove `{given}`")))
}

// The signature is the one that serde asks for.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_off(switch: &bool) -> bool {
    !*switch
}

#[cfg(test)]
mod tests {
    fn faults(keys: &str) -> Vec<(usize, String)> {
        let text = format!("kind: Registry\nname: r\nhost: r.example\n{keys}");
        match crate::resources::parse_documents(&text) {
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
            "username: u\npassword: { secret: p }\n",
            "docker_config: { secret: c }\nca: { secret: ca }\npublic_authorities: true\n",
            "client_certificate: { secret: c }\nclient_key: { secret: k }\n",
            "proxy: http://proxy:3128\nproxy_username: u\nproxy_password: { secret: p }\nno_proxy: [a.example, .b.example, 'c:5000', 10.0.0.0/8, '::1', '*']\n",
            "proxy: environment\nplain_http: true\n",
        ] {
            assert_eq!(faults(good), [], "{good}");
        }
    }

    #[test]
    fn a_registry_is_told_what_is_missing_and_what_is_too_much() {
        for (keys, line, expected) in [
            ("username: u\n", 4, "add `password`"),
            ("client_key: { secret: k }\n", 4, "add `client_certificate`"),
            (
                "proxy: http://p\nproxy_username: u\n",
                5,
                "add `proxy_password`",
            ),
            (
                "proxy_username: u\nproxy_password: { secret: p }\n",
                4,
                "`proxy`",
            ),
            ("no_proxy: [a]\n", 4, "`proxy`"),
            (
                "proxy: environment\nno_proxy: [a]\n",
                5,
                "a list of its own",
            ),
            ("proxy: http://p\nno_proxy: ['a,b']\n", 5, "10.0.0.0/8"),
            ("proxy: http://p\nno_proxy: ['http://a']\n", 5, "10.0.0.0/8"),
            ("proxy: http://p\nno_proxy: ['a:x']\n", 5, "10.0.0.0/8"),
            ("proxy: http://u:hunter2@p\n", 4, "proxy_password"),
            ("public_authorities: true\n", 4, "`ca`"),
            ("plain_http: true\nca: { secret: ca }\n", 4, "without TLS"),
            (
                "username: u\npassword: { secret: p }\ndocker_config: { secret: c }\n",
                6,
                "`username` already",
            ),
            ("skip_tls_verification: true\n", 4, "unknown key"),
            (
                "password_file: /p\n",
                4,
                "write `password: { secret: NAME }`",
            ),
            ("docker_config_file: /p\n", 4, "`docker_config: {"),
            ("ca_file: /p\n", 4, "`ca: { secret: NAME }`"),
            ("client_certificate_file: /p\n", 4, "`client_certificate: {"),
            ("client_key_file: /p\n", 4, "`client_key: {"),
            ("proxy_password_file: /p\n", 4, "`proxy_password: {"),
            ("ca: { secret: /etc/passwd }\n", 4, "never a path"),
            ("ca: { secret: ca, file: /p }\n", 4, "unknown key `file`"),
            ("ca: hunter2\n", 4, "{ secret: NAME }"),
            ("ca: [hunter2]\n", 4, "{ secret: NAME }"),
            (
                "username: u\npassword: hunter2\n",
                5,
                "does not belong into a resource",
            ),
            ("username: u\npassword: 4711\n", 5, "{ secret: NAME }"),
        ] {
            let found = faults(keys);
            assert_eq!(found.len(), 1, "{keys}: {found:?}");
            assert_eq!(found[0].0, line, "{keys}: {found:?}");
            assert!(found[0].1.contains(expected), "{keys}: {found:?}");
            assert!(!found[0].1.contains("hunter2"), "{found:?}");
        }
    }

    #[test]
    fn docker_hub_is_never_spoken_to_without_tls() {
        for host in ["docker.io", "registry-1.docker.io"] {
            let text = format!("kind: Registry\nname: hub\nhost: {host}\nplain_http: true\n");
            let problems = crate::resources::parse_documents(&text).unwrap_err();
            assert!(problems[0].message.contains("speaks TLS"), "{problems:?}");
        }
    }
}
