//! Settings of the promoter.

use serde::Deserialize;
use sluice_service::{BusSettings, HttpSettings, RegistrySettings, SecretSettings};

/// Settings of the promoter; `config.default.toml` documents each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub(crate) bus: BusSettings,
    pub(crate) registry: RegistrySettings,
    pub(crate) secrets: SecretSettings,
    pub(crate) http: HttpSettings,
    pub(crate) promoter: PromoterSettings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PromoterSettings {
    pub(crate) concurrency: usize,
    pub(crate) timeout_seconds: u64,
    pub(crate) forget_after_days: i64,
}

impl sluice_service::Settings for Settings {
    const NAME: &'static str = "promoter";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(1..=64).contains(&self.promoter.concurrency) {
            problems.push("`promoter.concurrency` must be 1 to 64".to_owned());
        }
        // The log and the deliveries remember events for 30 days; one of them must not come a second time as another.
        if !(31..=3_650).contains(&self.promoter.forget_after_days) {
            problems.push("`promoter.forget_after_days` must be 31 to 3650".to_owned());
        }
        problems
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}
