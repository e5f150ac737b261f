//! The endpoints of a running `sluice up`, stored in the data folder for the other commands.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sluice_domain::RegistryHost;
use sluice_service::BusSettings;

/// The URL of a NATS server on this machine.
pub const DEFAULT_NATS_URL: &str = "nats://127.0.0.1:4222";
const FILE: &str = "endpoints.json";

/// The addresses of `sluice up`; paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// The process id.
    pub pid: u32,
    /// The bus.
    pub nats: NatsEndpoint,
    /// The address of the internal registry.
    pub registry: String,
    /// The address of the registry's token issuer.
    pub tokens: String,
    /// The address of the REST API.
    pub api: String,
    /// The file with the token of the REST API.
    pub api_token_file: PathBuf,
    /// The address of health and metrics.
    pub health: String,
}

/// The connection to a NATS server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NatsEndpoint {
    /// The URL.
    pub url: String,
    /// The user name, empty for none.
    pub user: String,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
    /// The file with the JWT and key of the user, instead of name and password.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
    /// A PEM file with the certificate authorities to trust.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Whether passwords and events may be sent in plain text to another machine.
    #[serde(default)]
    pub allow_plain_text: bool,
    /// The folder with a password for each service; without it the services use `user`.
    #[serde(skip)]
    pub passwords: Option<PathBuf>,
}

impl NatsEndpoint {
    /// Returns the settings of the bus.
    pub fn settings(&self) -> BusSettings {
        BusSettings {
            url: self.url.clone(),
            user: self.user.clone(),
            password_file: self.password_file.clone(),
            credentials_file: self.credentials_file.clone(),
            ca_file: self.ca_file.clone(),
            allow_plain_text: self.allow_plain_text,
        }
    }
}

/// Replaces the address of all interfaces by the loopback address.
pub(crate) fn reachable(url: &str) -> String {
    url.replace("://0.0.0.0:", "://127.0.0.1:")
        .replace("://[::]:", "://[::1]:")
}

impl Endpoints {
    /// Returns the hosts of the internal registry and of its token issuer.
    pub fn registry_and_issuer(&self) -> Option<(RegistryHost, RegistryHost)> {
        let name = |url: &str| {
            let (_, authority) = url.trim_end_matches('/').split_once("://")?;
            authority.parse().ok()
        };
        Some((name(&self.registry)?, name(&self.tokens)?))
    }

    /// Returns the file of the endpoints in a data folder.
    pub(crate) fn file(data: &Path) -> PathBuf {
        data.join(FILE)
    }

    /// Reads the endpoints of a data folder; `None` if no `sluice up` is running on it.
    pub fn read(data: &Path) -> anyhow::Result<Option<Self>> {
        let file = Self::file(data);
        let text = match std::fs::read_to_string(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("failed to read `{}`", file.display()))?,
        };
        let endpoints = serde_json::from_str(&text)
            .with_context(|| format!("`{}` is corrupt", file.display()))?;
        Ok(Some(endpoints))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_of_registry_and_token_issuer_are_parsed_from_their_urls() {
        let endpoints = |registry: &str| Endpoints {
            pid: 1,
            nats: NatsEndpoint::default(),
            registry: registry.to_owned(),
            tokens: "http://[::1]:41075/".to_owned(),
            api: String::new(),
            api_token_file: PathBuf::new(),
            health: String::new(),
        };
        let found = endpoints("http://127.0.0.1:5000").registry_and_issuer();
        let (registry, issuer) = found.unwrap();
        assert_eq!(registry.as_str(), "127.0.0.1:5000");
        assert_eq!(issuer.as_str(), "[::1]:41075");
        assert_eq!(endpoints("").registry_and_issuer(), None);
    }
}
