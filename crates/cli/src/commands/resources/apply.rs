//! `sluice apply`: the resources of a file, all of them or none.

use std::path::PathBuf;

use clap::Args;

use crate::arguments::connection::Connection;
use crate::output::{count, line};

/// Apply the resources of a file; all of them, or none if one is invalid.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sluice apply -f mirrors.yaml\n  sluice apply -f mirrors.yaml --dry-run"
)]
pub(crate) struct Arguments {
    /// YAML file with the resources.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Check the file and apply nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Arguments {
    /// Checks the file before it connects, applies it, and shows which resources changed.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let file = &self.file;
        let documents = sluice_embedded::read_resources(file)?;
        if self.dry_run {
            let resources = count(documents.len(), "resource");
            return line(&format!("{}: {resources}, valid", file.display()));
        }
        let bus = connection.open().await?;
        for resource in sluice_embedded::apply_resources(&bus, file, &documents).await? {
            let outcome = if resource.is_changed {
                "applied"
            } else {
                "unchanged"
            };
            line(&format!("{} {} {outcome}", resource.kind, resource.name))?;
        }
        Ok(())
    }
}
