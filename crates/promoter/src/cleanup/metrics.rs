//! The metrics of the cleanup: how many entries there are, and how many were removed.

use std::time::Duration;

use sluice_state::State;
use sluice_telemetry::metrics;
use tokio_util::sync::CancellationToken;

/// How often the entries are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(60);
/// The kinds of entries, in the order of their cleanup: a decision or tag is removed before what is stored about its image.
pub(super) const KINDS: [&str; 6] = ["decision", "tag", "upstream", "image", "verdict", "report"];

/// Reports how many entries of each kind there are, until the service stops.
pub(crate) async fn report_entry_counts(
    state: State,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    for kind in KINDS {
        // A counter that begins with its first removal would hide that one from a rate.
        count_removed(kind, 0);
    }
    loop {
        if let Err(error) = count_entries(&state).await {
            tracing::warn!(%error, "the entries of the state could not be counted; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(COUNT_INTERVAL) => {}
            () = stopping.cancelled() => return Ok(()),
        }
    }
}

/// Counts removed entries.
pub(super) fn count_removed(kind: &str, removed: u64) {
    metrics::STATE_REMOVED.add(removed, &[kind]);
}

/// Reports how many entries of a kind there are.
pub(super) fn report_count(kind: &str, count: u64) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    metrics::STATE_ENTRIES.set(f64::from(count), &[kind]);
}

async fn count_entries(state: &State) -> Result<(), sluice_state::Error> {
    for (kind, count) in [
        ("decision", state.decisions.count().await?),
        ("tag", state.tags.count().await?),
        ("upstream", state.upstream.count().await?),
        ("image", state.images.count().await?),
        ("verdict", state.verdicts.count().await?),
    ] {
        report_count(kind, count);
    }
    Ok(())
}
