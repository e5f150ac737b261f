//! Metrics of the process, in Prometheus' text form.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{
    Encoder as _, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// The content type of [`render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

struct Metrics {
    registry: Registry,
    received: IntCounterVec,
    settled: IntCounterVec,
    duration: HistogramVec,
    in_flight: IntGaugeVec,
    deliveries: HistogramVec,
    waiting: IntGaugeVec,
    gauges: Mutex<BTreeMap<&'static str, GaugeVec>>,
    counters: Mutex<BTreeMap<&'static str, IntCounterVec>>,
}

static METRICS: LazyLock<Option<Metrics>> = LazyLock::new(|| Metrics::new().ok());

impl Metrics {
    fn new() -> prometheus::Result<Self> {
        let metrics = Self {
            registry: Registry::new(),
            received: IntCounterVec::new(
                Opts::new(
                    "sluice_messages_received_total",
                    "Messages taken up, by stage.",
                ),
                &["stage"],
            )?,
            settled: IntCounterVec::new(
                Opts::new(
                    "sluice_messages_settled_total",
                    "Messages settled, by stage and outcome.",
                ),
                &["stage", "outcome"],
            )?,
            duration: HistogramVec::new(
                HistogramOpts::new(
                    "sluice_message_duration_seconds",
                    "Time from delivery to settlement.",
                )
                .buckets(vec![0.005, 0.05, 0.25, 1.0, 5.0, 30.0, 120.0, 600.0]),
                &["stage"],
            )?,
            in_flight: IntGaugeVec::new(
                Opts::new("sluice_messages_in_flight", "Messages being worked on."),
                &["stage"],
            )?,
            deliveries: HistogramVec::new(
                HistogramOpts::new(
                    "sluice_message_deliveries",
                    "How often a message had been delivered when it was taken up.",
                )
                .buckets(vec![1.0, 2.0, 3.0, 5.0, 8.0]),
                &["stage"],
            )?,
            waiting: IntGaugeVec::new(
                Opts::new(
                    "sluice_messages_waiting",
                    "Messages of a stage that nobody has taken up.",
                ),
                &["stage"],
            )?,
            gauges: Mutex::default(),
            counters: Mutex::default(),
        };
        let registry = &metrics.registry;
        registry.register(Box::new(metrics.received.clone()))?;
        registry.register(Box::new(metrics.settled.clone()))?;
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.in_flight.clone()))?;
        registry.register(Box::new(metrics.deliveries.clone()))?;
        registry.register(Box::new(metrics.waiting.clone()))?;
        Ok(metrics)
    }

    fn set(
        &self,
        name: &'static str,
        value: f64,
        labels: &[(&str, &str)],
    ) -> prometheus::Result<()> {
        let (keys, values): (Vec<_>, Vec<_>) = labels.iter().copied().unzip();
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        if !gauges.contains_key(name) {
            let gauge = GaugeVec::new(Opts::new(name, name), &keys)?;
            self.registry.register(Box::new(gauge.clone()))?;
            gauges.insert(name, gauge);
        }
        if let Some(gauge) = gauges.get(name) {
            gauge.get_metric_with_label_values(&values)?.set(value);
        }
        Ok(())
    }

    fn add(
        &self,
        name: &'static str,
        more: u64,
        labels: &[(&str, &str)],
    ) -> prometheus::Result<()> {
        let (keys, values): (Vec<_>, Vec<_>) = labels.iter().copied().unzip();
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if !counters.contains_key(name) {
            let counter = IntCounterVec::new(Opts::new(name, name), &keys)?;
            self.registry.register(Box::new(counter.clone()))?;
            counters.insert(name, counter);
        }
        if let Some(counter) = counters.get(name) {
            counter.get_metric_with_label_values(&values)?.inc_by(more);
        }
        Ok(())
    }
}

/// Adds to a counter, which begins to exist with its first value, also where that is 0; its labels never change.
pub fn count(name: &'static str, more: u64, labels: &[(&str, &str)]) {
    if let Some(metrics) = METRICS.as_ref()
        && let Err(error) = metrics.add(name, more, labels)
    {
        tracing::warn!(name, %error, "a counter cannot be increased");
    }
}

/// Counts a message that a stage takes up.
pub fn message_started(stage: &str) {
    if let Some(metrics) = METRICS.as_ref() {
        metrics.received.with_label_values(&[stage]).inc();
        metrics.in_flight.with_label_values(&[stage]).inc();
    }
}

/// Counts how often a message that a stage takes up has been delivered, this time included.
pub fn message_delivered(stage: &str, deliveries: u32) {
    if let Some(metrics) = METRICS.as_ref() {
        metrics
            .deliveries
            .with_label_values(&[stage])
            .observe(f64::from(deliveries));
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

/// Tells how many messages of a stage nobody has taken up.
pub fn lag(stage: &str, waiting: u64) {
    if let Some(metrics) = METRICS.as_ref() {
        metrics
            .waiting
            .with_label_values(&[stage])
            .set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
}

/// Sets a gauge, which begins to exist with its first value; the labels of a name never change.
pub fn gauge(name: &'static str, value: f64, labels: &[(&str, &str)]) {
    if let Some(metrics) = METRICS.as_ref()
        && let Err(error) = metrics.set(name, value, labels)
    {
        tracing::warn!(name, %error, "a gauge cannot be set");
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
    use super::*;

    fn assert_rendered(line: &str) {
        let text = render();
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }

    #[test]
    fn messages_are_counted_from_delivery_to_settlement() {
        message_started("scanner");
        message_delivered("scanner", 2);
        lag("scanner", 7);
        assert_rendered("sluice_messages_received_total{stage=\"scanner\"} 1");
        assert_rendered("sluice_messages_in_flight{stage=\"scanner\"} 1");
        assert_rendered("sluice_message_deliveries_bucket{stage=\"scanner\",le=\"1\"} 0");
        assert_rendered("sluice_message_deliveries_bucket{stage=\"scanner\",le=\"2\"} 1");
        assert_rendered("sluice_messages_waiting{stage=\"scanner\"} 7");
        message_settled("scanner", "done", Duration::from_millis(3));
        assert_rendered("sluice_messages_settled_total{outcome=\"done\",stage=\"scanner\"} 1");
        assert_rendered("sluice_messages_in_flight{stage=\"scanner\"} 0");
        assert_rendered("sluice_message_duration_seconds_count{stage=\"scanner\"} 1");
    }

    #[test]
    fn a_gauge_shows_its_last_value_for_each_set_of_labels() {
        gauge("sluice_sample", 1.0, &[("host", "a")]);
        gauge("sluice_sample", 2.5, &[("host", "a")]);
        gauge("sluice_sample", 3.0, &[("host", "b")]);
        assert_rendered("sluice_sample{host=\"a\"} 2.5");
        assert_rendered("sluice_sample{host=\"b\"} 3");
    }

    #[test]
    fn a_counter_adds_up_for_each_set_of_labels_and_begins_at_nothing() {
        count("sluice_samples_total", 0, &[("host", "a")]);
        assert_rendered("sluice_samples_total{host=\"a\"} 0");
        count("sluice_samples_total", 2, &[("host", "a")]);
        count("sluice_samples_total", 3, &[("host", "a")]);
        assert_rendered("sluice_samples_total{host=\"a\"} 5");
    }

    #[test]
    fn a_gauge_with_other_labels_or_a_bad_name_does_no_harm() {
        gauge("sluice_other", 1.0, &[("host", "a")]);
        gauge("sluice_other", 2.0, &[("host", "a"), ("port", "1")]);
        gauge("no name", 2.0, &[]);
        assert_rendered("sluice_other{host=\"a\"} 1");
    }
}
