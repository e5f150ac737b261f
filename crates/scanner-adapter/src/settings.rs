//! Settings of the scanner adapter.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sluice_service::{BusSettings, HttpSettings, RegistrySettings};
use url::Url;

/// Settings of the scanner adapter; `config.default.toml` documents each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub(crate) bus: BusSettings,
    pub(crate) registry: RegistrySettings,
    pub(crate) http: HttpSettings,
    pub(crate) scanner: ScannerSettings,
    pub(crate) trivy: TrivySettings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScannerSettings {
    pub(crate) concurrency: usize,
    pub(crate) timeout_seconds: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrivySettings {
    pub(crate) binary: PathBuf,
    pub(crate) cache_dir: PathBuf,
    pub(crate) server_url: String,
    pub(crate) token_file: PathBuf,
    pub(crate) database_repository: String,
    pub(crate) java_database_repository: String,
    pub(crate) database_insecure: bool,
    pub(crate) database_check_seconds: u64,
}

impl TrivySettings {
    /// Returns the address of a server that runs elsewhere, if there is one.
    pub(crate) fn server(&self) -> Option<Url> {
        let url = Url::parse(&self.server_url).ok()?;
        let fits = matches!(url.scheme(), "http" | "https") && url.has_host();
        (fits && url.username().is_empty() && url.password().is_none()).then_some(url)
    }

    /// Returns the file with that server's token, if one is given.
    pub(crate) fn token_file(&self) -> Option<&Path> {
        (!self.token_file.as_os_str().is_empty()).then_some(&self.token_file)
    }
}

impl sluice_service::Settings for Settings {
    const NAME: &'static str = "scanner-adapter";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        let trivy = &self.trivy;
        let rules = [
            (
                (1..=16).contains(&self.scanner.concurrency),
                "`scanner.concurrency` must be 1 to 16",
            ),
            (
                (10..=86_400).contains(&self.scanner.timeout_seconds),
                "`scanner.timeout_seconds` must be 10 to 86400",
            ),
            (
                (1..=86_400).contains(&trivy.database_check_seconds),
                "`trivy.database_check_seconds` must be 1 to 86400",
            ),
            (
                trivy.server_url.is_empty() || trivy.server().is_some(),
                "`trivy.server_url` must be an address without a credential, as in `http://trivy:4954`",
            ),
            (
                trivy.token_file().is_none() || !trivy.server_url.is_empty(),
                "`trivy.token_file` belongs to `trivy.server_url`; a server of our own gets a random token",
            ),
            (
                trivy.database_repository.is_empty() || trivy.server_url.is_empty(),
                "`trivy.database_repository` has no effect with `trivy.server_url`: set it at that server",
            ),
        ];
        rules
            .into_iter()
            .filter(|(holds, _)| !holds)
            .map(|(_, rule)| rule.to_owned())
            .collect()
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}

#[cfg(test)]
mod tests {
    use sluice_service::Layers;

    use super::*;

    fn load(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let layers = Layers::default().variables(variables);
        layers.load().map_err(|problems| problems.to_string())
    }

    #[test]
    fn the_defaults_are_valid() {
        let settings = load(&[]).unwrap();
        assert_eq!(settings.trivy.server(), None);
        assert_eq!(settings.trivy.token_file(), None);
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_its_key() {
        for (variables, key) in [
            (
                vec![("SLUICE__SCANNER__CONCURRENCY", "0")],
                "scanner.concurrency",
            ),
            (
                vec![("SLUICE__SCANNER__TIMEOUT_SECONDS", "1")],
                "scanner.timeout_seconds",
            ),
            (
                vec![("SLUICE__TRIVY__SERVER_URL", "trivy:4954")],
                "trivy.server_url",
            ),
            (
                vec![("SLUICE__TRIVY__SERVER_URL", "http://a:b@trivy")],
                "trivy.server_url",
            ),
            (
                vec![("SLUICE__TRIVY__TOKEN_FILE", "/run/token")],
                "trivy.token_file",
            ),
            (
                vec![
                    ("SLUICE__TRIVY__SERVER_URL", "http://trivy:4954"),
                    ("SLUICE__TRIVY__DATABASE_REPOSITORY", "a/b:2"),
                ],
                "trivy.database_repository",
            ),
        ] {
            let told = load(&variables).unwrap_err();
            assert!(told.contains(key), "{told}");
        }
    }
}
