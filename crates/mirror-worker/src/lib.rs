//! The mirror worker: brings the digest that a tag moved to into staging, byte for byte.
//!
//! It must not judge what it copies, and writes tags only through the one tag operation.

mod audit;
mod filtered_index;
mod immutability;
mod mirror;
mod progress;
mod reconcile;
mod referrers;
mod settings;
mod upstream_precondition;

use std::time::Duration;

use sluice_bus::{ConsumeSettings, topology};
use sluice_service::Host;
use sluice_state::{StageRunner, internal_registry};

pub use mirror::MirrorWorker;
pub use settings::Settings;

/// How much longer the bus waits than one move may take, so that what took too long can be told.
const MARGIN: Duration = Duration::from_secs(30);

/// Connects, and runs the stage on the host.
///
/// # Errors
/// A bus that cannot be reached or is not provisioned, or a secret that cannot be read.
pub async fn start(settings: Settings, host: &Host) -> anyhow::Result<()> {
    let stage = StageRunner::connect(&topology::MIRROR_WORKER, &settings.bus, host).await?;
    let registry = internal_registry(&settings.registry)?;
    let (bus, state, catalog) = stage.connections();
    let claim = stage.claim().await?;
    let limit = Duration::from_secs(settings.mirror.timeout_seconds);
    let audit_every = Duration::from_secs(settings.mirror.audit_hours * 3_600);
    let handler = MirrorWorker::new(bus, state, catalog, registry, claim)
        .auditing_every(audit_every)
        .with_secrets(settings.secrets.secrets())
        .giving_up_after(limit)
        .within(settings.mirror.limits());
    let consume = ConsumeSettings {
        concurrency: settings.mirror.concurrency,
        handler_timeout: limit + MARGIN,
    };
    stage.run(handler, consume);
    Ok(())
}
