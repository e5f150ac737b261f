//! The promoter: evaluates images by policy and promotes those that pass into their target, by digest.
//!
//! It evaluates stored verdicts only: events are triggers, never inputs (invariant 1).

mod cleanup;
mod error;
mod evaluate;
mod handler;
mod reconcile;
mod settings;
mod targets;

use std::time::Duration;

use chrono::TimeDelta;
use sluice_bus::{ConsumeSettings, topology};
use sluice_service::Host;
use sluice_state::{StageRunner, internal_registry};

pub use handler::Promoter;
pub use settings::Settings;

/// Connects to the bus and the registry, and runs the promoter on the host.
///
/// # Errors
/// A bus that cannot be reached or is not provisioned, or a secret that cannot be read.
pub async fn start(settings: Settings, host: &Host) -> anyhow::Result<()> {
    let stage = StageRunner::connect(&topology::PROMOTER, &settings.bus, host).await?;
    let (bus, state, catalog) = stage.connections();
    let registry = internal_registry(&settings.registry)?;
    let claim = stage.claim().await?;
    let handler = Promoter::new(bus.clone(), state.clone(), catalog.clone(), registry, claim)
        .with_secrets(settings.secrets.secrets())
        .with_cleanup_age(TimeDelta::days(settings.promoter.forget_after_days));
    host.spawn(
        "changes",
        reconcile::reconcile_on_change(bus.clone(), catalog, host.stopping()),
    );
    host.spawn(
        "entries",
        cleanup::report_entry_counts(state, host.stopping()),
    );
    let consume = ConsumeSettings {
        concurrency: settings.promoter.concurrency,
        handler_timeout: Duration::from_secs(settings.promoter.timeout_seconds),
    };
    stage.run(handler, consume);
    Ok(())
}
