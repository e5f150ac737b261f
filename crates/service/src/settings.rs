//! Settings: embedded defaults, then a file, then `SLUICE__SECTION__KEY` of the environment.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use figment::Figment;
use figment::providers::{Env, Format as _, Toml};
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

/// The settings of one service.
pub trait Settings: DeserializeOwned + Send + 'static {
    /// The name of the service, as in `poller`.
    const NAME: &'static str;
    /// The documented defaults, TOML.
    const DEFAULTS: &'static str;

    /// Returns every relation between settings that does not hold.
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
    /// The server, as in `nats://127.0.0.1:4222`.
    pub url: String,
    /// The user, empty for none.
    #[serde(default)]
    pub user: String,
    /// The file that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// A PEM file with the authorities to trust.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// How the internal registry is reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrySettings {
    /// Its address, as in `https://registry.internal`.
    pub url: Url,
    /// The account of this service there, empty for anonymous.
    #[serde(default)]
    pub account: String,
    /// The file that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The host and port of the token issuer, if it is another than the registry's.
    #[serde(default)]
    pub token_host: Option<String>,
    /// A PEM file with the authorities to trust.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// Where health and metrics are served, and how long a drain may take.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// The address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// A file that the bound address is written to.
    #[serde(default)]
    pub address_file: Option<PathBuf>,
    /// How long unfinished work is waited for, in seconds.
    pub grace_seconds: u64,
}

/// Reads the settings of a service.
pub(crate) fn load<S: Settings>(file: Option<&Path>) -> anyhow::Result<S> {
    from_figment(figment::<S>(file, Env::prefixed("SLUICE__")))
}

fn figment<S: Settings>(file: Option<&Path>, environment: Env) -> Figment {
    let mut figment = Figment::from(Toml::string(S::DEFAULTS));
    if let Some(file) = file {
        figment = figment.merge(Toml::file_exact(file));
    }
    figment.merge(environment.split("__"))
}

fn from_figment<S: Settings>(figment: Figment) -> anyhow::Result<S> {
    let settings: S = match figment.extract() {
        Ok(settings) => settings,
        Err(errors) => {
            let told: Vec<_> = errors
                .into_iter()
                .map(|error| format!("  {error}"))
                .collect();
            anyhow::bail!(
                "the settings of {} are not valid:\n{}",
                S::NAME,
                told.join("\n")
            );
        }
    };
    let problems = settings.problems();
    anyhow::ensure!(
        problems.is_empty(),
        "the settings of {} are not valid:\n  {}",
        S::NAME,
        problems.join("\n  ")
    );
    Ok(settings)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        bus: BusSettings,
        http: HttpSettings,
    }

    impl Settings for Sample {
        const NAME: &'static str = "sample";
        const DEFAULTS: &'static str =
            "[bus]\nurl = \"nats://a\"\n[http]\nlisten = \"127.0.0.1:0\"\ngrace_seconds = 25\n";

        fn http(&self) -> &HttpSettings {
            &self.http
        }
    }

    #[test]
    fn a_file_overrides_the_defaults() {
        let figment = Figment::from(Toml::string(Sample::DEFAULTS))
            .merge(Toml::string("[bus]\nurl = \"nats://b\"\n"));
        let sample: Sample = from_figment(figment).unwrap();
        assert_eq!(sample.bus.url, "nats://b");
        assert_eq!(sample.http().grace_seconds, 25);
    }

    #[test]
    fn an_unknown_key_and_a_wrong_type_are_named() {
        for (text, told) in [
            ("[bus]\nurll = \"x\"\n", "urll"),
            ("[http]\ngrace_seconds = \"x\"\n", "grace_seconds"),
        ] {
            let figment = Figment::from(Toml::string(Sample::DEFAULTS)).merge(Toml::string(text));
            let error = from_figment::<Sample>(figment).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
