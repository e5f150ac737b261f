//! The poller: asks upstream what its tags point to, and tells what moved.
//!
//! Polling costs one HEAD per tag. It must not fetch manifests, and knows nothing of the internal registry.

mod attached;
mod backoff;
mod poll;
mod reconcile;
mod schedules;
mod settings;
mod tag_moves;
mod tag_poll;

use std::time::Duration;

use sluice_bus::{ConsumeSettings, topology};
use sluice_service::Host;
use sluice_state::StageRunner;

pub use poll::Poller;
pub use settings::Settings;

/// Connects, and runs the stage on the host.
///
/// # Errors
/// A bus that cannot be reached or is not provisioned.
pub async fn start(settings: Settings, host: &Host) -> anyhow::Result<()> {
    let stage = StageRunner::connect(&topology::POLLER, &settings.bus, host).await?;
    let (_, state, catalog) = stage.connections();
    stage.keep_schedules(schedules::PREFIX, schedules::wanted);
    let handler_timeout = Duration::from_secs(settings.poller.timeout_seconds);
    let handler = Poller::new(state, catalog, settings.poller.parallel_heads)
        .within(handler_timeout)
        .with_secrets(settings.secrets.secrets());
    let consume = ConsumeSettings {
        concurrency: settings.poller.concurrency,
        handler_timeout,
    };
    stage.run(handler, consume);
    Ok(())
}
