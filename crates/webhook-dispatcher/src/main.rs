//! Delivers events to the endpoints that want them.

use std::process::ExitCode;

use sluice_webhook_dispatcher::{Settings, start};

fn main() -> ExitCode {
    sluice_service::launch(|settings: Settings, host| async move { start(settings, &host).await })
}
