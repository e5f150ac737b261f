//! Evaluates images by policy and promotes those that pass.

use std::process::ExitCode;

use sluice_promoter::{Settings, start};

fn main() -> ExitCode {
    sluice_service::launch(|settings: Settings, host| async move { start(settings, &host).await })
}
