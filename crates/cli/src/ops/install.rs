//! `sluice keys` and `sluice provision`: what an installation needs before its services start.

use std::path::PathBuf;

use sluice_bus::{Bus, ProvisionOptions};
use sluice_gateway::KeyFolder;

use crate::output::line;

/// Creates the missing keys and passwords in a folder.
pub(crate) fn keys(folder: PathBuf) -> anyhow::Result<()> {
    for file in KeyFolder::at(folder).create()? {
        line(&format!("{} created", file.display()))?;
    }
    line("all keys and passwords exist")
}

/// Creates or updates streams, consumers and buckets.
pub(crate) async fn provision(bus: &Bus, options: ProvisionOptions) -> anyhow::Result<()> {
    bus.provision(options).await?;
    line("NATS is up to date")
}
