//! Metrics of the dead letters of all stages and the sizes of streams.

use std::time::Duration;

use sluice_bus::{Bus, StreamUsage};
use sluice_telemetry::metrics;
use tokio_util::sync::CancellationToken;

/// How often the metrics are updated.
const INTERVAL: Duration = Duration::from_secs(15);

/// Updates the metrics until `stopping` is cancelled.
pub(crate) async fn report_queue_metrics(
    bus: Bus,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        match bus.dead_letter_counts().await {
            Ok(counts) => {
                for (stage, count) in counts {
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    metrics::DEAD_LETTERS.set(f64::from(count), &[stage]);
                }
            }
            Err(error) => tracing::warn!(%error, "failed to count dead letters; retrying in 15s"),
        }
        match bus.stream_usage().await {
            Ok(usage) => usage.iter().for_each(report_usage),
            Err(error) => {
                tracing::warn!(%error, "failed to read the sizes of streams; retrying in 15s");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = stopping.cancelled() => return Ok(()),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sizes are far below 2^53, up to which numbers are exact"
)]
fn report_usage(usage: &StreamUsage) {
    metrics::STREAM_BYTES.set(usage.bytes as f64, &[usage.stream]);
    if let Some(limit) = usage.limit_bytes {
        metrics::STREAM_LIMIT_BYTES.set(limit as f64, &[usage.stream]);
    }
}
