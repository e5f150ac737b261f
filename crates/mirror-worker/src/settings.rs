//! Settings of the mirror worker.

use serde::Deserialize;
use sluice_service::{BusSettings, HttpSettings, RegistrySettings};

/// Settings of the mirror worker; `config.default.toml` documents each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub(crate) bus: BusSettings,
    pub(crate) registry: RegistrySettings,
    pub(crate) http: HttpSettings,
    pub(crate) mirror: MirrorSettings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MirrorSettings {
    pub(crate) concurrency: usize,
    pub(crate) timeout_seconds: u64,
}

impl sluice_service::Settings for Settings {
    const NAME: &'static str = "mirror-worker";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        if (1..=16).contains(&self.mirror.concurrency) {
            return Vec::new();
        }
        vec!["`mirror.concurrency` must be 1 to 16".to_owned()]
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}
