//! The poller: checks what upstream tags point to, and publishes their moves.
//!
//! A poll costs one HEAD for each tag. It must not fetch manifests, and knows nothing of the internal registry.

mod error;
mod handler;
mod poll;
mod reconcile;
mod schedules;
mod settings;

use std::time::Duration;

use sluice_bus::{ConsumeSettings, topology};
use sluice_service::Host;
use sluice_state::StageRunner;

pub use handler::Poller;
pub use settings::Settings;

/// Connects to the bus, and runs the stage on the host.
pub async fn start(settings: Settings, host: &Host) -> anyhow::Result<()> {
    let stage = StageRunner::connect(&topology::POLLER, &settings.bus, host).await?;
    let (_, state, catalog) = stage.connections();
    stage.keep_schedules(schedules::PREFIX, schedules::desired_schedules);
    let handler_timeout = Duration::from_secs(settings.poller.timeout_seconds);
    let handler = Poller::new(state, catalog, settings.poller.parallel_heads)
        .with_time_limit(handler_timeout)
        .with_secrets(settings.secrets.secrets());
    let consume = ConsumeSettings {
        concurrency: settings.poller.concurrency,
        handler_timeout,
    };
    stage.run(handler, consume);
    Ok(())
}
