//! Settings of the scanner adapter.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::TimeDelta;
use serde::Deserialize;
use sluice_domain::Digest;
use sluice_service::{BusSettings, HttpSettings, RegistrySettings};
use url::Url;

use crate::confinement::Limits;
use crate::plausibility::Plausibility;
use crate::unpack::ImageLimits;

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

/// How much of images is read, and how much room that takes.
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
    pub(crate) fn of_one_repository(&self) -> usize {
        match self.concurrency_per_repository {
            0 => self.concurrency.saturating_sub(1).max(1),
            more => more,
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

    /// Returns all that must not be nothing.
    fn all(&self) -> [u64; 9] {
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

    pub(crate) fn work_bytes(&self) -> u64 {
        bytes(self.work_megabytes)
    }

    pub(crate) fn free_bytes(&self) -> u64 {
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

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrivySettings {
    pub(crate) binary: PathBuf,
    pub(crate) cache_dir: PathBuf,
    pub(crate) server_url: String,
    pub(crate) token_file: PathBuf,
    pub(crate) allow_plain_text: bool,
    pub(crate) database_repository: String,
    pub(crate) java_database_repository: String,
    pub(crate) database_insecure: bool,
    pub(crate) database_digest: String,
    pub(crate) database_check_seconds: u64,
    pub(crate) database_max_age_days: u32,
    pub(crate) database_max_loss_percent: u8,
    pub(crate) accepted_database: String,
    pub(crate) user: u32,
    pub(crate) memory_mib: u64,
    pub(crate) file_mib: u64,
    pub(crate) open_files: u64,
    pub(crate) processes: u64,
    pub(crate) cpu_seconds: u64,
}

impl TrivySettings {
    /// Returns the address of a server that runs elsewhere, if there is one.
    pub(crate) fn server(&self) -> Option<Url> {
        let url = Url::parse(&self.server_url).ok()?;
        let fits = matches!(url.scheme(), "http" | "https") && url.has_host();
        (fits && url.username().is_empty() && url.password().is_none()).then_some(url)
    }

    /// Returns what has to hold of these settings, each with whether it does.
    fn rules(&self) -> [(bool, &'static str); 15] {
        [
            (
                (1..=86_400).contains(&self.database_check_seconds),
                "`trivy.database_check_seconds` must be 1 to 86400",
            ),
            (
                (1..=36_500).contains(&self.database_max_age_days),
                "`trivy.database_max_age_days` must be 1 to 36500",
            ),
            (
                self.database_max_loss_percent < 100,
                "`trivy.database_max_loss_percent` must be 0 to 99",
            ),
            (
                (256..=1_048_576).contains(&self.memory_mib),
                "`trivy.memory_mib` must be 256 to 1048576",
            ),
            (
                (1_024..=1_048_576).contains(&self.file_mib),
                "`trivy.file_mib` must be 1024 to 1048576",
            ),
            (
                (64..=1_048_576).contains(&self.open_files),
                "`trivy.open_files` must be 64 to 1048576",
            ),
            (
                (64..=1_048_576).contains(&self.processes),
                "`trivy.processes` must be 64 to 1048576",
            ),
            (
                (10..=604_800).contains(&self.cpu_seconds),
                "`trivy.cpu_seconds` must be 10 to 604800",
            ),
            (
                is_digest_or_empty(&self.accepted_database),
                "`trivy.accepted_database` must be as in the log: `sha256:` and 64 digits",
            ),
            (
                is_digest_or_empty(&self.database_digest),
                "`trivy.database_digest` must be the digest of a manifest: `sha256:` and 64 digits",
            ),
            (
                self.database_digest.is_empty() || !self.database_repository.is_empty(),
                "`trivy.database_digest` needs a `trivy.database_repository`",
            ),
            (
                self.server_url.is_empty() || self.server().is_some(),
                "`trivy.server_url` must be an address without a credential, as in `http://trivy:4954`",
            ),
            (
                self.allow_plain_text || !self.server().is_some_and(|url| is_plain_text(&url)),
                "`trivy.server_url` must begin with `https://`, or `trivy.allow_plain_text` must be true: whoever is on the way could answer that an image is clean",
            ),
            (
                self.token_file().is_none() || !self.server_url.is_empty(),
                "`trivy.token_file` belongs to `trivy.server_url`; a server of our own gets a random token",
            ),
            (
                self.database_repository.is_empty() || self.server_url.is_empty(),
                "`trivy.database_repository` has no effect with `trivy.server_url`: set it at that server",
            ),
        ]
    }

    /// Returns what one run of the scanner may use.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            user: (self.user != 0).then_some(self.user),
            memory_bytes: self.memory_mib << 20,
            file_bytes: self.file_mib << 20,
            open_files: self.open_files,
            processes: self.processes,
            cpu_seconds: self.cpu_seconds,
        }
    }

    /// Returns the rules that a vulnerability database has to pass.
    pub(crate) fn plausibility(&self) -> Plausibility {
        Plausibility {
            max_age: TimeDelta::days(self.database_max_age_days.into()),
            max_loss_percent: self.database_max_loss_percent,
            accepted: self.accepted_database.clone(),
            baseline: Plausibility::baseline_in(&self.cache_dir),
        }
    }

    /// Returns the file with that server's token, if one is given.
    pub(crate) fn token_file(&self) -> Option<&Path> {
        (!self.token_file.as_os_str().is_empty()).then_some(&self.token_file)
    }
}

impl sluice_service::Settings for Settings {
    const NAME: &'static str = "scanner-adapter";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        let layers = &self.layers;
        let rules = [
            (
                (1..=16).contains(&self.scanner.concurrency),
                "`scanner.concurrency` must be 1 to 16",
            ),
            (
                (10..=86_400).contains(&self.scanner.timeout_seconds),
                "`scanner.timeout_seconds` must be 10 to 86400",
            ),
            (
                self.scanner.concurrency_per_repository <= self.scanner.concurrency,
                "`scanner.concurrency_per_repository` must not be more than `scanner.concurrency`",
            ),
            (
                layers.all().into_iter().all(|number| number > 0),
                "what `layers` allows must not be 0, except `layers.free_megabytes`",
            ),
            (
                layers.path_bytes <= 4096,
                "`layers.path_bytes` must be at most 4096, which is what Linux takes",
            ),
        ];
        rules
            .into_iter()
            .chain(self.trivy.rules())
            .filter(|(holds, _)| !holds)
            .map(|(_, rule)| rule.to_owned())
            .collect()
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}

/// Says whether what is sent to an address can be read and changed on the way.
fn is_plain_text(url: &Url) -> bool {
    let is_loopback = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    url.scheme() == "http" && !is_loopback
}

fn is_digest_or_empty(text: &str) -> bool {
    text.is_empty() || text.parse::<Digest>().is_ok()
}

#[cfg(test)]
mod tests {
    use sluice_service::Layers;

    use super::*;

    fn load(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let layers = Layers::default().variables(variables);
        layers.load().map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_server_elsewhere_is_spoken_to_in_the_clear_only_if_that_is_said() {
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
        assert_eq!(settings.trivy.server(), None);
        assert_eq!(settings.trivy.token_file(), None);
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_its_key() {
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
            let told = load(&variables).unwrap_err();
            assert!(told.contains(key), "{told}");
        }
    }
}
