//! Settings of the gateway.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use sluice_service::{BusSettings, HttpSettings, RegistrySettings, given};

/// Settings of the gateway; `config.default.toml` documents each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub(crate) bus: BusSettings,
    pub(crate) registry: RegistrySettings,
    pub(crate) http: HttpSettings,
    pub(crate) tokens: TokenSettings,
    pub(crate) notifications: NotificationSettings,
    pub(crate) api: ApiSettings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenSettings {
    pub(crate) listen: SocketAddr,
    #[serde(default, deserialize_with = "given")]
    pub(crate) address_file: Option<PathBuf>,
    pub(crate) issuer: String,
    pub(crate) service: String,
    pub(crate) key_file: PathBuf,
    pub(crate) certificate_file: PathBuf,
    pub(crate) accounts_dir: PathBuf,
    pub(crate) lifetime_seconds: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NotificationSettings {
    pub(crate) secret_file: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiSettings {
    pub(crate) listen: SocketAddr,
    #[serde(default, deserialize_with = "given")]
    pub(crate) address_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "given")]
    pub(crate) token_file: Option<PathBuf>,
}

impl sluice_service::Settings for Settings {
    const NAME: &'static str = "gateway";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(60..=3_600).contains(&self.tokens.lifetime_seconds) {
            problems.push("`tokens.lifetime_seconds` must be 60 to 3600".to_owned());
        }
        for (key, text) in [
            ("issuer", &self.tokens.issuer),
            ("service", &self.tokens.service),
        ] {
            if text.is_empty() {
                problems.push(format!(
                    "`tokens.{key}` must be what the registry's `auth.token.{key}` says"
                ));
            }
        }
        if !self.api.listen.ip().is_loopback() && self.api.token_file.is_none() {
            problems.push(format!(
                "`api.listen` is `{}`, which others than this machine can reach: set `api.token_file`, or listen on 127.0.0.1",
                self.api.listen
            ));
        }
        problems
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}

#[cfg(test)]
mod tests {
    use sluice_service::Layers;

    use super::*;

    fn told(variables: &[(&str, &str)]) -> String {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let loaded = Layers::default().variables(variables).load::<Settings>();
        loaded.map_or_else(|problems| problems.to_string(), |_| String::new())
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(told(&[]), "");
    }

    #[test]
    fn an_api_that_others_reach_needs_a_token() {
        let token = ("SLUICE__API__TOKEN_FILE", "/run/secrets/api");
        for open in ["0.0.0.0:8480", "[::]:0", "192.0.2.1:80"] {
            let listen = ("SLUICE__API__LISTEN", open);
            assert!(told(&[listen]).contains("set `api.token_file`"), "{open}");
            assert!(told(&[listen, ("SLUICE__API__TOKEN_FILE", "")]).contains("api.token_file"));
            assert_eq!(told(&[listen, token]), "");
        }
        for own in ["127.0.0.1:0", "127.0.0.2:80", "[::1]:80"] {
            assert_eq!(told(&[("SLUICE__API__LISTEN", own)]), "", "{own}");
        }
    }

    #[test]
    fn token_settings_are_checked() {
        for (key, value) in [
            ("LIFETIME_SECONDS", "59"),
            ("LIFETIME_SECONDS", "86400"),
            ("ISSUER", ""),
            ("SERVICE", ""),
        ] {
            let variable = format!("SLUICE__TOKENS__{key}");
            let told = told(&[(&variable, value)]);
            assert!(told.contains(&key.to_lowercase()), "{key}: {told}");
        }
    }
}
