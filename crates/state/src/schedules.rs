//! Keeps the schedules of a stage as the catalogue wants them: created with their resource, removed with it.

use std::collections::BTreeSet;
use std::time::Duration;

use sluice_bus::{Bus, Cause, Schedule};
use sluice_service::crash;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, Snapshot};

/// How often schedules are compared although nothing changed.
const RECONCILE: Duration = Duration::from_secs(3_600);
/// How soon schedules that could not be written are tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// A schedule that a resource asks for.
#[derive(Debug)]
pub struct Wanted {
    /// The schedule; its name begins with the prefix of the stage.
    pub schedule: Schedule,
    /// Whether its command is given at once too when the schedule is new or another one.
    pub at_once: bool,
}

/// Keeps the schedules below a prefix, as in `poll`, until it is told to stop.
///
/// One that is the same is left alone, so that its interval goes on.
///
/// # Errors
/// A catalogue whose feed ended.
pub(crate) async fn keep_schedules(
    bus: Bus,
    mut catalog: Catalog,
    stopping: CancellationToken,
    prefix: &'static str,
    wanted: impl Fn(&Snapshot) -> Vec<Wanted> + Send,
) -> anyhow::Result<()> {
    loop {
        let all = wanted(&catalog.current());
        let wait = match reconcile(&bus, prefix, all).await {
            Ok(()) => RECONCILE,
            Err(error) => {
                tracing::warn!(%error, "schedules could not be written; trying again");
                TRY_AGAIN
            }
        };
        tokio::select! {
            alive = catalog.changed() => anyhow::ensure!(alive || stopping.is_cancelled(), "the catalogue ended"),
            () = tokio::time::sleep(wait) => {}
            () = stopping.cancelled() => {}
        }
        if stopping.is_cancelled() {
            return Ok(());
        }
    }
}

async fn reconcile(bus: &Bus, prefix: &str, all: Vec<Wanted>) -> Result<(), sluice_bus::Error> {
    let mut kept = BTreeSet::new();
    for Wanted { schedule, at_once } in all {
        if !bus.has_schedule(&schedule).await? {
            // First, because a schedule that is there hides that this was left to be done.
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
            tracing::info!(schedule = name, "no longer scheduled");
        }
    }
    Ok(())
}
