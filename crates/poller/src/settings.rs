//! Settings of the poller.

use serde::Deserialize;
use sluice_service::{BusSettings, HttpSettings, SecretSettings};

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
        let poller = &self.poller;
        let mut problems = Vec::new();
        for (key, value) in [
            ("concurrency", poller.concurrency),
            ("parallel_heads", poller.parallel_heads),
        ] {
            if !(1..=64).contains(&value) {
                problems.push(format!("`poller.{key}` must be 1 to 64"));
            }
        }
        problems
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}
