//! Settings of the promoter.

use serde::Deserialize;
use sluice_service::{BusSettings, HttpSettings, RegistrySettings};

/// Settings of the promoter; `config.default.toml` documents each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub(crate) bus: BusSettings,
    pub(crate) registry: RegistrySettings,
    pub(crate) http: HttpSettings,
    pub(crate) promoter: PromoterSettings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PromoterSettings {
    pub(crate) concurrency: usize,
    pub(crate) timeout_seconds: u64,
}

impl sluice_service::Settings for Settings {
    const NAME: &'static str = "promoter";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        if (1..=64).contains(&self.promoter.concurrency) {
            return Vec::new();
        }
        vec!["`promoter.concurrency` must be 1 to 64".to_owned()]
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}
