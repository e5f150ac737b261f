//! Polls upstream registries and publishes what moved.

use std::process::ExitCode;

use sluice_poller::{Settings, start};

fn main() -> ExitCode {
    sluice_service::launch(|settings: Settings, host| async move { start(settings, &host).await })
}
