//! Settings of the scanner adapter.

use std::time::Duration;

use serde::Deserialize;
use sluice_service::{BusSettings, HttpSettings, RegistrySettings, out_of_range};

use crate::image::limits::ImageLimits;
use crate::trivy::settings::TrivySettings;

/// Settings of the scanner adapter; `config.default.toml` documents each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub(crate) bus: BusSettings,
    pub(crate) registry: RegistrySettings,
    pub(crate) http: HttpSettings,
    pub(crate) scanner: ScannerSettings,
    pub(crate) layers: LayerSettings,
    pub(crate) trivy: TrivySettings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScannerSettings {
    pub(crate) concurrency: usize,
    pub(crate) concurrency_per_repository: usize,
    pub(crate) timeout_seconds: u64,
}

/// How much of images is read, and how much disk space that takes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LayerSettings {
    pub(crate) packed_megabytes: u64,
    pub(crate) unpacked_megabytes: u64,
    pub(crate) unpacked_megabytes_per_image: u64,
    pub(crate) entries: u64,
    pub(crate) entries_per_image: u64,
    pub(crate) file_megabytes: u64,
    pub(crate) path_bytes: usize,
    pub(crate) work_megabytes: u64,
    pub(crate) free_megabytes: u64,
    pub(crate) cache_megabytes: u64,
    pub(crate) cache_days: u64,
}

impl ScannerSettings {
    /// Returns how many images of one repository are scanned at once.
    pub(crate) fn concurrency_of_one_repository(&self) -> usize {
        match self.concurrency_per_repository {
            0 => self.concurrency.saturating_sub(1).max(1),
            limit => limit,
        }
    }
}

impl LayerSettings {
    pub(crate) fn limits(&self) -> ImageLimits {
        ImageLimits {
            layer: sluice_layer::Limits {
                compressed_bytes: bytes(self.packed_megabytes),
                uncompressed_bytes: bytes(self.unpacked_megabytes),
                entries: self.entries,
                file_bytes: bytes(self.file_megabytes),
                path_bytes: self.path_bytes,
                ..sluice_layer::Limits::default()
            },
            unpacked_bytes: bytes(self.unpacked_megabytes_per_image),
            entries: self.entries_per_image,
        }
    }

    /// Returns the numbers that must not be 0.
    fn positive(&self) -> [u64; 9] {
        [
            self.packed_megabytes,
            self.unpacked_megabytes,
            self.unpacked_megabytes_per_image,
            self.entries,
            self.entries_per_image,
            self.file_megabytes,
            u64::try_from(self.path_bytes).unwrap_or(u64::MAX),
            self.work_megabytes,
            self.cache_megabytes,
        ]
    }

    pub(crate) fn disk_quota_bytes(&self) -> u64 {
        bytes(self.work_megabytes)
    }

    pub(crate) fn min_free_bytes(&self) -> u64 {
        bytes(self.free_megabytes)
    }

    pub(crate) fn cache_bytes(&self) -> u64 {
        bytes(self.cache_megabytes)
    }

    pub(crate) fn cache_age(&self) -> Duration {
        Duration::from_secs(self.cache_days.saturating_mul(86_400))
    }
}

fn bytes(megabytes: u64) -> u64 {
    megabytes.saturating_mul(1 << 20)
}

impl sluice_service::Settings for Settings {
    const NAME: &'static str = "scanner-adapter";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        let (scanner, layers) = (&self.scanner, &self.layers);
        let ranges = [
            out_of_range("scanner.concurrency", scanner.concurrency, 1..=16),
            out_of_range(
                "scanner.timeout_seconds",
                scanner.timeout_seconds,
                10..=86_400,
            ),
        ];
        let rules = [
            (
                scanner.concurrency_per_repository <= scanner.concurrency,
                "`scanner.concurrency_per_repository` must not be more than `scanner.concurrency`",
            ),
            (
                layers.positive().into_iter().all(|number| number > 0),
                "the numbers in `layers` must not be 0, except `layers.free_megabytes`",
            ),
            (
                layers.path_bytes <= 4096,
                "`layers.path_bytes` must be at most 4096, the limit of Linux",
            ),
        ];
        let violated = rules.into_iter().filter(|(is_met, _)| !is_met);
        let violated = violated.map(|(_, rule)| rule.to_owned());
        let own = ranges.into_iter().flatten().chain(violated);
        own.chain(self.trivy.problems()).collect()
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}

#[cfg(test)]
mod tests {
    use sluice_service::SettingsSources;

    use super::*;

    fn load(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let layers = SettingsSources::default().with_variables(variables);
        layers.load().map_err(|problems| problems.to_string())
    }

    #[test]
    fn plain_text_to_a_remote_server_needs_a_setting() {
        for url in [
            "https://trivy:4954",
            "http://127.0.0.1:4954",
            "http://[::1]:4954",
        ] {
            assert!(load(&[("SLUICE__TRIVY__SERVER_URL", url)]).is_ok(), "{url}");
        }
        let plain = ("SLUICE__TRIVY__SERVER_URL", "http://10.0.0.1:4954");
        assert!(load(&[plain]).is_err());
        assert!(load(&[plain, ("SLUICE__TRIVY__ALLOW_PLAIN_TEXT", "true")]).is_ok());
    }

    #[test]
    fn the_defaults_are_valid() {
        let settings = load(&[]).unwrap();
        assert_eq!(settings.trivy.remote_url(), None);
        assert_eq!(settings.trivy.token_file(), None);
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused_with_their_key() {
        for (variables, key) in [
            (
                vec![("SLUICE__SCANNER__CONCURRENCY", "0")],
                "scanner.concurrency",
            ),
            (
                vec![("SLUICE__SCANNER__TIMEOUT_SECONDS", "1")],
                "scanner.timeout_seconds",
            ),
            (
                vec![("SLUICE__SCANNER__CONCURRENCY_PER_REPOSITORY", "3")],
                "scanner.concurrency_per_repository",
            ),
            (vec![("SLUICE__LAYERS__ENTRIES", "0")], "layers"),
            (
                vec![("SLUICE__LAYERS__PATH_BYTES", "5000")],
                "layers.path_bytes",
            ),
            (
                vec![("SLUICE__TRIVY__SERVER_URL", "trivy:4954")],
                "trivy.server_url",
            ),
            (
                vec![("SLUICE__TRIVY__SERVER_URL", "http://trivy:4954")],
                "trivy.allow_plain_text",
            ),
            (
                vec![("SLUICE__TRIVY__SERVER_URL", "http://a:b@trivy")],
                "trivy.server_url",
            ),
            (
                vec![("SLUICE__TRIVY__DATABASE_MAX_AGE_DAYS", "0")],
                "trivy.database_max_age_days",
            ),
            (
                vec![("SLUICE__TRIVY__DATABASE_MAX_LOSS_PERCENT", "100")],
                "trivy.database_max_loss_percent",
            ),
            (
                vec![("SLUICE__TRIVY__ACCEPTED_DATABASE", "2026-11-01")],
                "trivy.accepted_database",
            ),
            (
                vec![(
                    "SLUICE__TRIVY__DATABASE_DIGEST",
                    "sha256:0000000000000000000000000000000000000000000000000000000000000000",
                )],
                "trivy.database_repository",
            ),
            (vec![("SLUICE__TRIVY__MEMORY_MIB", "1")], "trivy.memory_mib"),
            (
                vec![("SLUICE__TRIVY__TOKEN_FILE", "/run/token")],
                "trivy.token_file",
            ),
            (
                vec![
                    ("SLUICE__TRIVY__SERVER_URL", "http://trivy:4954"),
                    ("SLUICE__TRIVY__DATABASE_REPOSITORY", "a/b:2"),
                ],
                "trivy.database_repository",
            ),
        ] {
            let problems = load(&variables).unwrap_err();
            assert!(problems.contains(key), "{problems}");
        }
    }
}
