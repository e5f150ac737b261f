//! The one place that speaks to telemetry: trace context in headers, and counts of messages.

use async_nats::HeaderMap;
use tokio::time::Instant;
use tracing::Span;

use crate::envelope::set;

/// Writes the trace context of the current span into headers.
pub(crate) fn inject(map: &mut HeaderMap) {
    sluice_telemetry::context::inject(&mut |name, value| set(map, name, &value));
}

/// Makes a span, not yet entered, continue the trace that headers came with.
pub(crate) fn continue_trace(span: &Span, map: Option<&HeaderMap>) {
    sluice_telemetry::context::set_parent(span, &|name: &str| Some(map?.get(name)?.as_str()));
}

/// Links a span that begins a trace of its own to the one that headers came with.
pub(crate) fn link_trace(span: &Span, map: Option<&HeaderMap>) {
    sluice_telemetry::context::link(span, &|name: &str| Some(map?.get(name)?.as_str()));
}

/// A message in flight; dropping it counts it as settled.
#[derive(Debug)]
pub(crate) struct InFlight {
    stage: &'static str,
    started: Instant,
    outcome: &'static str,
}

impl InFlight {
    /// Counts a message that is taken up, and how often it has been delivered by now.
    pub(crate) fn new(stage: &'static str, deliveries: i64) -> Self {
        let deliveries = u32::try_from(deliveries).unwrap_or(u32::MAX);
        sluice_telemetry::metrics::message_started(stage);
        sluice_telemetry::metrics::message_delivered(stage, deliveries);
        Self {
            stage,
            started: Instant::now(),
            outcome: "abandoned",
        }
    }

    /// Counts it by how it ended.
    pub(crate) fn settled(mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        sluice_telemetry::metrics::message_settled(self.stage, self.outcome, duration);
    }
}
