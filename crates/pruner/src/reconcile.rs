//! Finds repositories with more tags than they may keep, from the state alone, and tags whose writer died.

use std::collections::BTreeSet;

use sluice_domain::Repository;
use sluice_events::commands::{PruneRepositories, Reconcile};
use sluice_events::wire::state::TagEntry;
use sluice_state::reconcile::{Next, PAGE, ReconcilePage};
use sluice_state::{Entry, Snapshot, State, TagWriter, has_expired_claim, is_attachment, key};

use crate::error::Error;

/// Checks the tag limits of the repositories of a page of tags, and ends claims that have expired.
pub(crate) async fn check_tags(
    state: &State,
    writer: &TagWriter,
    catalog: &Snapshot,
    command: &Reconcile,
) -> Result<ReconcilePage, Error> {
    let tags = state.tags.page("*.*", command.after, PAGE).await?;
    for entry in tags
        .entries
        .iter()
        .filter(|entry| has_expired_claim(&entry.value))
    {
        end_expired_claim(writer, catalog, &entry.value).await;
    }
    let mut page = ReconcilePage {
        checked: tags.entries.len(),
        next: Next::after(tags.next, Next::End),
        ..ReconcilePage::default()
    };
    let repositories: BTreeSet<Repository> = tags
        .entries
        .iter()
        .filter_map(|entry| entry.value.repository.parse().ok())
        .collect();
    for repository in repositories {
        let limit = catalog.settings(&repository).keep.newest;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if limit == 0 || catalog.is_target(&repository) {
            continue;
        }
        let is_counted = |entry: &Entry<TagEntry>| {
            !entry.value.digest.is_empty() && !is_attachment(&entry.value)
        };
        let filter = key::tags_of(&repository);
        if state.tags.has_more_than(limit, &filter, is_counted).await? {
            let command = PruneRepositories {
                policy: None,
                repository: Some(repository),
            };
            page.commands.push(command.into());
        }
    }
    Ok(page)
}

/// Ends the expired claim of a tag outside the promotion targets, where only the promoter writes. The next reconciliation
/// tries one again that cannot be ended now.
async fn end_expired_claim(writer: &TagWriter, catalog: &Snapshot, entry: &TagEntry) {
    let (Ok(repository), Ok(tag)) = (entry.repository.parse::<Repository>(), entry.tag.parse())
    else {
        return;
    };
    if catalog.is_target(&repository) {
        return;
    }
    if let Err(error) = writer.end_expired_claim(&repository, &tag).await {
        tracing::warn!(image.repository = %repository, image.tag = %tag, %error, "the claim of a worker that died cannot be ended now");
    }
}
