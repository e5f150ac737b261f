//! Settings of the pruner.

use serde::Deserialize;
use sluice_service::{BusSettings, HttpSettings, RegistrySettings};

/// The name of the stage in claims and tag entries.
pub(crate) const STAGE: &str = "pruner";

/// Settings of the pruner; `config.default.toml` documents each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub(crate) bus: BusSettings,
    pub(crate) registry: RegistrySettings,
    pub(crate) http: HttpSettings,
    pub(crate) pruner: PrunerSettings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrunerSettings {
    pub(crate) concurrency: usize,
    pub(crate) timeout_seconds: u64,
}

impl sluice_service::Settings for Settings {
    const NAME: &'static str = STAGE;
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(1..=16).contains(&self.pruner.concurrency) {
            problems.push("`pruner.concurrency` must be 1 to 16".to_owned());
        }
        if !(10..=86_400).contains(&self.pruner.timeout_seconds) {
            problems.push("`pruner.timeout_seconds` must be 10 to 86400".to_owned());
        }
        problems
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}
