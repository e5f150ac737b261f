//! Settings of the promoter.

use serde::Deserialize;
use sluice_service::{BusSettings, HttpSettings, RegistrySettings, SecretSettings};

/// The name of the stage in claims, tag entries and reconciliations.
pub(crate) const STAGE: &str = "promoter";

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
    const NAME: &'static str = STAGE;
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(1..=64).contains(&self.promoter.concurrency) {
            problems.push("`promoter.concurrency` must be 1 to 64".to_owned());
        }
        // Streams and deliveries keep events for 30 days; a decision that is made again within that time must not get the
        // occurrence of a forgotten one.
        if !(31..=3_650).contains(&self.promoter.forget_after_days) {
            problems.push("`promoter.forget_after_days` must be 31 to 3650".to_owned());
        }
        problems
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}
