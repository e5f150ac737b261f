//! The pruner: plans and carries out retention.
//!
//! It must not delete what something that stays still reaches (invariant 5), and never works in a target of promotion.
//! Only tags are removed; manifests that no tag names any more stay.

mod ask;
mod facts;
mod prune;
mod reconcile;
mod removal;
mod rules;
mod run;
mod schedules;
mod settings;

use std::time::Duration;

use sluice_bus::{ConsumeSettings, topology};
use sluice_service::Host;
use sluice_state::{StageRunner, internal_registry};

pub use prune::Pruner;
pub use settings::Settings;

/// Connects, and runs the stage on the host.
///
/// # Errors
/// A bus that cannot be reached or is not provisioned, or a secret that cannot be read.
pub async fn start(settings: Settings, host: &Host) -> anyhow::Result<()> {
    let stage = StageRunner::connect(&topology::PRUNER, &settings.bus, host).await?;
    let registry = internal_registry(&settings.registry)?;
    stage.keep_schedules(schedules::PREFIX, schedules::wanted);
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
