//! Copies images that moved upstream into the staging repositories.

use std::process::ExitCode;

use sluice_mirror_worker::{Settings, start};

fn main() -> ExitCode {
    sluice_service::launch(|settings: Settings, host| async move { start(settings, &host).await })
}
