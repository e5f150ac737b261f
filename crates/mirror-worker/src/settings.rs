//! Settings of the mirror worker.

use serde::Deserialize;
use sluice_registry::ConcurrencyLimits;
use sluice_service::{BusSettings, HttpSettings, RegistrySettings, SecretSettings, out_of_range};

/// The longest time between two audits: a year.
const MAX_AUDIT_HOURS: u64 = 8_784;

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
    pub(crate) fn limits(&self) -> ConcurrencyLimits {
        ConcurrencyLimits::new(self.connections, self.megabytes_under_way << 20)
    }
}

impl sluice_service::Settings for Settings {
    const NAME: &'static str = "mirror-worker";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        let mirror = &self.mirror;
        let audit_hours = (mirror.audit_hours > MAX_AUDIT_HOURS).then(|| {
            format!("`mirror.audit_hours` must be at most {MAX_AUDIT_HOURS}, or 0 for no audit")
        });
        [
            out_of_range("mirror.concurrency", mirror.concurrency, 1..=16),
            out_of_range("mirror.connections", mirror.connections, 2..=1_024),
            out_of_range(
                "mirror.megabytes_under_way",
                mirror.megabytes_under_way,
                1..=1 << 24,
            ),
            audit_hours,
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}
