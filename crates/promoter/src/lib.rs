//! The promoter: judges images by policy and brings those that pass into their target, by digest.
//!
//! It judges from stored verdicts only: events are triggers, never inputs (invariant 1).

mod attached;
mod cleanup;
mod decide;
mod evaluate;
mod facts;
mod former;
mod handler;
mod images;
mod missing_tags;
mod pending_events;
mod policies;
mod promote;
mod recall;
mod reconcile;
mod refused;
mod restore_guard;
mod settings;
mod subjects;
mod sweep;
mod target_endpoint;
mod targets;
mod timer;
mod unauthorised_tags;

use std::time::Duration;

use chrono::TimeDelta;
use sluice_bus::{ConsumeSettings, topology};
use sluice_service::Host;
use sluice_state::{StageRunner, internal_registry};

pub use handler::Promoter;
pub use settings::Settings;

/// Connects, and runs the stage on the host.
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
        .forgetting_after(TimeDelta::days(settings.promoter.forget_after_days));
    host.spawn(
        "changes",
        reconcile::follow(bus.clone(), catalog, host.stopping()),
    );
    host.spawn("entries", cleanup::tell_entries(state, host.stopping()));
    let consume = ConsumeSettings {
        concurrency: settings.promoter.concurrency,
        handler_timeout: Duration::from_secs(settings.promoter.timeout_seconds),
    };
    stage.run(handler, consume);
    Ok(())
}
