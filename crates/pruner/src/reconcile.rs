//! Which repositories have more tags than they may keep, from state alone.

use std::collections::BTreeSet;

use sluice_domain::Repository;
use sluice_events::commands::{PruneRepositories, Reconcile};
use sluice_events::wire::state::TagEntry;
use sluice_state::reconcile::{Next, PAGE, ReconcilePage};
use sluice_state::{Entry, is_attachment, key};

use crate::prune::{Error, Pruner};
use crate::rules::keep;

impl Pruner {
    /// Looks at a page of the tags, and at the repositories that they are in.
    pub(crate) async fn missing(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        let catalog = self.catalog.current();
        let page = self.state.tags.page("*.*", command.after, PAGE).await?;
        let mut found = ReconcilePage {
            checked: page.entries.len(),
            next: Next::after(page.next, Next::End),
            ..ReconcilePage::default()
        };
        let repositories: BTreeSet<Repository> = page
            .entries
            .iter()
            .filter_map(|entry| entry.value.repository.parse().ok())
            .collect();
        for repository in repositories {
            let limit = usize::try_from(keep(&catalog, &repository).newest).unwrap_or(usize::MAX);
            if limit == 0 || catalog.is_target(&repository) {
                continue;
            }
            let is_counted = |entry: &Entry<TagEntry>| {
                !entry.value.digest.is_empty() && !is_attachment(&entry.value)
            };
            let filter = key::tags_of(&repository);
            let tags = &self.state.tags;
            if tags.has_more_than(limit, &filter, is_counted).await? {
                let command = PruneRepositories {
                    policy: None,
                    repository: Some(repository),
                };
                found.commands.push(command.into());
            }
        }
        Ok(found)
    }
}
