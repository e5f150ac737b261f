//! What a service is told: the sections that all have in common, and secrets from files.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use secrecy::SecretString;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use url::Url;

/// The settings of one service.
pub trait Settings: DeserializeOwned + Send + 'static {
    /// The name of the service, as in `poller`.
    const NAME: &'static str;
    /// The documented defaults, TOML.
    const DEFAULTS: &'static str;

    /// Returns every relation between settings that does not hold.
    ///
    /// Each begins with the key, as in `` `poller.concurrency` must be 1 to 64 ``.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns where health is served.
    fn http(&self) -> &HttpSettings;
}

/// How NATS is reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusSettings {
    /// The server or servers, as in `nats://127.0.0.1:4222`, with commas between them.
    #[serde(deserialize_with = "bus_url")]
    pub url: String,
    /// The user, empty for none.
    #[serde(default)]
    pub user: String,
    /// The file that holds the password.
    #[serde(default, deserialize_with = "given")]
    pub password_file: Option<PathBuf>,
    /// A PEM file with the authorities to trust.
    #[serde(default, deserialize_with = "given")]
    pub ca_file: Option<PathBuf>,
}

/// How the internal registry is reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrySettings {
    /// Its address, as in `https://registry.internal`.
    #[serde(deserialize_with = "registry_url")]
    pub url: Url,
    /// The account of this service there, empty for anonymous.
    #[serde(default)]
    pub account: String,
    /// The file that holds the password.
    #[serde(default, deserialize_with = "given")]
    pub password_file: Option<PathBuf>,
    /// The host and port of the token issuer, if it is another than the registry's.
    #[serde(default, deserialize_with = "given")]
    pub token_host: Option<String>,
    /// A PEM file with the authorities to trust.
    #[serde(default, deserialize_with = "given")]
    pub ca_file: Option<PathBuf>,
}

/// Where health and metrics are served, and how long a drain may take.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// The address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// A file that the bound address is written to.
    #[serde(default, deserialize_with = "given")]
    pub address_file: Option<PathBuf>,
    /// How long unfinished work is waited for, in seconds.
    pub grace_seconds: u64,
}

/// Reads a secret from a file, without the white space around it.
///
/// # Errors
/// A file that cannot be read or is empty; the message names it, never its content.
pub fn secret_file(path: &Path) -> anyhow::Result<SecretString> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("failed to read the secret file `{}`", path.display()))?;
    let text = text.trim();
    anyhow::ensure!(
        !text.is_empty(),
        "the secret file `{}` is empty",
        path.display()
    );
    Ok(text.to_owned().into())
}

/// Reads an optional setting; an empty text counts as absent, because a variable is emptied more easily than removed.
///
/// # Errors
/// A value that is no text.
pub fn given<'de, D, T>(source: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: From<String>,
{
    let text = Option::<String>::deserialize(source)?;
    Ok(text.filter(|text| !text.is_empty()).map(T::from))
}

fn bus_url<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    let text = String::deserialize(source)?;
    for server in text.split(',') {
        checked(
            server,
            &["nats", "tls", "ws", "wss"],
            "nats://127.0.0.1:4222",
        )
        .map_err(D::Error::custom)?;
    }
    Ok(text)
}

fn registry_url<'de, D: Deserializer<'de>>(source: D) -> Result<Url, D::Error> {
    let text = String::deserialize(source)?;
    checked(&text, &["http", "https"], "https://registry.internal").map_err(D::Error::custom)
}

/// Addresses are shown in logs and errors, so a credential in one is refused, without showing it.
fn checked(text: &str, schemes: &[&str], example: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim())
        .ok()
        .filter(|url| url.has_host() && schemes.contains(&url.scheme()))
        .ok_or_else(|| format!("not an address; write for example `{example}`"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "an address must not hold a credential; give the name and `password_file` beside it"
                .to_owned(),
        );
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_secret_is_read_without_the_white_space_around_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        fs::write(&file, "  hunter2\n\n").unwrap();
        assert_eq!(secret_file(&file).unwrap().expose_secret(), "hunter2");
    }

    #[test]
    fn a_secret_that_is_missing_or_empty_is_refused_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        fs::write(&empty, "\n").unwrap();
        for file in [empty, folder.path().join("missing")] {
            let error = format!("{:#}", secret_file(&file).unwrap_err());
            assert!(error.contains(file.to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn addresses_are_checked() {
        let schemes = ["nats", "tls"];
        for text in ["nats://a", "tls://a.example:4222", "nats://[::1]:4222"] {
            assert!(checked(text, &schemes, "x").is_ok(), "{text}");
        }
        for text in [
            "",
            "nats",
            "nats:4222",
            "127.0.0.1:4222",
            "http://a",
            "nats://",
        ] {
            assert!(checked(text, &schemes, "x").is_err(), "{text}");
        }
    }

    #[test]
    fn a_credential_in_an_address_is_refused_and_not_shown() {
        for text in ["nats://user:hunter2@a", "nats://hunter2@a"] {
            let error = checked(text, &["nats"], "x").unwrap_err();
            assert!(error.contains("password_file") && !error.contains("hunter2"));
        }
    }
}
