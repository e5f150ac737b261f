//! Scans images and keeps the reports and verdicts.

use std::process::ExitCode;

use sluice_scanner_adapter::{Settings, start};

fn main() -> ExitCode {
    sluice_service::launch(|settings: Settings, host| async move { start(settings, &host).await })
}
