//! Which images have no verdict and no message that will lead to their scan.

use std::ops::ControlFlow;

use sluice_bus::Bus;
use sluice_bus::topology::SCANNER_ADAPTER;
use sluice_domain::{Digest, Repository};
use sluice_events::commands::{Reconcile, ScanImage};
use sluice_events::wire::state::{TagEntry, VerdictStatus};
use sluice_events::{Decode as _, Message};
use sluice_state::reconcile::{Next, PAGE, ReconcilePage};
use sluice_state::{Error, Snapshot, State, is_attachment, key};

use crate::handler::scan_target::{Input, is_scanned_automatically};
use crate::image::verdict::{is_older, is_usable};
use crate::reconcile::rematch::RematchFinder;

pub(crate) mod rematch;

/// Compares the tags with the verdicts.
pub(crate) struct Reconciler<'a> {
    pub(crate) bus: &'a Bus,
    pub(crate) state: &'a State,
    pub(crate) catalog: &'a Snapshot,
    /// The version of the database in use, if images that were not matched with it are looked for.
    pub(crate) database_version: Option<&'a str>,
}

impl Reconciler<'_> {
    /// Compares one page of the tags; its commands scan the images that lack a verdict.
    pub(crate) async fn page(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        let page = self.state.tags.page("*.*", command.after, PAGE).await?;
        let mut result = ReconcilePage {
            checked: page.entries.len(),
            next: Next::after(page.next, Next::End),
            ..ReconcilePage::default()
        };
        // The run that a new database starts may have been lost.
        let missed = self.database_version.map(|database_version| RematchFinder {
            state: self.state,
            catalog: self.catalog,
            database_version,
        });
        let mut unscanned = Vec::new();
        for entry in page.entries {
            if let Some(finder) = &missed
                && let Some(image) = finder.image_of(&entry.value)
            {
                // Not those that changed: their events were published, or are dead letters.
                finder.add_if(is_older, image, &mut result).await?;
            }
            if let Some(image) = self.image_of(&entry.value)
                && !self.is_scanned(&image.digest).await?
            {
                unscanned.push(image);
            }
        }
        self.remove_pending(&mut unscanned).await?;
        for image in unscanned {
            // Its verdict may have been written meanwhile.
            if !self.is_scanned(&image.digest).await? {
                result.commands.push(image.into());
            }
        }
        Ok(result)
    }

    /// Removes images that a waiting message leads to, and those whose message is a dead letter: a person retries it.
    async fn remove_pending(&self, unscanned: &mut Vec<ScanImage>) -> Result<(), Error> {
        if unscanned.is_empty() {
            return Ok(());
        }
        let mut remove = |message| {
            if let Some(target) = self.scanned_by(message) {
                unscanned
                    .retain(|image| (&image.repository, &image.digest) != (&target.0, &target.1));
            }
            if unscanned.is_empty() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        // In the order in which a message moves on, so that none is missed.
        self.bus.backlog(&SCANNER_ADAPTER, &mut remove).await?;
        for letter in self.bus.dead_lettered(&SCANNER_ADAPTER).await? {
            if remove(letter).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Says whether each manifest of an image that can be run has a verdict, whatever its status.
    ///
    /// The entry of the image may be written by another service: it decides what is scanned, never what is promoted.
    async fn is_scanned(&self, digest: &Digest) -> Result<bool, Error> {
        let entry = self.state.images.get(&key::image(digest)).await?;
        let Some(entry) = entry else {
            // An image that could not be read may have a verdict that says so.
            return self.has_verdict(digest).await;
        };
        let mut children = entry.value.children;
        children.retain(|child| !child.attestation);
        for child in children {
            let Ok(digest) = child.digest.parse::<Digest>() else {
                return Ok(false);
            };
            if !self.has_verdict(&digest).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Says whether a manifest has a verdict; one that an older version wrote without verifying layers does not count.
    async fn has_verdict(&self, digest: &Digest) -> Result<bool, Error> {
        let entry = self.state.verdicts.get(&key::verdict(digest)).await?;
        Ok(entry.is_some_and(|entry| {
            entry.value.status() == VerdictStatus::Failed || is_usable(&entry.value)
        }))
    }

    /// Returns the image that a message leads to the scan of.
    fn scanned_by(&self, message: Message) -> Option<(Repository, Digest)> {
        let target = Input::decode(message).ok()?.scan_target(self.catalog)?;
        Some((target.repository, target.digest))
    }

    /// Returns the image that a tag points to, if it is scanned automatically.
    fn image_of(&self, entry: &TagEntry) -> Option<ScanImage> {
        let image = ScanImage {
            repository: entry.repository.parse().ok()?,
            tag: entry.tag.parse().ok(),
            // A tag that was removed names no digest.
            digest: entry.digest.parse().ok()?,
        };
        let is_wanted =
            !is_attachment(entry) && is_scanned_automatically(self.catalog, &image.repository);
        is_wanted.then_some(image)
    }
}
