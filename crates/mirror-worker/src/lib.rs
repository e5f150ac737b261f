//! The mirror worker: brings the digest that a tag moved to into staging, byte for byte.
//!
//! It must not judge what it copies, and writes tags only through the one tag operation.

mod mirror;
mod settings;

use std::time::Duration;

use sluice_bus::{Bus, ConsumeSettings, topology};
use sluice_service::Host;
use sluice_state::{Catalog, State, internal_registry};

pub use settings::Settings;

/// Connects, and runs the stage on the host.
///
/// # Errors
/// A bus that cannot be reached or is not provisioned, or a secret that cannot be read.
pub async fn start(settings: Settings, host: &Host) -> anyhow::Result<()> {
    let bus = Bus::connect(&settings.bus, "mirror-worker").await?;
    let state = State::open(&bus).await?;
    let (catalog, feed) = Catalog::open(&state).await?;
    let registry = internal_registry(&settings.registry)?;
    let stopping = host.stopping();
    host.spawn("catalogue", {
        let stopping = stopping.clone();
        async move { Ok(feed.run(stopping).await?) }
    });
    let handler = mirror::MirrorWorker::new(bus.clone(), state, catalog, registry);
    let consume = ConsumeSettings {
        concurrency: settings.mirror.concurrency,
        handler_timeout: Duration::from_secs(settings.mirror.timeout_seconds),
    };
    host.spawn("mirror-worker", async move {
        Ok(bus
            .consume(&topology::MIRROR_WORKER, handler, consume, stopping)
            .await?)
    });
    Ok(())
}
