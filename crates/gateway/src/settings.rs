//! Settings of the gateway.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use sluice_service::{
    BusSettings, HttpSettings, RegistrySettings, SecretSettings, ServeSettings, non_empty,
    out_of_range, plain_text_listener,
};

/// Settings of the gateway; `config.default.toml` documents each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub(crate) bus: BusSettings,
    pub(crate) registry: RegistrySettings,
    pub(crate) secrets: SecretSettings,
    pub(crate) http: HttpSettings,
    pub(crate) listeners: ServeSettings,
    pub(crate) tokens: TokenSettings,
    pub(crate) notifications: NotificationSettings,
    pub(crate) api: ApiSettings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenSettings {
    pub(crate) listen: SocketAddr,
    pub(crate) allow_plain_text: bool,
    #[serde(default, deserialize_with = "non_empty")]
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
    pub(crate) pulls_one_in: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiSettings {
    pub(crate) listen: SocketAddr,
    pub(crate) allow_plain_text: bool,
    #[serde(default, deserialize_with = "non_empty")]
    pub(crate) address_file: Option<PathBuf>,
    pub(crate) token_file: PathBuf,
}

impl sluice_service::Settings for Settings {
    const NAME: &'static str = "gateway";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        let mut problems = self.listeners.problems("listeners");
        problems.extend(out_of_range(
            "tokens.lifetime_seconds",
            self.tokens.lifetime_seconds,
            60..=3_600,
        ));
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
        if self.api.token_file.as_os_str().is_empty() {
            problems.push(
                "`api.token_file` must name the file of the token that callers send; `sluice keys` makes one"
                    .to_owned(),
            );
        }
        let (tokens, api) = (&self.tokens, &self.api);
        problems.extend(plain_text_listener(
            "tokens",
            tokens.listen,
            tokens.allow_plain_text,
        ));
        problems.extend(plain_text_listener("api", api.listen, api.allow_plain_text));
        problems
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}

#[cfg(test)]
mod tests {
    use sluice_service::SettingsSources;

    use super::*;

    fn load_problems(variables: &[(&str, &str)]) -> String {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let loaded = SettingsSources::default()
            .with_variables(variables)
            .load::<Settings>();
        loaded.map_or_else(|problems| problems.to_string(), |_| String::new())
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(load_problems(&[]), "");
    }

    #[test]
    fn an_api_that_others_reach_has_tls_or_says_that_it_has_none() {
        for open in ["0.0.0.0:8480", "[::]:0", "192.0.2.1:80"] {
            let listen = ("SLUICE__API__LISTEN", open);
            let stated = ("SLUICE__API__ALLOW_PLAIN_TEXT", "true");
            assert!(
                load_problems(&[listen]).contains("api.allow_plain_text"),
                "{open}"
            );
            assert_eq!(load_problems(&[listen, stated]), "");
        }
        for own in ["127.0.0.1:0", "127.0.0.2:80", "[::1]:80"] {
            assert_eq!(load_problems(&[("SLUICE__API__LISTEN", own)]), "", "{own}");
        }
    }

    #[test]
    fn the_api_is_never_without_a_token() {
        for listen in ["127.0.0.1:0", "[::1]:80"] {
            let listen = ("SLUICE__API__LISTEN", listen);
            assert_eq!(load_problems(&[listen]), "");
            assert!(
                load_problems(&[listen, ("SLUICE__API__TOKEN_FILE", "")])
                    .contains("`api.token_file`")
            );
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
            let problems = load_problems(&[(&variable, value)]);
            assert!(problems.contains(&key.to_lowercase()), "{key}: {problems}");
        }
    }
}
