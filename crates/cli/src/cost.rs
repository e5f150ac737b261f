//! Tells what copies did or would cost, to people and to programs, and whether an account's quota is enough.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_domain::RegistryHost;
use sluice_registry::Cost;

use crate::remote::{Asked, Side};
use crate::transfer::{Brought, Spent, Work};

/// Counted pulls by the registry that they are asked of.
pub(crate) type Pulls = BTreeMap<RegistryHost, u64>;

/// Writes a number of bytes with a unit of thousands.
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

/// Returns seconds with three places.
pub(crate) fn seconds(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1_000.0).round() / 1_000.0
}

/// Says in one line what an image took.
pub(crate) fn sentence(work: &Work) -> String {
    match work {
        Work::Unchanged => "unchanged".to_owned(),
        Work::Copied(spent) => format!(
            "copied {} in {} blobs ({} mounted, {} there already)",
            bytes(spent.bytes),
            spent.blobs_copied,
            spent.blobs_mounted,
            spent.blobs_skipped
        ),
        Work::Planned(cost) => format!(
            "would copy {} in {} blobs ({} mountable, {} there already) for {} pulls in {} requests",
            bytes(cost.bytes),
            cost.blobs_copied,
            cost.blobs_mounted,
            cost.blobs_skipped,
            cost.pulls,
            cost.requests
        ),
    }
}

/// Says in one line what an image took, with what is attached to it.
pub(crate) fn told(brought: &Brought) -> String {
    let (work, attached) = (sentence(&brought.work), &brought.attached);
    let mut told = match attached.count() {
        0 => work,
        count => format!(
            "{work}; {}: {}",
            attachments(count),
            sentence(&attached.work)
        ),
    };
    if let Some(failure) = &attached.failure {
        told = format!("{told}; its attachments failed: {failure}");
    }
    told
}

/// Writes a number of attachments.
pub(crate) fn attachments(count: u64) -> String {
    match count {
        1 => "1 attachment".to_owned(),
        count => format!("{count} attachments"),
    }
}

/// Returns what was or would be brought as an object.
pub(crate) fn brought(brought: &Brought) -> Value {
    let mut told = work_json(&brought.work);
    let attached = &brought.attached;
    let mut attachments = work_json(&attached.work);
    merge(
        &mut attachments,
        json!({ "count": attached.count(), "leftOut": attached.left_out, "error": attached.failure }),
    );
    merge(
        &mut told,
        json!({ "digest": brought.digest, "before": brought.before, "attachments": attachments }),
    );
    told
}

fn work_json(work: &Work) -> Value {
    match work {
        Work::Unchanged => json!({ "outcome": "unchanged" }),
        Work::Copied(spent) => spent_json("copied", spent),
        Work::Planned(cost) => {
            let mut told = cost_json(cost);
            merge(&mut told, json!({ "outcome": "would_copy" }));
            told
        }
    }
}

/// Adds the keys of one object to another.
pub(crate) fn merge(report: &mut Value, more: Value) {
    if let (Value::Object(report), Value::Object(more)) = (report, more) {
        report.extend(more);
    }
}

fn spent_json(outcome: &str, spent: &Spent) -> Value {
    json!({
        "outcome": outcome, "bytes": spent.bytes, "blobsCopied": spent.blobs_copied,
        "blobsMounted": spent.blobs_mounted, "blobsSkipped": spent.blobs_skipped,
    })
}

/// Returns a cost as an object.
pub(crate) fn cost_json(cost: &Cost) -> Value {
    json!({
        "pulls": cost.pulls, "requests": cost.requests, "bytes": cost.bytes, "blobsCopied": cost.blobs_copied,
        "blobsMounted": cost.blobs_mounted, "blobsSkipped": cost.blobs_skipped,
    })
}

/// Returns what was asked of each registry as objects.
pub(crate) fn registries(asked: &[Asked]) -> Value {
    let told = asked.iter().map(|asked| {
        let requests = &asked.requests;
        json!({
            "host": asked.host,
            "side": match asked.side { Side::Source => "source", Side::Destination => "destination" },
            "requests": requests.total(),
            "pulls": requests.manifest_gets,
            "byKind": {
                "manifestHeads": requests.manifest_heads, "manifestGets": requests.manifest_gets,
                "manifestWrites": requests.manifest_writes, "tagLists": requests.tag_lists,
                "blobHeads": requests.blob_heads, "blobGets": requests.blob_gets, "uploads": requests.uploads,
                "others": requests.others,
            },
            "quota": asked.quota.map(|quota| json!({
                "limit": quota.limit, "remaining": quota.remaining, "windowSeconds": quota.window.as_secs(),
            })),
        })
    });
    told.collect()
}

/// Returns the pulls that planned work would cost.
pub(crate) fn pulls_of(host: &RegistryHost, brought: &Brought) -> Pulls {
    let mut pulls = Pulls::new();
    for work in brought.works() {
        if let Work::Planned(cost) = work {
            *pulls.entry(host.clone()).or_default() += cost.pulls;
        }
    }
    pulls
}

/// Compares planned pulls with what the registries say is left; returns a line for each that limits them.
pub(crate) fn forecast(asked: &[Asked], pulls: &Pulls, report: &mut Value) -> Vec<String> {
    let (mut lines, mut told) = (Vec::new(), Vec::new());
    for (host, wanted) in pulls {
        let source = |asked: &&Asked| asked.side == Side::Source && asked.host == *host;
        let Some(quota) = asked.iter().find(source).and_then(|asked| asked.quota) else {
            told.push(json!({ "host": host, "pulls": wanted, "limited": false }));
            continue;
        };
        let windows = windows(*wanted, quota.remaining, quota.limit);
        told.push(json!({
            "host": host, "pulls": wanted, "limited": true, "limit": quota.limit, "remaining": quota.remaining,
            "windowSeconds": quota.window.as_secs(), "windows": windows,
        }));
        let hours = quota.window.as_secs_f64() / 3_600.0;
        let verdict = match windows {
            Some(0) => "which is enough".to_owned(),
            Some(more) => format!("which needs {more} more windows of {hours:.1} hours"),
            None => "which is never enough, because it allows no pulls".to_owned(),
        };
        lines.push(format!(
            "{host}: {wanted} pulls of {} that are left of {}, {verdict}",
            quota.remaining, quota.limit
        ));
    }
    merge(report, json!({ "quota": told }));
    lines
}

/// Returns how many further windows pulls need after what is left of this one.
fn windows(wanted: u64, remaining: u64, limit: u64) -> Option<u64> {
    match wanted.saturating_sub(remaining) {
        0 => Some(0),
        _ if limit == 0 => None,
        missing => Some(missing.div_ceil(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_with_one_place() {
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

    #[test]
    fn windows_are_counted_after_what_is_left() {
        for (wanted, remaining, limit, more) in [
            (0, 0, 100, Some(0)),
            (20, 20, 100, Some(0)),
            (21, 20, 100, Some(1)),
            (220, 20, 100, Some(2)),
            (221, 20, 100, Some(3)),
            (1, 0, 0, None),
        ] {
            assert_eq!(windows(wanted, remaining, limit), more);
        }
    }
}
