//! The pruner: plans retention and carries it out.
//!
//! It removes tags only; manifests that no tag names any more stay (invariant 5). It never works in a promotion target.

mod error;
mod handler;
mod reconcile;
mod request;
mod run;
mod schedules;
mod settings;

use std::time::Duration;

use sluice_bus::{ConsumeSettings, topology};
use sluice_service::Host;
use sluice_state::{StageRunner, internal_registry};

pub use handler::Pruner;
pub use settings::Settings;

/// Connects to the bus and the registry, and runs the pruner on the host.
///
/// # Errors
/// A bus that cannot be reached or is not provisioned, or a secret that cannot be read.
pub async fn start(settings: Settings, host: &Host) -> anyhow::Result<()> {
    let stage = StageRunner::connect(&topology::PRUNER, &settings.bus, host).await?;
    let registry = internal_registry(&settings.registry)?;
    stage.keep_schedules(schedules::PREFIX, schedules::desired_schedules);
    let (bus, state, catalog) = stage.connections();
    let claim = stage.claim().await?;
    let handler = Pruner::new(bus, state, catalog, registry, claim);
    let consume = ConsumeSettings {
        concurrency: settings.pruner.concurrency,
        handler_timeout: Duration::from_secs(settings.pruner.timeout_seconds),
    };
    stage.run(handler, consume);
    Ok(())
}
