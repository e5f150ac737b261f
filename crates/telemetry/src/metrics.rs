//! Metrics of the process, in Prometheus' text form.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

struct Metrics {
    registry: Registry,
    settled: IntCounterVec,
    duration: HistogramVec,
    in_flight: IntGaugeVec,
}

static METRICS: LazyLock<Option<Metrics>> = LazyLock::new(|| Metrics::new().ok());

impl Metrics {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let settled = IntCounterVec::new(
            Opts::new(
                "sluice_messages_settled_total",
                "Messages settled, by stage and outcome.",
            ),
            &["stage", "outcome"],
        )?;
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "sluice_message_duration_seconds",
                "Time from delivery to settlement.",
            )
            .buckets(vec![0.005, 0.05, 0.25, 1.0, 5.0, 30.0, 120.0, 600.0]),
            &["stage"],
        )?;
        let in_flight = IntGaugeVec::new(
            Opts::new("sluice_messages_in_flight", "Messages being worked on."),
            &["stage"],
        )?;
        registry.register(Box::new(settled.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(in_flight.clone()))?;
        Ok(Self {
            registry,
            settled,
            duration,
            in_flight,
        })
    }
}

/// Counts a message that a stage takes up.
pub fn message_started(stage: &str) {
    if let Some(metrics) = METRICS.as_ref() {
        metrics.in_flight.with_label_values(&[stage]).inc();
    }
}

/// Counts a message that a stage settled: `done`, `retried`, `waiting` or `dead`.
pub fn message_settled(stage: &str, outcome: &str, duration: Duration) {
    if let Some(metrics) = METRICS.as_ref() {
        metrics.in_flight.with_label_values(&[stage]).dec();
        metrics.settled.with_label_values(&[stage, outcome]).inc();
        metrics
            .duration
            .with_label_values(&[stage])
            .observe(duration.as_secs_f64());
    }
}

/// Returns all metrics as text.
#[must_use]
pub fn render() -> String {
    let mut text = Vec::new();
    if let Some(metrics) = METRICS.as_ref()
        && let Err(error) = TextEncoder::new().encode(&metrics.registry.gather(), &mut text)
    {
        tracing::warn!(%error, "metrics cannot be rendered");
    }
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn settled_messages_are_counted_by_outcome() {
        super::message_started("scanner");
        super::message_settled("scanner", "done", std::time::Duration::from_millis(3));
        let text = super::render();
        assert!(
            text.contains("sluice_messages_settled_total{outcome=\"done\",stage=\"scanner\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("sluice_messages_in_flight{stage=\"scanner\"} 0"),
            "{text}"
        );
    }
}
