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
use sluice_state::reconcile::keep_complete;
use sluice_state::{attach, internal_registry, keep_schedules};

pub use prune::Pruner;
pub use settings::Settings;

/// Connects, and runs the stage on the host.
///
/// # Errors
/// A bus that cannot be reached or is not provisioned, or a secret that cannot be read.
pub async fn start(settings: Settings, host: &Host) -> anyhow::Result<()> {
    let (bus, state, catalog) = attach(&settings.bus, prune::NAME, host).await?;
    let registry = internal_registry(&settings.registry)?;
    let stopping = host.stopping();
    host.spawn(
        "schedules",
        keep_schedules(
            bus.clone(),
            catalog.clone(),
            stopping.clone(),
            schedules::PREFIX,
            schedules::wanted,
        ),
    );
    host.spawn(
        "reconcile",
        keep_complete(bus.clone(), &topology::PRUNER, stopping.clone()),
    );
    let claim = bus.ack_wait(&topology::PRUNER).await?;
    let handler = Pruner::new(bus.clone(), state, catalog, registry, claim);
    let consume = ConsumeSettings {
        concurrency: settings.pruner.concurrency,
        handler_timeout: Duration::from_secs(settings.pruner.timeout_seconds),
    };
    host.spawn("pruner", async move {
        Ok(bus
            .consume(&topology::PRUNER, handler, consume, stopping)
            .await?)
    });
    Ok(())
}
