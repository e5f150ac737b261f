//! After a newer vulnerability database: which images are matched with it again, those in targets first.

use sluice_domain::{Digest, Repository, Tag, Target};
use sluice_events::commands::{Reconcile, RematchImage};
use sluice_events::facts::ScannerDatabaseUpdated;
use sluice_events::wire::state::{TagEntry, Verdict};
use sluice_state::reconcile::{Next, PAGE, ReconcilePage, reason};
use sluice_state::{Error, Snapshot, State, is_attachment, reconcile};

use crate::handler::scan_target::is_scanned_automatically;
use crate::image::verdict::{has_changed, is_older};

/// How many images one page queues.
const MAX_QUEUED: usize = 50;
/// The scan of the state that takes the images in local targets, tagged or not; the next one takes all tags.
const TARGETS: u64 = 0;

/// Finds the images that are matched again.
pub(crate) struct RematchFinder<'a> {
    pub(crate) state: &'a State,
    pub(crate) catalog: &'a Snapshot,
    /// The version of the database.
    pub(crate) database_version: &'a str,
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
    /// Queues the images of one page, whose run is named after the version of the database.
    pub(crate) async fn page(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        let (entries, next) = if command.scan == TARGETS {
            let copied = &self.state.target_images;
            let page = copied.page("*.*", command.after, PAGE).await?;
            let images = page.entries.into_iter().map(|entry| {
                let image = entry.value;
                let digest = image.manifests.first().cloned().unwrap_or_default();
                (entry.revision, self.image(&image.repository, None, &digest))
            });
            (
                images.collect::<Vec<_>>(),
                Next::after(page.next, Next::Scan),
            )
        } else {
            let page = self.state.tags.page("*.*", command.after, PAGE).await?;
            let images = page.entries.into_iter();
            let images = images.map(|entry| (entry.revision, self.image_of(&entry.value)));
            (images.collect(), Next::after(page.next, Next::End))
        };
        let mut result = ReconcilePage {
            next,
            ..ReconcilePage::default()
        };
        for (revision, image) in entries {
            result.checked += 1;
            if let Some(image) = image {
                // A manifest that another image has too may have a new verdict already; the change is news of this one.
                let due = |one: &Verdict, version: &str| {
                    is_older(one, version) || has_changed(one, version)
                };
                self.add_if(due, image, &mut result).await?;
            }
            if result.commands_with_id.len() == MAX_QUEUED {
                result.next = Next::After(revision);
                break;
            }
        }
        Ok(result)
    }

    /// Adds the command for an image if one of its verdicts is `due` with this database. Its id is that of the database, so
    /// that it is queued once. An image that was never scanned is scanned with the new database anyway.
    pub(crate) async fn add_if(
        &self,
        due: fn(&Verdict, &str) -> bool,
        image: RematchImage,
        page: &mut ReconcilePage,
    ) -> Result<(), Error> {
        let version = self.database_version;
        let is_due = match self.state.verdicts_on(&image.digest).await {
            // The scan writes an entry that cannot be read anew, or fails for this image alone.
            Err(Error::Unreadable { .. } | Error::Newer { .. }) => true,
            verdicts => {
                let verdicts = verdicts?;
                let mut verdicts = verdicts.iter().filter_map(|one| one.1.as_ref());
                verdicts.any(|verdict| due(verdict, version))
            }
        };
        if is_due {
            let (repository, digest) = (&image.repository, &image.digest);
            let id = format!("rematch/{version}/{repository}/{digest}");
            page.commands_with_id.push((image.into(), id));
        }
        Ok(())
    }

    /// Returns the image of a tag: one in a target, or one that is scanned automatically.
    pub(crate) fn image_of(&self, entry: &TagEntry) -> Option<RematchImage> {
        let tag: Tag = entry.tag.parse().ok()?;
        let is_wanted = entry.promoted_from.is_some()
            || entry
                .repository
                .parse()
                .is_ok_and(|name: Repository| is_scanned_automatically(self.catalog, &name));
        if !is_wanted || is_attachment(entry) {
            return None;
        }
        // An image in a remote target is read from its source.
        let target = Target::from_stored(&entry.repository).ok()?;
        let repository = match (target.local(), &entry.promoted_from) {
            (Some(_), _) => &entry.repository,
            (None, Some(from)) => &from.repository,
            (None, None) => return None,
        };
        // A tag that was removed names no digest.
        self.image(repository, Some(tag), &entry.digest)
    }

    fn image(&self, repository: &str, tag: Option<Tag>, digest: &str) -> Option<RematchImage> {
        let digest: Digest = digest.parse().ok()?;
        Some(RematchImage {
            repository: repository.parse().ok()?,
            tag,
            digest,
            database_version: self.database_version.to_owned(),
        })
    }
}
