//! Settings: the sections that services have in common, and where their values come from.

mod masking;
pub(crate) mod secrets;
pub(crate) mod sources;
mod value_tree;

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use secrecy::SecretString;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use url::{Host, Url};

/// The settings of one service.
pub trait Settings: DeserializeOwned + Send + 'static {
    /// The name of the service, as in `poller`.
    const NAME: &'static str;
    /// The documented defaults, TOML.
    const DEFAULTS: &'static str;

    /// Returns every problem with the values, alone or in combination.
    ///
    /// Each begins with the key, as in `` `poller.concurrency` must be 1 to 64 ``.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the settings of health and metrics.
    fn http(&self) -> &HttpSettings;
}

/// The connection to NATS.
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
    #[serde(default, deserialize_with = "non_empty")]
    pub password_file: Option<PathBuf>,
    /// The file with the JWT and key of the user, instead of name and password.
    #[serde(default, deserialize_with = "non_empty")]
    pub credentials_file: Option<PathBuf>,
    /// A PEM file with the authorities to trust; then nothing is sent in plain text.
    #[serde(default, deserialize_with = "non_empty")]
    pub ca_file: Option<PathBuf>,
    /// Allows passwords and events in plain text to other machines.
    #[serde(default)]
    pub allow_plain_text: bool,
}

impl BusSettings {
    /// Says whether every connection uses TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        let encrypted = |server: &str| {
            let server = server.trim();
            server.starts_with("tls://") || server.starts_with("wss://")
        };
        self.ca_file.is_some() || self.url.split(',').any(encrypted)
    }

    /// Returns the problem with the servers or the user: an invalid address, a password in an address, two ways to log
    /// in, or plain text that is not allowed.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if let Err(problem) = check_bus_url(&self.url) {
            return Some(format!("the address of NATS is refused: {problem}"));
        }
        if self.credentials_file.is_some()
            && !(self.user.is_empty() && self.password_file.is_none())
        {
            return Some(
                "`bus.credentials_file` names the user of NATS; leave `bus.user` and `bus.password_file` out".to_owned(),
            );
        }
        if self.is_encrypted() || self.allow_plain_text {
            return None;
        }
        let is_unencrypted_remote =
            |server: &&str| Url::parse(server.trim()).is_ok_and(|url| !is_loopback(&url));
        let server = self.url.split(',').find(is_unencrypted_remote)?;
        Some(format!(
            "`bus.url` would send the password and every event to `{}` in plain text: write `tls://`, name `bus.ca_file`, \
             or set `bus.allow_plain_text = true` where nobody else is on that network",
            server.trim()
        ))
    }
}

/// The connection to the internal registry.
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
    #[serde(default, deserialize_with = "non_empty")]
    pub password_file: Option<PathBuf>,
    /// The host and port of the token issuer, if it is another than the registry's.
    #[serde(default, deserialize_with = "non_empty")]
    pub token_host: Option<String>,
    /// The URL of the token issuer from here, in place of the one that the registry names to its clients.
    #[serde(default, deserialize_with = "token_url")]
    pub token_url: Option<Url>,
    /// A PEM file with the authorities to trust.
    #[serde(default, deserialize_with = "non_empty")]
    pub ca_file: Option<PathBuf>,
    /// Allows tokens and images in plain text to other machines.
    #[serde(default)]
    pub allow_plain_text: bool,
}

impl RegistrySettings {
    /// Returns the problem with a registry or token issuer in plain text, unless that is allowed.
    #[must_use]
    pub fn plain_text_problem(&self) -> Option<String> {
        let token_url = self.token_url.as_ref();
        let is_unencrypted_remote = |url: &Url| url.scheme() == "http" && !is_loopback(url);
        let (key, sent, url) = if is_unencrypted_remote(&self.url) {
            ("url", "tokens", &self.url)
        } else {
            let url = token_url.filter(|url| is_unencrypted_remote(url))?;
            ("token_url", "the password", url)
        };
        (!self.allow_plain_text).then(|| {
            format!(
                "`registry.{key}` would send {sent} to `{url}` in plain text: write `https://`, \
                 or set `registry.allow_plain_text = true` where nobody else is on that network"
            )
        })
    }
}

/// Returns the problem with a listener that serves plain text to other machines, unless that is allowed.
///
/// `key` is the section of its settings, as in `tokens`.
#[must_use]
pub fn plain_text_listener(key: &str, listen: SocketAddr, is_allowed: bool) -> Option<String> {
    (!listen.ip().is_loopback() && !is_allowed).then(|| {
        format!(
            "`{key}.listen` is `{listen}`, where passwords and tokens would come in plain text from other machines: \
             listen on 127.0.0.1 behind a proxy with TLS, or set `{key}.allow_plain_text = true` where nobody else is on \
             that network"
        )
    })
}

/// Returns the problem of a setting outside its range. `key` is its name, as in `poller.concurrency`.
#[must_use]
pub fn out_of_range<T: PartialOrd + Display>(
    key: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Option<String> {
    let (least, most) = (range.start(), range.end());
    (!range.contains(&value)).then(|| format!("`{key}` must be {least} to {most}"))
}

/// Says whether a URL has a loopback address.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        // The host of a scheme that is not in the URL standard is not parsed further.
        Some(Host::Domain(name)) => {
            let address = name.parse::<IpAddr>();
            name == "localhost" || address.is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}

/// The listener of health and metrics, and how long a drain may take.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// The address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// A file that the bound address is written to.
    #[serde(default, deserialize_with = "non_empty")]
    pub address_file: Option<PathBuf>,
    /// How long a stopping service waits for unfinished work, in seconds.
    pub grace_seconds: u64,
}

/// Reads a secret from a file, without the white space around it.
///
/// Errors name the file and never its content.
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

/// Deserializes an optional setting; an empty text counts as absent, because a variable is easier to empty than to unset.
///
/// # Errors
/// A value that is not a text.
pub fn non_empty<'de, D, T>(source: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: From<String>,
{
    let text = Option::<String>::deserialize(source)?;
    Ok(text.filter(|text| !text.is_empty()).map(T::from))
}

fn bus_url<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    let text = String::deserialize(source)?;
    check_bus_url(&text).map_err(D::Error::custom)?;
    Ok(text)
}

fn check_bus_url(text: &str) -> Result<(), String> {
    let schemes = ["nats", "tls", "ws", "wss"];
    text.split(',')
        .try_for_each(|server| parse_url(server, &schemes, "nats://127.0.0.1:4222").map(drop))
}

fn registry_url<'de, D: Deserializer<'de>>(source: D) -> Result<Url, D::Error> {
    let text = String::deserialize(source)?;
    parse_url(&text, &["http", "https"], "https://registry.internal").map_err(D::Error::custom)
}

fn token_url<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Url>, D::Error> {
    let text: Option<String> = non_empty(source)?;
    text.map(|text| parse_url(&text, &["http", "https"], "http://gateway:8481/token"))
        .transpose()
        .map_err(D::Error::custom)
}

/// Parses an address; a credential in it is refused, because logs and errors show addresses.
fn parse_url(text: &str, schemes: &[&str], example: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim())
        .ok()
        .filter(|url| url.has_host() && schemes.contains(&url.scheme()))
        .ok_or_else(|| format!("not an address; write for example `{example}`"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "an address must not hold a credential; give the user and its `password_file` beside it"
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
            assert!(parse_url(text, &schemes, "x").is_ok(), "{text}");
        }
        for text in [
            "",
            "nats",
            "nats:4222",
            "127.0.0.1:4222",
            "http://a",
            "nats://",
        ] {
            assert!(parse_url(text, &schemes, "x").is_err(), "{text}");
        }
    }

    #[test]
    fn a_credential_in_an_address_is_refused_and_not_shown() {
        for text in ["nats://user:hunter2@a", "nats://hunter2@a"] {
            let error = parse_url(text, &["nats"], "x").unwrap_err();
            assert!(error.contains("password_file") && !error.contains("hunter2"));
        }
    }

    fn bus(url: &str) -> BusSettings {
        BusSettings {
            url: url.to_owned(),
            user: String::new(),
            password_file: None,
            credentials_file: None,
            ca_file: None,
            allow_plain_text: false,
        }
    }

    #[test]
    fn nats_in_plain_text_beyond_this_machine_is_refused_unless_it_is_stated() {
        for url in [
            "nats://nats:4222",
            "ws://nats.example",
            "nats://192.0.2.1",
            "nats://127.0.0.1:4222, nats://nats:4222",
            "nats://localhost.example",
        ] {
            let problem = bus(url).problem();
            assert!(problem.unwrap().contains("bus.allow_plain_text"), "{url}");
            let stated = BusSettings {
                allow_plain_text: true,
                ..bus(url)
            };
            assert_eq!(stated.problem(), None);
            let encrypted = BusSettings {
                ca_file: Some(PathBuf::from("/ca.pem")),
                ..bus(url)
            };
            assert_eq!(encrypted.problem(), None);
        }
        for url in [
            "tls://nats:4222",
            "wss://nats.example",
            "nats://127.0.0.1:4222",
            "nats://127.8.9.1",
            "nats://[::1]:4222",
            "nats://localhost:4222",
        ] {
            assert_eq!(bus(url).problem(), None, "{url}");
        }
    }

    #[test]
    fn a_credentials_file_beside_a_user_or_a_password_is_refused() {
        let with_credentials = |user: &str, password_file: Option<&str>| BusSettings {
            user: user.to_owned(),
            password_file: password_file.map(PathBuf::from),
            credentials_file: Some(PathBuf::from("/run/secrets/nats.creds")),
            ..bus("nats://127.0.0.1:4222")
        };
        for (user, password_file) in [("poller", None), ("", Some("/p")), ("poller", Some("/p"))] {
            let problem = with_credentials(user, password_file).problem();
            assert!(problem.unwrap().contains("`bus.credentials_file`"));
        }
        assert_eq!(with_credentials("", None).problem(), None);
    }

    #[test]
    fn a_password_in_the_address_of_nats_is_refused_and_not_shown() {
        for url in [
            "nats://sluice:hunter2@nats:4222",
            "nats://127.0.0.1:4222,tls://:hunter2@nats:4222",
            "tls://hunter2@nats",
        ] {
            let problem = bus(url).problem().unwrap();
            assert!(problem.contains("`password_file`"), "{problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn a_registry_in_plain_text_beyond_this_machine_is_refused_unless_it_is_stated() {
        let registry = |url: &str, allow_plain_text| RegistrySettings {
            url: Url::parse(url).unwrap(),
            account: String::new(),
            password_file: None,
            token_host: None,
            token_url: None,
            ca_file: None,
            allow_plain_text,
        };
        for url in [
            "http://registry:5000",
            "http://10.0.0.1",
            "http://[fd00::1]",
        ] {
            let problem = registry(url, false).plain_text_problem();
            assert!(
                problem.unwrap().contains("registry.allow_plain_text"),
                "{url}"
            );
            assert_eq!(registry(url, true).plain_text_problem(), None);
        }
        for url in [
            "https://registry",
            "http://127.0.0.1:5000",
            "http://[::1]:5000",
        ] {
            assert_eq!(registry(url, false).plain_text_problem(), None, "{url}");
        }
        let issuer = |allow_plain_text| RegistrySettings {
            token_url: Url::parse("http://gateway:8481/token").ok(),
            ..registry("https://registry", allow_plain_text)
        };
        let problem = issuer(false).plain_text_problem();
        assert!(problem.unwrap().contains("registry.token_url"));
        assert_eq!(issuer(true).plain_text_problem(), None);
    }

    #[test]
    fn a_listener_in_plain_text_beyond_this_machine_is_refused_unless_it_is_stated() {
        for listen in ["0.0.0.0:8481", "[::]:0", "10.0.0.1:80"] {
            let problem = |allowed| plain_text_listener("tokens", listen.parse().unwrap(), allowed);
            assert!(problem(false).unwrap().contains("tokens.allow_plain_text"));
            assert_eq!(problem(true), None);
        }
        let own = "127.0.0.1:8481".parse().unwrap();
        assert_eq!(plain_text_listener("tokens", own, false), None);
    }
}
