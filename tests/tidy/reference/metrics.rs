//! `docs/METRICS.md`, from the table of metrics in `sluice-telemetry`.

use sluice_telemetry::metrics::ALL;

use super::{check, code, table};

const INTRODUCTION: &str = "Every metric that `/metrics` of a service exports, in Prometheus' text form.

`sluice up` exports those of all services at one address. A metric appears with its first value.
Times are timestamps, so that an age keeps growing while a service is down; use `max by (...)` over replicas, because each exports its own view.
[OPERATIONS.md](OPERATIONS.md#alarms) has the alarms that use them.

";

#[test]
fn the_page_of_metrics_matches_the_table() {
    let rows: Vec<_> = ALL
        .iter()
        .map(|metric| {
            assert!(
                metric.help.ends_with('.'),
                "{}: {}",
                metric.name,
                metric.help
            );
            let labels: Vec<String> = metric.labels.iter().map(|label| code(label)).collect();
            vec![
                code(metric.name),
                metric.kind.to_ascii_lowercase(),
                labels.join(", "),
                metric.services.to_owned(),
                metric.help.to_owned(),
            ]
        })
        .collect();
    let header = ["metric", "type", "labels", "exported by", "meaning"];
    let page = format!("{INTRODUCTION}{}", table(&header, &rows));
    check("METRICS.md", "Metrics", &page);
}
