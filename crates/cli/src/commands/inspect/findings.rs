//! `sluice findings`: the vulnerabilities of an image, and the images with a vulnerability, a package or a licence.

mod export;
mod format;
mod image_findings;
mod search;
mod show;

use clap::{ArgGroup, Args, ValueEnum};
use sluice_domain::{Pattern, Platform, Severity};
use sluice_registry::ImageReference;
use sluice_state::State;

use self::format::FindingsFormat;
use self::image_findings::{Filter, ImageFindings, Other};
use crate::arguments::connection::Connection;

/// Show the vulnerabilities of an image, or the images that have one.
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("what").required(true).args(["image", "cve", "package", "license"])),
    after_help = "Examples:
  sluice findings official/app:1.0 --severity high --fixable
  sluice findings official/app:1.1 --diff official/app:1.0
  sluice findings official/app:1.0 --diff previous
  sluice findings official/app:1.0 -o sarif > app.sarif
  sluice findings --cve CVE-2021-44228 --in 'official/*'
  sluice findings --package log4j-core -o csv

What a scan did not cover has no findings here: such manifests are listed with their status, or counted."
)]
pub(crate) struct Arguments {
    /// Image, as in `official/app:1.0` or `official/app@sha256:...`.
    image: Option<ImageReference>,
    /// Find the images with this vulnerability.
    #[arg(long, visible_alias = "vulnerability", value_name = "ID")]
    cve: Option<String>,
    /// Find the images with a package of this name.
    #[arg(long, value_name = "NAME")]
    package: Option<String>,
    /// Find the images with a package of this licence, as packages write it.
    #[arg(long, value_name = "LICENSE")]
    license: Option<String>,
    /// Search only repositories that match this pattern; may be repeated [default: all].
    #[arg(long = "in", value_name = "PATTERN", conflicts_with = "image")]
    repositories: Vec<Pattern>,
    /// Show at most this many tags of a search.
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 1_000,
        conflicts_with = "image"
    )]
    limit: usize,
    /// Show only findings of this severity and worse.
    #[arg(long, value_enum, value_name = "SEVERITY", requires = "image")]
    severity: Option<Level>,
    /// Show only findings that a newer package fixes.
    #[arg(long, requires = "image")]
    fixable: bool,
    /// Show only this platform, as in `linux/amd64`.
    #[arg(long, value_name = "PLATFORM", requires = "image")]
    platform: Option<Platform>,
    /// Show what is new and what is gone in comparison with another image, or with the scan before: `previous`.
    #[arg(long, value_name = "IMAGE", requires = "image")]
    diff: Option<Other>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: FindingsFormat,
}

/// A severity as an argument.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    Unknown,
    Low,
    Medium,
    High,
    Critical,
}

impl Arguments {
    /// Shows findings of an image, or searches for images.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let state = State::open(&connection.open().await?).await?;
        let Some(image) = self.image else {
            let term = search::term(self.cve, self.package, self.license)?;
            return search::run(&state, &term, &self.repositories, self.limit, self.output).await;
        };
        let filter = Filter {
            severity: self.severity.map_or(Severity::Unknown, Into::into),
            fixable: self.fixable,
            platform: self.platform,
        };
        let found = ImageFindings::read(&state, &image, &filter).await?;
        match &self.diff {
            Some(other) => {
                found
                    .show_difference(&state, other, &filter, self.output)
                    .await
            }
            None => found.show(&state, self.output).await,
        }
    }
}

impl From<Level> for Severity {
    fn from(level: Level) -> Self {
        match level {
            Level::Unknown => Self::Unknown,
            Level::Low => Self::Low,
            Level::Medium => Self::Medium,
            Level::High => Self::High,
            Level::Critical => Self::Critical,
        }
    }
}
