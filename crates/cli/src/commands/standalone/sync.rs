//! `sluice sync`: syncs `Mirror` documents once, from registry to registry, without a bus.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use sluice_copier::{Destination, Session, SessionOptions, SyncOptions, SyncTarget};

use crate::arguments::connection::Connection;
use crate::arguments::registry_options::RegistryArguments;
use crate::copies::PARALLEL;
use crate::copies::documents::Documents;
use crate::copies::progress_bars::ProgressBars;
use crate::copies::sync_report::Report;
use crate::exit::HELP;
use crate::output::Format;

/// Sync mirrors once, from registry to registry (standalone).
#[derive(Debug, Args)]
#[command(after_help = format!("Examples:
  sluice sync -f mirrors.yaml --to registry.example
  sluice sync -f mirrors.yaml --to localhost:5000/copies --plain-http localhost:5000 --dry-run
  sluice import regsync regsync.yml | sluice sync -f - --to registry.example -o json

The file holds the documents that `sluice apply` takes: `Mirror`, and `Registry` for accounts and
certificates of either end. Other kinds are ignored.

{HELP}"))]
pub(crate) struct Arguments {
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
    remote: RegistryArguments,
}

impl Arguments {
    /// Syncs the mirrors and shows the results.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<ExitCode> {
        let documents = Documents::read(&self.file)?;
        let options = SyncOptions {
            target: SyncTarget::Registry(self.to),
            delete: self.delete,
            parallel: usize::from(self.parallel),
        };
        let progress = ProgressBars::new(self.output != Format::Table);
        let session = Session::new(
            self.remote.options(connection),
            documents.registries,
            connection.secrets(),
            SessionOptions {
                dry_run: self.dry_run,
                attachments: self.referrers,
            },
            progress.clone(),
        );
        let report = Report::of_sync(&session, &options, documents.mirrors).await?;
        progress.clear();
        report.show(self.output)
    }
}
