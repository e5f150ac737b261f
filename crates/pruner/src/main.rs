//! Plans and carries out retention.

use std::process::ExitCode;

use sluice_pruner::{Settings, start};

fn main() -> ExitCode {
    sluice_service::launch(|settings: Settings, host| async move { start(settings, &host).await })
}
