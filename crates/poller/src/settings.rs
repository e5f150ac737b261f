//! Settings of the poller.

use serde::Deserialize;
use sluice_service::{BusSettings, HttpSettings, SecretSettings, out_of_range};

/// Settings of the poller; `config.default.toml` documents each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub(crate) bus: BusSettings,
    pub(crate) secrets: SecretSettings,
    pub(crate) http: HttpSettings,
    pub(crate) poller: PollerSettings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PollerSettings {
    pub(crate) concurrency: usize,
    pub(crate) parallel_heads: usize,
    pub(crate) timeout_seconds: u64,
}

impl sluice_service::Settings for Settings {
    const NAME: &'static str = "poller";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        let PollerSettings {
            concurrency,
            parallel_heads,
            ..
        } = self.poller;
        [
            out_of_range("poller.concurrency", concurrency, 1..=64),
            out_of_range("poller.parallel_heads", parallel_heads, 1..=64),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}
