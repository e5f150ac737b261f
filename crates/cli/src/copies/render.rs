//! Outcomes, costs and quotas of copies as text and as JSON.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_copier::{CopyOutcome, Pulls, QuotaForecast, RegistryUsage, Side, TransferStats, Work};
use sluice_registry::Cost;

use crate::output::count;

/// Formats bytes with a decimal unit.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1_000 {
        return format!("{count} B");
    }
    let (mut whole, mut rest, mut unit) = (count, 0, "B");
    for next in UNITS {
        if whole < 1_000 {
            break;
        }
        (whole, rest, unit) = (whole / 1_000, whole % 1_000 / 100, next);
    }
    format!("{whole}.{rest} {unit}")
}

/// Returns seconds with three decimal places.
pub(crate) fn seconds(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1_000.0).round() / 1_000.0
}

/// Describes work in one line.
pub(crate) fn sentence(work: &Work) -> String {
    match work {
        Work::Unchanged => "unchanged".to_owned(),
        Work::Copied(stats) => format!(
            "copied {} in {} ({} mounted, {} there already)",
            bytes(stats.bytes),
            count(stats.blobs_copied, "blob"),
            stats.blobs_mounted,
            stats.blobs_skipped
        ),
        Work::Planned(cost) => format!(
            "would copy {} in {} ({} mountable, {} there already) for {} in {}",
            bytes(cost.bytes),
            count(cost.blobs_copied, "blob"),
            cost.blobs_mounted,
            cost.blobs_skipped,
            count(cost.pulls, "pull"),
            count(cost.requests, "request")
        ),
    }
}

/// Describes the outcome of an image and its attachments in one line.
pub(crate) fn outcome(outcome: &CopyOutcome) -> String {
    let (work, attached) = (sentence(&outcome.work), &outcome.attachments);
    let mut text = match attached.count() {
        0 => work,
        number => format!(
            "{work}; {}: {}",
            count(number, "attachment"),
            sentence(&attached.work)
        ),
    };
    if let Some(failure) = &attached.failure {
        text = format!("{text}; its attachments failed: {failure}");
    }
    text
}

/// Returns an outcome as an object.
pub(crate) fn outcome_json(outcome: &CopyOutcome) -> Value {
    let mut object = work_json(&outcome.work);
    let attached = &outcome.attachments;
    let mut attachments = work_json(&attached.work);
    merge(
        &mut attachments,
        json!({ "count": attached.count(), "leftOut": attached.skipped, "error": attached.failure }),
    );
    merge(
        &mut object,
        json!({ "digest": outcome.digest, "before": outcome.before, "attachments": attachments }),
    );
    object
}

fn work_json(work: &Work) -> Value {
    match work {
        Work::Unchanged => json!({ "outcome": "unchanged" }),
        Work::Copied(stats) => stats_json("copied", stats),
        Work::Planned(cost) => {
            let mut object = cost_json(cost);
            merge(&mut object, json!({ "outcome": "would_copy" }));
            object
        }
    }
}

/// Adds the keys of one object to another.
pub(crate) fn merge(report: &mut Value, more: Value) {
    if let (Value::Object(report), Value::Object(more)) = (report, more) {
        report.extend(more);
    }
}

fn stats_json(outcome: &str, stats: &TransferStats) -> Value {
    json!({
        "outcome": outcome, "bytes": stats.bytes, "blobsCopied": stats.blobs_copied,
        "blobsMounted": stats.blobs_mounted, "blobsSkipped": stats.blobs_skipped,
    })
}

/// Returns a cost as an object.
pub(crate) fn cost_json(cost: &Cost) -> Value {
    json!({
        "pulls": cost.pulls, "requests": cost.requests, "bytes": cost.bytes, "blobsCopied": cost.blobs_copied,
        "blobsMounted": cost.blobs_mounted, "blobsSkipped": cost.blobs_skipped,
    })
}

/// Returns the requests to each registry as objects.
pub(crate) fn registries(usage: &[RegistryUsage]) -> Value {
    let objects = usage.iter().map(|usage| {
        let requests = &usage.requests;
        json!({
            "host": usage.host,
            "side": match usage.side { Side::Source => "source", Side::Destination => "destination" },
            "requests": requests.total(),
            "pulls": requests.manifest_gets,
            "byKind": {
                "manifestHeads": requests.manifest_heads, "manifestGets": requests.manifest_gets,
                "manifestWrites": requests.manifest_writes, "tagLists": requests.tag_lists,
                "blobHeads": requests.blob_heads, "blobGets": requests.blob_gets, "uploads": requests.uploads,
                "others": requests.others,
            },
            "quota": usage.quota.map(|quota| json!({
                "limit": quota.limit, "remaining": quota.remaining, "windowSeconds": quota.window.as_secs(),
            })),
        })
    });
    objects.collect()
}

/// Adds the quotas of the sources to a report; returns a line for each registry that limits the planned pulls.
pub(crate) fn forecast(usage: &[RegistryUsage], pulls: &Pulls, report: &mut Value) -> Vec<String> {
    let forecasts = sluice_copier::forecast(usage, pulls);
    let objects: Vec<Value> = forecasts.iter().map(forecast_json).collect();
    merge(report, json!({ "quota": objects }));
    forecasts.iter().filter_map(forecast_line).collect()
}

fn forecast_json(forecast: &QuotaForecast) -> Value {
    let mut object = json!({
        "host": forecast.host, "pulls": forecast.pulls, "limited": forecast.quota.is_some(),
    });
    if let Some(quota) = forecast.quota {
        merge(
            &mut object,
            json!({
                "limit": quota.limit, "remaining": quota.remaining, "windowSeconds": quota.window.as_secs(),
                "windows": forecast.windows,
            }),
        );
    }
    object
}

fn forecast_line(forecast: &QuotaForecast) -> Option<String> {
    let quota = forecast.quota?;
    let hours = quota.window.as_secs_f64() / 3_600.0;
    let verdict = match forecast.windows {
        Some(0) => "enough".to_owned(),
        Some(more) => format!("{} more of {hours:.1} hours needed", count(more, "window")),
        None => "never enough, because the quota allows no pulls".to_owned(),
    };
    Some(format!(
        "{}: {} of {} remaining pulls (limit {}): {verdict}",
        forecast.host, forecast.pulls, quota.remaining, quota.limit
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal_place() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_999, "1.9 kB"),
            (3_456_789, "3.4 MB"),
            (5_000_000_000_000_000, "5000.0 TB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
