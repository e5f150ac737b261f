//! Which images nobody has scanned, from state and from what the stage has before it.

use std::ops::ControlFlow;

use sluice_bus::topology::SCANNER_ADAPTER;
use sluice_domain::resources::ScanMode;
use sluice_domain::{Digest, Repository};
use sluice_events::commands::{Reconcile, ScanImage};
use sluice_events::wire::state::{TagEntry, VerdictStatus};
use sluice_events::{Decode as _, Message};
use sluice_state::reconcile::{Next, PAGE, ReconcilePage};
use sluice_state::{Error, Snapshot, is_attachment, key};

use crate::scan::{Input, ScannerAdapter};
use crate::verdict::usable;

impl ScannerAdapter {
    /// Looks at a page of the tags.
    pub(crate) async fn missing(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        let state = &self.images.state;
        let catalog = self.catalog.current();
        let page = state.tags.page("*.*", command.after, PAGE).await?;
        let mut found = ReconcilePage {
            checked: page.entries.len(),
            next: Next::after(page.next, Next::End),
            ..ReconcilePage::default()
        };
        let mut unscanned = Vec::new();
        for entry in page.entries {
            if let Some(image) = image_of(&catalog, &entry.value)
                && !self.is_scanned(&image.digest).await?
            {
                unscanned.push(image);
            }
        }
        self.leave_what_comes(&catalog, &mut unscanned).await?;
        for image in unscanned {
            // It may have come meanwhile.
            if !self.is_scanned(&image.digest).await? {
                found.commands.push(image.into());
            }
        }
        Ok(found)
    }

    /// Takes away what is on its way, which would be told twice, and what failed for good, which is tried again when a
    /// person asks for it.
    async fn leave_what_comes(
        &self,
        catalog: &Snapshot,
        unscanned: &mut Vec<ScanImage>,
    ) -> Result<(), Error> {
        if unscanned.is_empty() {
            return Ok(());
        }
        let mut leave = |message| {
            if let Some(target) = scanned_by(catalog, message) {
                unscanned
                    .retain(|image| (&image.repository, &image.digest) != (&target.0, &target.1));
            }
            if unscanned.is_empty() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        // In the order in which a message goes, so that none slips past.
        self.bus.backlog(&SCANNER_ADAPTER, &mut leave).await?;
        for letter in self.bus.dead_lettered(&SCANNER_ADAPTER).await? {
            if leave(letter).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Says whether everything that can be run has a verdict, whatever it says.
    ///
    /// An entry that somebody else wrote is good enough here: it decides what is looked for, never what is promoted.
    async fn is_scanned(&self, digest: &Digest) -> Result<bool, Error> {
        let entry = self.images.state.images.get(&key::image(digest)).await?;
        let Some(entry) = entry else {
            // What could not be read may have a verdict that says so.
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

    /// Says whether a manifest has a verdict; one that an older version found without verifying its layers is none.
    async fn has_verdict(&self, digest: &Digest) -> Result<bool, Error> {
        let entry = self
            .images
            .state
            .verdicts
            .get(&key::verdict(digest))
            .await?;
        Ok(entry.is_some_and(|entry| {
            entry.value.status() == VerdictStatus::Failed || usable(&entry.value)
        }))
    }
}

/// Returns the image that a message leads to the scan of.
fn scanned_by(catalog: &Snapshot, message: Message) -> Option<(Repository, Digest)> {
    let target = Input::decode(message).ok()?.target(catalog)?;
    Some((target.repository, target.digest))
}

/// Returns what a tag points to, if that is scanned without being asked for.
fn image_of(catalog: &Snapshot, entry: &TagEntry) -> Option<ScanImage> {
    let image = ScanImage {
        repository: entry.repository.parse().ok()?,
        tag: entry.tag.parse().ok(),
        // A tag that was removed names no digest.
        digest: entry.digest.parse().ok()?,
    };
    (!is_attachment(entry) && is_scanned_unasked(catalog, &image.repository)).then_some(image)
}

/// Says whether images of a repository are scanned as soon as they are there.
pub(crate) fn is_scanned_unasked(catalog: &Snapshot, repository: &Repository) -> bool {
    let manual = catalog.settings(repository).scan == ScanMode::Manual;
    !manual && !catalog.is_target(repository)
}
