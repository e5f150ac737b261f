//! The daily cleanup: removes entries about tags, images and decisions that exist no longer, a part of a bucket at a time.
//!
//! An entry is removed only if it is older than the set time, if its image or tag is neither in staging nor in a target nor
//! selected by a mirror, and if it was not changed since it was read. If a registry cannot be reached, or does not list
//! everything, every entry stays. The decision on an image that was promoted and not withdrawn stays.

mod decisions;
mod existing_digests;
mod images;
mod inventory;
mod metrics;
mod part;
mod reports;
mod tags;

use chrono::TimeDelta;
use sluice_bus::topology::PROMOTER;
use sluice_bus::{Bus, Cause, Outcome};
use sluice_domain::now;
use sluice_events::commands::Reconcile;
use sluice_events::wire::state::Reconciliation;
use sluice_events::{time_from_wire, time_to_wire};
use sluice_registry::Client;
use sluice_state::reconcile::{Next, ReconcilePage, reason, request};
use sluice_state::{Catalog, State, key};

use self::inventory::Inventory;
use self::metrics::{KINDS, count_removed};
use crate::error::Error;
use crate::evaluate::image_contents::ImageContentsReader;

pub(crate) use self::metrics::report_entry_counts;

/// How often the cleanup runs.
const INTERVAL: TimeDelta = TimeDelta::hours(24);
/// How much earlier it may run: the hourly reconciliation that asks for it is not exactly on time.
const SLACK: TimeDelta = TimeDelta::minutes(30);

/// The daily cleanup.
#[derive(Debug, Clone)]
pub(crate) struct Cleanup {
    bus: Bus,
    inventory: Inventory,
    /// How old entries are before they are removed.
    pub(crate) forget_after: TimeDelta,
}

impl Cleanup {
    pub(crate) fn new(
        bus: Bus,
        state: State,
        catalog: Catalog,
        registry: Client,
        contents: ImageContentsReader,
        forget_after: TimeDelta,
    ) -> Self {
        let inventory = Inventory {
            state,
            catalog,
            registry,
            contents,
        };
        Self {
            bus,
            inventory,
            forget_after,
        }
    }

    /// Asks for a cleanup if the last one was long enough ago.
    pub(crate) async fn request_if_due(&self, command: &Reconcile) -> Result<(), Error> {
        if !command.run.is_empty() || command.reason != reason::HOURLY {
            return Ok(());
        }
        let last = self.inventory.state.cleanups.get(key::CLEANUP).await?;
        let last = last.and_then(|last| time_from_wire(last.value.ended_at.as_ref()));
        if last.is_some_and(|last| now() - last < INTERVAL - SLACK) {
            return Ok(());
        }
        let day = now().format("%F").to_string();
        Ok(request(&self.bus, &PROMOTER, reason::CLEANUP, &day).await?)
    }

    /// Removes the obsolete entries of a part of a bucket.
    pub(crate) async fn run(&self, command: &Reconcile, cause: &Cause) -> Result<Outcome, Error> {
        let (inventory, after) = (&self.inventory, command.after);
        inventory.state.ensure_not_paused().await?;
        let before = now() - self.forget_after;
        let Some(kind) = usize::try_from(command.scan)
            .ok()
            .and_then(|scan| KINDS.get(scan))
        else {
            return Ok(Outcome::done());
        };
        let part = match *kind {
            "decision" => decisions::remove_decisions(inventory, after, before).await?,
            "tag" => tags::remove_tags(inventory, after, before).await?,
            "upstream" => tags::remove_upstream_tags(inventory, after, before).await?,
            "image" => images::remove_images(inventory, after, before).await?,
            "verdict" => images::remove_verdicts(inventory, after, before).await?,
            _ => reports::remove_reports(inventory, before).await?,
        };
        count_removed(kind, part.removed);
        if part.removed > 0 {
            tracing::info!(kind, removed = part.removed, "removed obsolete entries");
        }
        if *kind == "report" && part.next.is_none() {
            return Ok(self.end(command));
        }
        let page = ReconcilePage {
            next: Next::after(part.next, Next::Scan),
            ..ReconcilePage::default()
        };
        Ok(page.into_outcome(&inventory.state, command, cause))
    }

    fn end(&self, command: &Reconcile) -> Outcome {
        let ended = Reconciliation {
            run: command.run.clone(),
            reason: command.reason.clone(),
            ended_at: Some(time_to_wire(now())),
            stage: PROMOTER.name.to_owned(),
            ..Default::default()
        };
        let cleanups = self.inventory.state.cleanups.clone();
        Outcome::done().then(async move { cleanups.put(key::CLEANUP, &ended).await.map(drop) })
    }
}
