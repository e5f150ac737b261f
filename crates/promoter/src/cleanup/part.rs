//! The part of a bucket that one message checks.

use sluice_service::crash;
use sluice_state::reconcile::PAGE;
use sluice_state::{Entries, Entry, Stored};

use crate::error::Error;

/// How many pages of a bucket one message checks: the existing digests are read once for all of them.
const PAGES: usize = 40;

/// The part of a bucket that one message checks, and how many entries were removed.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) removed: u64,
    /// How many pages were read.
    pages: usize,
    /// After which place it goes on, if it does.
    pub(super) next: Option<u64>,
}

impl Part {
    pub(super) const fn after(place: u64) -> Self {
        Self {
            removed: 0,
            pages: 0,
            next: Some(place),
        }
    }

    /// Reads the next page; `None` at the end of the part.
    pub(super) async fn page<R: Stored>(
        &mut self,
        entries: &Entries<R>,
        filter: &str,
    ) -> Result<Option<Vec<Entry<R>>>, Error> {
        let Some(after) = self.next.filter(|_| self.pages < PAGES) else {
            return Ok(None);
        };
        let page = entries.page(filter, after, PAGE).await?;
        self.pages += 1;
        self.next = page.next;
        Ok(Some(page.entries))
    }

    /// Removes an entry unless it was changed since it was read.
    pub(super) async fn remove<R: Stored>(
        &mut self,
        entries: &Entries<R>,
        entry: &Entry<R>,
    ) -> Result<(), Error> {
        if entries.purge_if_unchanged(entry).await? {
            self.removed += 1;
            crash::point("cleanup.entry_removed");
        }
        Ok(())
    }
}
