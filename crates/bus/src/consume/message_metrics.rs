//! Metrics of the messages that a stage works on.

use tokio::time::Instant;

/// A message in flight; dropping it counts the message by its outcome.
#[derive(Debug)]
pub(crate) struct MessageMetrics {
    stage: &'static str,
    started: Instant,
    outcome: &'static str,
}

impl MessageMetrics {
    /// Counts a message that a stage takes up, with the number of its deliveries.
    pub(crate) fn new(stage: &'static str, deliveries: i64) -> Self {
        let deliveries = u32::try_from(deliveries).unwrap_or(u32::MAX);
        sluice_telemetry::metrics::message_started(stage, deliveries);
        Self {
            stage,
            started: Instant::now(),
            outcome: "abandoned",
        }
    }

    /// Sets the outcome and counts the message.
    pub(crate) fn finish(mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for MessageMetrics {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        sluice_telemetry::metrics::message_settled(self.stage, self.outcome, duration);
    }
}
