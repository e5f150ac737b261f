//! Where a running `sluice up` serves, written down for the other commands.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sluice_domain::RegistryHost;
use sluice_service::BusSettings;

const FILE: &str = "endpoints.json";

/// What `sluice up` serves; paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoints {
    /// The process, to send a signal to.
    pub(crate) pid: u32,
    /// The bus.
    pub(crate) nats: NatsEndpoint,
    /// The address of the internal registry.
    pub(crate) registry: String,
    /// The address of the registry's token issuer.
    pub(crate) tokens: String,
    /// The address of the REST API.
    pub(crate) api: String,
    /// The file of the token that its callers send.
    pub(crate) api_token_file: PathBuf,
    /// The address of health and metrics.
    pub(crate) health: String,
}

/// How the bus is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NatsEndpoint {
    /// Its address.
    pub(crate) url: String,
    /// NATS user name, empty for none.
    pub(crate) user: String,
    /// The file that holds the password.
    pub(crate) password_file: Option<PathBuf>,
    /// A PEM file with the authorities to trust.
    #[serde(default)]
    pub(crate) ca_file: Option<PathBuf>,
    /// Whether passwords and events may go there in plain text, if it is not on this machine.
    #[serde(default)]
    pub(crate) allow_plain_text: bool,
    /// The folder with a password for each service; without it they use the user above.
    #[serde(skip)]
    pub(crate) passwords: Option<PathBuf>,
}

impl NatsEndpoint {
    /// Returns what the bus is connected with.
    pub(crate) fn settings(&self) -> BusSettings {
        BusSettings {
            url: self.url.clone(),
            user: self.user.clone(),
            password_file: self.password_file.clone(),
            ca_file: self.ca_file.clone(),
            allow_plain_text: self.allow_plain_text,
        }
    }
}

/// Returns the address at which this machine itself reaches what listens on all of its addresses.
pub(crate) fn reachable(url: &str) -> String {
    url.replace("://0.0.0.0:", "://127.0.0.1:")
        .replace("://[::]:", "://[::1]:")
}

impl Endpoints {
    /// Returns the names of the internal registry and of its token issuer.
    pub(crate) fn registry_and_issuer(&self) -> Option<(RegistryHost, RegistryHost)> {
        let name = |url: &str| {
            let (_, authority) = url.trim_end_matches('/').split_once("://")?;
            authority.parse().ok()
        };
        Some((name(&self.registry)?, name(&self.tokens)?))
    }

    /// Returns where they are written.
    pub(crate) fn file(data: &Path) -> PathBuf {
        data.join(FILE)
    }

    /// Reads what is written in a data folder; nothing if nothing is.
    pub(crate) fn read(data: &Path) -> anyhow::Result<Option<Self>> {
        let file = Self::file(data);
        let text = match std::fs::read_to_string(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("failed to read `{}`", file.display()))?,
        };
        let endpoints = serde_json::from_str(&text)
            .with_context(|| format!("`{}` is damaged", file.display()))?;
        Ok(Some(endpoints))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_registry_and_its_issuer_are_read_out_of_their_addresses() {
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
