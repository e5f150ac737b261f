//! The mirror worker: copies the digest that an upstream tag moved to into staging, byte for byte.
//!
//! It must not evaluate what it copies, and writes tags only through the one tag operation.

mod error;
mod handler;
mod integrity_check;
mod mirror;
mod reconcile;
mod referrers;
mod settings;

use std::time::Duration;

use sluice_bus::{ConsumeSettings, topology};
use sluice_service::Host;
use sluice_state::{StageRunner, internal_registry};

pub use handler::MirrorWorker;
pub use settings::Settings;

/// How much longer the bus waits than mirroring may take, so that a timeout can be published.
const MARGIN: Duration = Duration::from_secs(30);

/// Connects to the bus, and runs the stage on the host.
pub async fn start(settings: Settings, host: &Host) -> anyhow::Result<()> {
    let stage = StageRunner::connect(&topology::MIRROR_WORKER, &settings.bus, host).await?;
    let registry = internal_registry(&settings.registry)?;
    let (bus, state, catalog) = stage.connections();
    let claim = stage.claim().await?;
    let limit = Duration::from_secs(settings.mirror.timeout_seconds);
    let audit_interval = Duration::from_secs(settings.mirror.audit_hours * 3_600);
    let handler = MirrorWorker::new(bus, state, catalog, registry, claim)
        .with_audit_interval(audit_interval)
        .with_secrets(settings.secrets.secrets())
        .with_time_limit(limit)
        .with_limits(settings.mirror.limits());
    let consume = ConsumeSettings {
        concurrency: settings.mirror.concurrency,
        handler_timeout: limit + MARGIN,
    };
    stage.run(handler, consume);
    Ok(())
}
