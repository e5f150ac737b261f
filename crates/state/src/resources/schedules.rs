//! Keeps the schedules of a stage as the catalogue asks for: created with their resource, removed with it.

use std::collections::BTreeSet;
use std::time::Duration;

use sluice_bus::{Bus, Cause, Schedule};
use sluice_service::crash;
use tokio_util::sync::CancellationToken;

use crate::resources::catalog::Catalog;
use crate::resources::snapshot::Snapshot;

/// How often schedules are reconciled without a change of resources.
const RECONCILE: Duration = Duration::from_secs(3_600);
/// When a failed reconciliation of schedules is retried.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A schedule that a resource asks for.
#[derive(Debug)]
pub struct DesiredSchedule {
    /// The schedule; its name begins with the prefix of the stage.
    pub schedule: Schedule,
    /// Whether the command of a new or changed schedule is also published at once.
    pub at_once: bool,
}

/// Keeps the schedules below a prefix, as in `poll`, until `stopping` is cancelled.
///
/// An unchanged schedule is left alone, so that its interval goes on.
pub(crate) async fn keep_schedules(
    bus: Bus,
    mut catalog: Catalog,
    stopping: CancellationToken,
    prefix: &'static str,
    desired: impl Fn(&Snapshot) -> Vec<DesiredSchedule> + Send,
) -> anyhow::Result<()> {
    loop {
        let schedules = desired(&catalog.current());
        let wait = match reconcile(&bus, prefix, schedules).await {
            Ok(()) => RECONCILE,
            Err(error) => {
                tracing::warn!(%error, "failed to write schedules; retrying in 5s");
                RETRY_AFTER
            }
        };
        tokio::select! {
            alive = catalog.changed() => anyhow::ensure!(alive || stopping.is_cancelled(), "the feed of the catalogue ended"),
            () = tokio::time::sleep(wait) => {}
            () = stopping.cancelled() => {}
        }
        if stopping.is_cancelled() {
            return Ok(());
        }
    }
}

async fn reconcile(
    bus: &Bus,
    prefix: &str,
    desired: Vec<DesiredSchedule>,
) -> Result<(), sluice_bus::Error> {
    let mut kept = BTreeSet::new();
    for DesiredSchedule { schedule, at_once } in desired {
        if !bus.has_schedule(&schedule).await? {
            // Before the schedule, whose existence hides that the command was not published.
            if at_once {
                bus.command(&schedule.command, &Cause::root()).await?;
                crash::point("schedules.commanded");
            }
            if bus.put_schedule(&schedule).await? {
                tracing::info!(schedule = schedule.name, timing = ?schedule.timing, "scheduled");
            }
            crash::point("schedules.put");
        }
        kept.insert(schedule.name);
    }
    for name in bus.schedules(prefix).await? {
        if !kept.contains(&name) {
            bus.remove_schedule(&name).await?;
            tracing::info!(schedule = name, "schedule removed");
        }
    }
    Ok(())
}
