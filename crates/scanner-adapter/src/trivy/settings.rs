//! The section `trivy` of the settings.

use std::path::{Path, PathBuf};

use chrono::TimeDelta;
use serde::Deserialize;
use sluice_domain::Digest;
use sluice_service::out_of_range;
use url::Url;

use crate::trivy::database::plausibility::Plausibility;
use crate::trivy::program::confinement::Limits;

/// How Trivy is run, and where its databases come from; `config.default.toml` documents each.
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
    /// Returns the address of the remote server, if there is one.
    pub(crate) fn remote_url(&self) -> Option<Url> {
        let url = Url::parse(&self.server_url).ok()?;
        let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
        (is_http && url.username().is_empty() && url.password().is_none()).then_some(url)
    }

    /// Returns what is wrong with these settings.
    pub(crate) fn problems(&self) -> Vec<String> {
        let (check_seconds, max_age) = (self.database_check_seconds, self.database_max_age_days);
        let max_loss = self.database_max_loss_percent;
        let ranges = [
            out_of_range("trivy.database_check_seconds", check_seconds, 1..=86_400),
            out_of_range("trivy.database_max_age_days", max_age, 1..=36_500),
            out_of_range("trivy.database_max_loss_percent", max_loss, 0..=99),
            out_of_range("trivy.memory_mib", self.memory_mib, 256..=1_048_576),
            out_of_range("trivy.file_mib", self.file_mib, 1_024..=1_048_576),
            out_of_range("trivy.open_files", self.open_files, 64..=1_048_576),
            out_of_range("trivy.processes", self.processes, 64..=1_048_576),
            out_of_range("trivy.cpu_seconds", self.cpu_seconds, 10..=604_800),
        ];
        let rules = [
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
                self.server_url.is_empty() || self.remote_url().is_some(),
                "`trivy.server_url` must be an address without a credential, as in `http://trivy:4954`",
            ),
            (
                self.allow_plain_text || !self.remote_url().is_some_and(|url| is_plain_text(&url)),
                "`trivy.server_url` must begin with `https://`, or `trivy.allow_plain_text` must be true: others on the network could answer that an image is clean",
            ),
            (
                self.token_file().is_none() || !self.server_url.is_empty(),
                "`trivy.token_file` belongs to `trivy.server_url`; a server of this service gets a random token",
            ),
            (
                self.database_repository.is_empty() || self.server_url.is_empty(),
                "`trivy.database_repository` has no effect with `trivy.server_url`: set it at that server",
            ),
        ];
        let violated = rules.into_iter().filter(|(is_met, _)| !is_met);
        let violated = violated.map(|(_, rule)| rule.to_owned());
        ranges.into_iter().flatten().chain(violated).collect()
    }

    /// Returns the resources that one run of the scanner may use.
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

    /// Returns the file with the token of the remote server, if there is one.
    pub(crate) fn token_file(&self) -> Option<&Path> {
        (!self.token_file.as_os_str().is_empty()).then_some(&self.token_file)
    }
}

/// Says whether others on the network can read and change what is sent to an address.
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
