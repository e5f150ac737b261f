//! Removes what is stored about images that exist no longer: what they consist of, and the verdicts on them.

use chrono::{DateTime, Utc};
use sluice_domain::now;
use sluice_events::wire::state::ImageEntry;
use sluice_events::{time_from_wire, time_to_wire};
use sluice_state::{Entry, State};

use super::existing_digests::ExistingDigests;
use super::inventory::Inventory;
use super::part::Part;
use crate::error::Error;

/// Removes what images consist of that exist no longer.
pub(super) async fn remove_images(
    inventory: &Inventory,
    after: u64,
    before: DateTime<Utc>,
) -> Result<Part, Error> {
    let (images, mut part) = (&inventory.state.images, Part::after(after));
    let Some(mut existing) = ExistingDigests::read(inventory, before).await? else {
        return Ok(Part::default());
    };
    while let Some(page) = part.page(images, ">").await? {
        for entry in page {
            let described_at = time_from_wire(entry.value.described_at.as_ref());
            let is_old = described_at.is_some_and(|at| at < before);
            if is_old && !existing.contains(inventory, &entry.value.digest).await? {
                part.remove(images, &entry).await?;
            }
            if described_at.is_none() {
                set_time(&inventory.state, &entry).await?;
            }
        }
    }
    Ok(part)
}

/// Sets the time of an entry that an older version wrote without one.
async fn set_time(state: &State, entry: &Entry<ImageEntry>) -> Result<(), Error> {
    let with_time = ImageEntry {
        described_at: Some(time_to_wire(now())),
        ..entry.value.clone()
    };
    let written = state
        .images
        .write(&entry.key, &with_time, Some(entry.revision));
    match written.await {
        Err(error) if !error.is_conflict() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Removes the verdicts on images that exist no longer.
pub(super) async fn remove_verdicts(
    inventory: &Inventory,
    after: u64,
    before: DateTime<Utc>,
) -> Result<Part, Error> {
    let (verdicts, mut part) = (&inventory.state.verdicts, Part::after(after));
    let Some(mut existing) = ExistingDigests::read(inventory, before).await? else {
        return Ok(Part::default());
    };
    while let Some(page) = part.page(verdicts, ">").await? {
        for entry in page {
            let scanned_at = time_from_wire(entry.value.scanned_at.as_ref());
            let is_old = scanned_at.is_some_and(|at| at < before);
            if is_old && !existing.contains(inventory, &entry.value.digest).await? {
                part.remove(verdicts, &entry).await?;
            }
        }
    }
    Ok(part)
}
