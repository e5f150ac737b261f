//! Metrics of the process, in Prometheus' text form.

mod table;

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{
    Encoder as _, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
};

pub use table::*;

/// The content type of [`render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// Upper bounds of the buckets of [`MESSAGE_DELIVERIES`].
const DELIVERY_BUCKETS: [f64; 5] = [1.0, 2.0, 3.0, 5.0, 8.0];

/// Upper bounds of the buckets of every other histogram, in seconds.
const DURATION_BUCKETS: [f64; 12] = [
    0.005, 0.05, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0, 1_800.0,
];

/// Name, type, labels and help of a metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name, as in `sluice_dead_letters`.
    pub name: &'static str,
    /// `Counter`, `Gauge` or `Histogram`.
    pub kind: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// The services that export it.
    pub services: &'static str,
    /// What it counts or measures.
    pub help: &'static str,
}

/// A number that only grows.
#[derive(Debug, Clone, Copy)]
pub struct Counter(Metric);

/// A number that rises and falls.
#[derive(Debug, Clone, Copy)]
pub struct Gauge(Metric);

/// How often values were in which range.
#[derive(Debug, Clone, Copy)]
pub struct Histogram(Metric);

/// The metrics that have a value, by name.
#[derive(Default)]
struct Registered {
    registry: Registry,
    counters: Mutex<BTreeMap<&'static str, IntCounterVec>>,
    gauges: Mutex<BTreeMap<&'static str, GaugeVec>>,
    histograms: Mutex<BTreeMap<&'static str, HistogramVec>>,
}

static REGISTERED: LazyLock<Registered> = LazyLock::new(Registered::default);

impl Registered {
    /// Returns the family of a metric, which is made and registered at its first use.
    fn family<F: Clone + prometheus::core::Collector + 'static>(
        &self,
        families: &Mutex<BTreeMap<&'static str, F>>,
        metric: &Metric,
        new: impl FnOnce(&Metric) -> prometheus::Result<F>,
    ) -> prometheus::Result<F> {
        let mut families = families.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(family) = families.get(metric.name) {
            return Ok(family.clone());
        }
        let family = new(metric)?;
        self.registry.register(Box::new(family.clone()))?;
        families.insert(metric.name, family.clone());
        Ok(family)
    }
}

/// Logs a metric that cannot be updated; nothing else depends on it.
fn log_error(metric: &Metric, updated: prometheus::Result<()>) {
    if let Err(error) = updated {
        tracing::warn!(metric = metric.name, %error, "failed to update a metric");
    }
}

impl Counter {
    /// Adds to the counter; adding 0 makes it exist, so that a rate sees its first increase.
    pub fn add(&self, more: u64, labels: &[&str]) {
        let updated = REGISTERED
            .family(&REGISTERED.counters, &self.0, |metric| {
                IntCounterVec::new(Opts::new(metric.name, metric.help), metric.labels)
            })
            .and_then(|family| family.get_metric_with_label_values(labels));
        log_error(&self.0, updated.map(|counter| counter.inc_by(more)));
    }
}

impl Gauge {
    /// Sets the gauge.
    pub fn set(&self, value: f64, labels: &[&str]) {
        self.update(labels, |gauge| gauge.set(value));
    }

    /// Adds to the gauge, or takes away what is negative.
    fn add(&self, more: f64, labels: &[&str]) {
        self.update(labels, |gauge| gauge.add(more));
    }

    fn update(&self, labels: &[&str], update: impl FnOnce(prometheus::Gauge)) {
        let updated = REGISTERED
            .family(&REGISTERED.gauges, &self.0, |metric| {
                GaugeVec::new(Opts::new(metric.name, metric.help), metric.labels)
            })
            .and_then(|family| family.get_metric_with_label_values(labels));
        log_error(&self.0, updated.map(update));
    }
}

impl Histogram {
    /// Records how long something took.
    pub fn record(&self, duration: Duration, labels: &[&str]) {
        self.observe(duration.as_secs_f64(), &DURATION_BUCKETS, labels);
    }

    fn observe(&self, value: f64, buckets: &[f64], labels: &[&str]) {
        let updated = REGISTERED
            .family(&REGISTERED.histograms, &self.0, |metric| {
                let options = HistogramOpts::new(metric.name, metric.help);
                HistogramVec::new(options.buckets(buckets.to_vec()), metric.labels)
            })
            .and_then(|family| family.get_metric_with_label_values(labels));
        log_error(&self.0, updated.map(|histogram| histogram.observe(value)));
    }
}

/// Counts a message that a stage received, and its deliveries, this one included.
pub fn message_started(stage: &str, deliveries: u32) {
    MESSAGES_RECEIVED.add(1, &[stage]);
    MESSAGES_IN_FLIGHT.add(1.0, &[stage]);
    MESSAGE_DELIVERIES.observe(f64::from(deliveries), &DELIVERY_BUCKETS, &[stage]);
}

/// Counts a message that a stage settled: `done`, `retried`, `waiting`, `dead` or `abandoned`.
pub fn message_settled(stage: &str, outcome: &str, duration: Duration) {
    MESSAGES_IN_FLIGHT.add(-1.0, &[stage]);
    MESSAGES_SETTLED.add(1, &[stage, outcome]);
    MESSAGE_DURATION.record(duration, &[stage]);
}

/// Returns all metrics as text.
#[must_use]
pub fn render() -> String {
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&REGISTERED.registry.gather(), &mut text) {
        tracing::warn!(%error, "failed to render the metrics");
    }
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn sample(name: &'static str) -> Metric {
        Metric {
            name,
            kind: "",
            labels: &["host"],
            services: "",
            help: "A sample.",
        }
    }

    fn assert_rendered(line: &str) {
        let text = render();
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }

    #[test]
    fn messages_are_counted_from_delivery_to_settlement() {
        message_started("scanner", 2);
        MESSAGES_WAITING.set(7.0, &["scanner"]);
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
        let gauge = Gauge(sample("sluice_sample"));
        gauge.set(1.0, &["a"]);
        gauge.set(2.5, &["a"]);
        gauge.set(3.0, &["b"]);
        assert_rendered("sluice_sample{host=\"a\"} 2.5");
        assert_rendered("sluice_sample{host=\"b\"} 3");
    }

    #[test]
    fn a_counter_adds_up_for_each_set_of_labels_and_begins_at_nothing() {
        let counter = Counter(sample("sluice_samples_total"));
        counter.add(0, &["a"]);
        assert_rendered("sluice_samples_total{host=\"a\"} 0");
        counter.add(2, &["a"]);
        counter.add(3, &["a"]);
        assert_rendered("sluice_samples_total{host=\"a\"} 5");
    }

    #[test]
    fn a_gauge_with_other_labels_or_a_bad_name_does_no_harm() {
        let other = Gauge(sample("sluice_other"));
        other.set(1.0, &["a"]);
        other.set(2.0, &["a", "1"]);
        Gauge(sample("no name")).set(2.0, &["a"]);
        assert_rendered("sluice_other{host=\"a\"} 1");
    }
}
