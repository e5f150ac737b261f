//! After a newer vulnerability database: which images are matched with it again, those in targets first.

use sluice_domain::{Repository, Target};
use sluice_events::commands::{Reconcile, RematchImage};
use sluice_events::facts::ScannerDatabaseUpdated;
use sluice_events::wire::state::TagEntry;
use sluice_state::reconcile::{Next, PAGE, ReconcilePage, reason};
use sluice_state::{Error, Snapshot, State, is_attachment, reconcile};

use crate::handler::scan_target::is_scanned_automatically;
use crate::image::verdict::compare_databases;

/// How many images one page queues. The next page waits behind them, so that scans by people and of new images need not.
const MAX_QUEUED: usize = 50;
/// The scan of the state that takes the images in targets; the next one takes all others.
const PROMOTED: u64 = 0;

/// Finds the images that are matched again.
pub(crate) struct RematchFinder<'a> {
    pub(crate) state: &'a State,
    pub(crate) catalog: &'a Snapshot,
}

/// Returns the command with which the images are matched again, and its message id: once for each database.
pub(crate) fn command(fact: &ScannerDatabaseUpdated) -> (Reconcile, String) {
    let version = &fact.database_version;
    let stage = &sluice_bus::topology::SCANNER_ADAPTER;
    let command = Reconcile {
        run: version.clone(),
        ..reconcile::command(stage, reason::DATABASE)
    };
    let id = format!("reconcile/{}/{}/{version}", stage.name, reason::DATABASE);
    (command, id)
}

impl RematchFinder<'_> {
    /// Queues the images of one page of the tags. The run is named after the version of the database.
    pub(crate) async fn page(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        let page = self.state.tags.page("*.*", command.after, PAGE).await?;
        let end = if command.scan == PROMOTED {
            Next::Scan
        } else {
            Next::End
        };
        let mut result = ReconcilePage {
            next: Next::after(page.next, end),
            ..ReconcilePage::default()
        };
        for entry in page.entries {
            let is_promoted = entry.value.promoted_from.is_some();
            if is_promoted != (command.scan == PROMOTED) {
                continue;
            }
            result.checked += 1;
            let Some(image) = self.image_of(&entry.value, &command.run) else {
                continue;
            };
            if self.is_due(&image).await? {
                let (repository, digest) = (&image.repository, &image.digest);
                let id = format!("rematch/{}/{repository}/{digest}", command.run);
                result.commands_with_id.push((image.into(), id));
            }
            if result.commands_with_id.len() == MAX_QUEUED {
                result.next = Next::After(entry.revision);
                break;
            }
        }
        Ok(result)
    }

    /// Says whether a manifest has a verdict by an older database, or one that changed with this database. An image that was
    /// never scanned is scanned with the new database anyway.
    async fn is_due(&self, image: &RematchImage) -> Result<bool, Error> {
        let version = &image.database_version;
        let verdicts = self.state.verdicts_on(&image.digest).await?;
        Ok(verdicts.iter().filter_map(|one| one.1.as_ref()).any(|one| {
            compare_databases(&one.database_version, version).is_lt()
                || compare_databases(&one.changed_with_database, version).is_ge()
        }))
    }

    /// Returns the image of a tag: one in a target, from where it is read, or one that is scanned automatically.
    fn image_of(&self, entry: &TagEntry, database_version: &str) -> Option<RematchImage> {
        let repository = match &entry.promoted_from {
            None => entry.repository.parse().ok()?,
            // An image in a remote target is read from its source.
            Some(from) => local_repository(&entry.repository, &from.repository)?,
        };
        let is_wanted =
            entry.promoted_from.is_some() || is_scanned_automatically(self.catalog, &repository);
        (is_wanted && !is_attachment(entry)).then_some(RematchImage {
            repository,
            tag: entry.tag.parse().ok()?,
            // A tag that was removed names no digest.
            digest: entry.digest.parse().ok()?,
            database_version: database_version.to_owned(),
        })
    }
}

fn local_repository(target: &str, source: &str) -> Option<Repository> {
    match Target::from_stored(target).ok()?.local() {
        Some(repository) => Some(repository.clone()),
        None => source.parse().ok(),
    }
}
