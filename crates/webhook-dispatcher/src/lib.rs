//! The webhook dispatcher: one durable delivery per event and endpoint, signed, retried, dead-lettered.
//!
//! It must not know what an event means, and never follows a redirect.

mod address;
mod client;
mod deliver;
mod dispatch;
mod endpoint_limits;
mod envelope;
mod reconcile;
mod record;
mod settings;
mod signature;

use std::time::Duration;

use sluice_bus::{ConsumeSettings, topology};
use sluice_service::Host;
use sluice_state::StageRunner;

pub use settings::Settings;

/// What a delivery takes besides the answer of its endpoint: a place, and the entries.
const MARGIN: Duration = Duration::from_secs(45);

/// Connects, and runs the stage on the host.
///
/// # Errors
/// A bus that cannot be reached or is not provisioned.
pub async fn start(settings: Settings, host: &Host) -> anyhow::Result<()> {
    let stage = StageRunner::connect(&topology::WEBHOOK_DISPATCHER, &settings.bus, host).await?;
    let (bus, state, catalog) = stage.connections();
    let timeout = Duration::from_secs(settings.webhooks.timeout_seconds);
    let handler = dispatch::Dispatcher {
        bus,
        state,
        catalog,
        secrets: settings.secrets.secrets(),
        clients: client::Clients::new(timeout),
        lanes: endpoint_limits::Lanes::new(settings.webhooks.per_endpoint),
        attempts: settings.webhooks.attempts,
    };
    let consume = ConsumeSettings {
        concurrency: settings.webhooks.concurrency,
        handler_timeout: timeout + MARGIN,
    };
    stage.run(handler, consume);
    Ok(())
}
