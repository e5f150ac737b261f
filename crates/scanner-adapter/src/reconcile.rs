//! Which images nobody has scanned, from state alone.

use std::collections::BTreeSet;

use sluice_bus::topology::SCANNER_ADAPTER;
use sluice_domain::resources::ScanMode;
use sluice_domain::{Digest, Repository};
use sluice_events::commands::{Reconcile, ScanImage};
use sluice_events::wire::state::TagEntry;
use sluice_events::{Decode as _, Message};
use sluice_state::reconcile::{Found, Next, PAGE};
use sluice_state::{Error, Snapshot, is_attachment, key};

use crate::scan::{Input, ScannerAdapter};

impl ScannerAdapter {
    /// Looks at a page of the tags.
    pub(crate) async fn missing(&self, command: &Reconcile) -> Result<Found, Error> {
        let state = &self.images.state;
        let catalog = self.catalog.current();
        let page = state.tags.page("*.*", command.after, PAGE).await?;
        let given_up = self.given_up(&catalog).await?;
        let mut found = Found {
            looked_at: page.entries.len(),
            next: Next::after(page.next, Next::End),
            ..Found::default()
        };
        let mut unscanned = Vec::new();
        for entry in page.entries {
            let Some(image) = image_of(&catalog, &entry.value) else {
                continue;
            };
            // What failed for good is tried again when a person asks for it.
            let failed = given_up.iter().any(|(repository, digest)| {
                *repository == image.repository && *digest == image.digest
            });
            if !failed && !self.is_scanned(&image.digest).await? {
                unscanned.push(image);
            }
        }
        if unscanned.is_empty() {
            return Ok(found);
        }
        // What is on its way is not missing, and would be told twice.
        let coming = self.bus.backlog(&SCANNER_ADAPTER).await?.into_iter();
        let coming: BTreeSet<_> = coming
            .filter_map(|message| scanned_by(&catalog, message))
            .collect();
        for image in unscanned {
            let comes = coming.contains(&(image.repository.clone(), image.digest.clone()));
            // It may have come meanwhile.
            if !comes && !self.is_scanned(&image.digest).await? {
                found.commands.push(image.into());
            }
        }
        Ok(found)
    }

    /// Says whether everything that can be run has a verdict, whatever it says.
    async fn is_scanned(&self, digest: &Digest) -> Result<bool, Error> {
        let state = &self.images.state;
        let Some(entry) = state.images.get(&key::image(digest)).await? else {
            return Ok(false);
        };
        let mut children = entry.value.children;
        children.retain(|child| !child.attestation);
        for child in children {
            let Ok(digest) = child.digest.parse::<Digest>() else {
                return Ok(false);
            };
            if state.verdicts.get(&key::verdict(&digest)).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the images that are dead letters of this stage.
    async fn given_up(&self, catalog: &Snapshot) -> Result<Vec<(Repository, Digest)>, Error> {
        let letters = self.bus.given_up(&SCANNER_ADAPTER).await?;
        let letters = letters.into_iter();
        Ok(letters
            .filter_map(|letter| scanned_by(catalog, letter))
            .collect())
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
    let manual = catalog
        .settings(repository)
        .is_some_and(|settings| settings.scan == ScanMode::Manual);
    !manual && !catalog.is_target(repository)
}
