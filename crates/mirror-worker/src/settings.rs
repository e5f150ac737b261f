//! Settings of the mirror worker.

use serde::Deserialize;
use sluice_service::{BusSettings, HttpSettings, RegistrySettings};

/// The longest time between two audits: a year.
const MOST_AUDIT_HOURS: u64 = 8_784;

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
    pub(crate) audit_hours: u64,
}

impl sluice_service::Settings for Settings {
    const NAME: &'static str = "mirror-worker";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(1..=16).contains(&self.mirror.concurrency) {
            problems.push("`mirror.concurrency` must be 1 to 16".to_owned());
        }
        if self.mirror.audit_hours > MOST_AUDIT_HOURS {
            problems.push(format!(
                "`mirror.audit_hours` must be at most {MOST_AUDIT_HOURS}, or 0 for no audit"
            ));
        }
        problems
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}
