//! `sluice keys`: the keys and passwords that an installation needs before its services start.

use std::path::PathBuf;

use clap::Args;
use sluice_gateway::KeyFolder;

use crate::arguments::connection::Connection;
use crate::output::line;

/// Create the keys and passwords of an installation; files that exist stay as they are.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sluice keys keys/")]
pub(crate) struct Arguments {
    /// Folder to create; only its owner may read it.
    folder: PathBuf,
}

impl Arguments {
    /// Creates the missing keys and passwords.
    pub(crate) fn run(self, _: &Connection) -> anyhow::Result<()> {
        for file in KeyFolder::at(self.folder).create()? {
            line(&format!("{} created", file.display()))?;
        }
        line("all keys and passwords exist")
    }
}
