//! The webhook dispatcher: one durable delivery per event and endpoint, signed, retried, dead-lettered.
//!
//! It must not know what an event means, and never follows a redirect.

mod delivery;
mod error;
mod fan_out;
mod handler;
mod reconcile;
mod settings;

use std::time::Duration;

use sluice_bus::{ConsumeSettings, topology};
use sluice_service::Host;
use sluice_state::StageRunner;

use crate::delivery::client::Clients;
use crate::delivery::endpoint_limits::EndpointLimits;
use crate::handler::Dispatcher;

pub use settings::Settings;

/// How long a delivery takes besides the request: the wait for a permit, and the entries.
const MARGIN: Duration = Duration::from_secs(45);

/// Connects to the bus, and runs the stage on the host.
pub async fn start(settings: Settings, host: &Host) -> anyhow::Result<()> {
    let stage = StageRunner::connect(&topology::WEBHOOK_DISPATCHER, &settings.bus, host).await?;
    let (bus, state, catalog) = stage.connections();
    let timeout = Duration::from_secs(settings.webhooks.timeout_seconds);
    let handler = Dispatcher {
        bus,
        state,
        catalog,
        secrets: settings.secrets.secrets(),
        clients: Clients::new(timeout),
        endpoint_limits: EndpointLimits::new(settings.webhooks.per_endpoint),
        max_attempts: settings.webhooks.attempts,
        trace_url: settings.webhooks.trace_url.parse()?,
    };
    let consume = ConsumeSettings {
        concurrency: settings.webhooks.concurrency,
        handler_timeout: timeout + MARGIN,
    };
    stage.run(handler, consume);
    Ok(())
}
