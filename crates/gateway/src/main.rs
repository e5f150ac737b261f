//! Serves the HTTP edge: REST API, registry tokens, intake of the registry's notifications.

use std::process::ExitCode;

use sluice_gateway::{Settings, start};

fn main() -> ExitCode {
    sluice_service::launch(|settings: Settings, host| async move { start(settings, &host).await })
}
