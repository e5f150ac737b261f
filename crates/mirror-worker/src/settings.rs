//! Settings of the mirror worker.

use serde::Deserialize;
use sluice_registry::Limits;
use sluice_service::{BusSettings, HttpSettings, RegistrySettings, SecretSettings};

/// The longest time between two audits: a year.
const MOST_AUDIT_HOURS: u64 = 8_784;

/// Settings of the mirror worker; `config.default.toml` documents each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub(crate) bus: BusSettings,
    pub(crate) registry: RegistrySettings,
    pub(crate) secrets: SecretSettings,
    pub(crate) http: HttpSettings,
    pub(crate) mirror: MirrorSettings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MirrorSettings {
    pub(crate) concurrency: usize,
    connections: u32,
    megabytes_under_way: u64,
    pub(crate) timeout_seconds: u64,
    pub(crate) audit_hours: u64,
}

impl MirrorSettings {
    /// Returns the limits of all copies together.
    pub(crate) fn limits(&self) -> Limits {
        Limits::new(self.connections, self.megabytes_under_way << 20)
    }
}

impl sluice_service::Settings for Settings {
    const NAME: &'static str = "mirror-worker";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        let mirror = &self.mirror;
        [
            (
                (1..=16).contains(&mirror.concurrency),
                "`mirror.concurrency` must be 1 to 16",
            ),
            (
                (2..=1_024).contains(&mirror.connections),
                "`mirror.connections` must be 2 to 1024",
            ),
            (
                (1..=1 << 24).contains(&mirror.megabytes_under_way),
                "`mirror.megabytes_under_way` must be 1 to 16777216",
            ),
            (
                mirror.audit_hours <= MOST_AUDIT_HOURS,
                "`mirror.audit_hours` must be at most 8784, or 0 for no audit",
            ),
        ]
        .into_iter()
        .filter(|(holds, _)| !holds)
        .map(|(_, problem)| problem.to_owned())
        .collect()
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}
