//! Keeps one schedule per mirror: created when it appears, removed with it, left alone while it is the same.

use std::collections::BTreeSet;
use std::time::Duration;

use sluice_bus::{Bus, Cause, Schedule, When};
use sluice_events::commands::PollMirror;
use sluice_events::subject::token;
use sluice_state::{Catalog, Snapshot};
use tokio_util::sync::CancellationToken;

/// How often schedules are compared although nothing changed.
const RECONCILE: Duration = Duration::from_secs(3_600);

/// Runs until it is told to stop.
pub(crate) async fn keep(
    bus: Bus,
    mut catalog: Catalog,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let wait = match reconcile(&bus, &catalog.current()).await {
            Ok(()) => RECONCILE,
            Err(error) => {
                tracing::warn!(%error, "schedules could not be written; trying again");
                Duration::from_secs(5)
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

async fn reconcile(bus: &Bus, catalog: &Snapshot) -> Result<(), sluice_bus::Error> {
    let mut wanted = BTreeSet::new();
    for mirror in catalog.mirrors.values().filter(|mirror| mirror.enabled) {
        let name = format!("poll.{}", token(mirror.name.as_str()));
        let command = PollMirror {
            mirror: mirror.name.clone(),
        };
        let when = When::Every(mirror.every.duration());
        let changed = bus
            .put_schedule(&Schedule {
                name: name.clone(),
                when,
                command: command.clone().into(),
            })
            .await?;
        if changed {
            tracing::info!(mirror = %mirror.name, every = %mirror.every, "polling is scheduled");
            // A schedule fires after its interval for the first time; whoever applied it waits for the images now.
            bus.command(&command.into(), &Cause::root()).await?;
        }
        wanted.insert(name);
    }
    for name in bus.schedules("poll").await? {
        if !wanted.contains(&name) {
            bus.remove_schedule(&name).await?;
            tracing::info!(schedule = name, "polling is no longer scheduled");
        }
    }
    Ok(())
}
