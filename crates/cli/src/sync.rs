//! `sluice sync`: carries out `Mirror` documents once, from registry to registry, without a bus.

pub(crate) mod documents;
pub(crate) mod report;
pub(crate) mod run;

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use sluice_domain::{RegistryHost, Repository};
use sluice_service::Secrets;
use tokio::time::Instant;

use self::documents::Documents;
use self::run::{Order, SyncTarget};
use crate::exit::HELP;
use crate::output::Format;
use crate::remote::RemoteOptions;
use crate::transfer::{Session, Wishes};

/// How many images are looked at or copied at a time, unless something else is said.
pub(crate) const PARALLEL: u16 = 16;

/// Copies what mirrors select, once.
#[derive(Debug, Args)]
#[command(after_help = format!("Examples:
  sluice sync -f mirrors.yaml --to registry.example
  sluice sync -f mirrors.yaml --to localhost:5000/copies --plain-http localhost:5000 --dry-run
  sluice import regsync regsync.yml | sluice sync -f - --to registry.example -o json

The file holds the documents that `sluice apply` takes: `Mirror`, and `Registry` for accounts and
certificates of either end. Of other kinds nothing is carried out here.

{HELP}"))]
pub(crate) struct SyncArguments {
    /// YAML file with mirrors, or `-` for standard input; may be repeated.
    #[arg(short, long, value_name = "FILE", required = true)]
    file: Vec<PathBuf>,
    /// Destination registry, with an optional path to put before the repositories.
    #[arg(long, value_name = "HOST[/PREFIX]")]
    to: Destination,
    /// Show what would be copied and what it would cost; copy nothing.
    #[arg(long)]
    dry_run: bool,
    /// Delete tags that were deleted at the source, for mirrors that say `on_delete: delete`.
    #[arg(long)]
    delete: bool,
    /// Also copy signatures, attestations and SBOMs: referrers and cosign's tags.
    #[arg(long)]
    referrers: bool,
    /// Number of images checked or copied at a time.
    #[arg(long, value_name = "NUMBER", default_value_t = PARALLEL, value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    pub(crate) remote: RemoteOptions,
}

/// A registry with a path that stands before its repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) host: RegistryHost,
    pub(crate) prefix: Option<Repository>,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let told = |error: sluice_domain::InvalidName| error.to_string();
        let text = text.strip_prefix("docker://").unwrap_or(text);
        let (host, prefix) = text.split_once('/').unwrap_or((text, ""));
        let prefix = prefix.trim_end_matches('/');
        Ok(Self {
            host: host.parse().map_err(told)?,
            prefix: match prefix {
                "" => None,
                prefix => Some(prefix.parse().map_err(told)?),
            },
        })
    }
}

impl From<Destination> for SyncTarget {
    fn from(destination: Destination) -> Self {
        Self::Registry(destination.host, destination.prefix)
    }
}

/// Carries the mirrors out, and says how it ended.
pub(crate) async fn sync(arguments: &SyncArguments, secrets: Secrets) -> anyhow::Result<ExitCode> {
    let Documents {
        registries,
        mirrors,
    } = Documents::read(&arguments.file)?;
    let order = Order {
        place: arguments.to.clone().into(),
        delete: arguments.delete,
        parallel: usize::from(arguments.parallel),
    };
    let wishes = Wishes {
        dry_run: arguments.dry_run,
        quiet: arguments.output != Format::Table,
        referrers: arguments.referrers,
    };
    let session = Session::new(&arguments.remote, registries, secrets, wishes);
    let results = run::results(mirrors, &order.place);
    let begun = Instant::now();
    let interrupted = tokio::select! {
        // First, so that it is listened for before anything begins.
        biased;
        interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| true)?,
        () = run::run(&session, &order, &results) => false,
    };
    session.board.clear();
    report::Report::new(&session, &results, begun.elapsed(), interrupted).show(arguments.output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_registry_with_a_path_if_wanted() {
        let read = |text: &str| text.parse::<Destination>();
        for (text, prefix) in [
            ("registry.example", None),
            ("registry.example/", None),
            ("localhost:5000/a/b/", Some("a/b")),
            ("docker://registry.example/a", Some("a")),
        ] {
            let read = read(text).unwrap().prefix;
            assert_eq!(read.as_ref().map(Repository::as_str), prefix);
        }
        for bad in ["", "/a", "https://registry.example", "a b", "r.example/A"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
