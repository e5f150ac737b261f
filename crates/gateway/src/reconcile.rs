//! Compares the registry with the state: the registry loses unsent notifications at a restart.
//!
//! Only repositories that people and build systems push to; mirrors and targets are reconciled by their stages.

use std::collections::BTreeMap;

use chrono::{TimeDelta, Utc};
use sluice_bus::{Cause, Fact, Outcome, topology};
use sluice_domain::{Repository, Tag};
use sluice_events::Event;
use sluice_events::commands::Reconcile;
use sluice_events::facts::{TagDeleted, TagPushed};
use sluice_events::subject::of_repository;
use sluice_events::wire::state::TagEntry;
use sluice_state::reconcile::{Next, ReconcilePage, ensure_no_pending_events, reason};
use sluice_state::{Snapshot, key};

use crate::error::Error;
use crate::handler::RegistryObserver;
use crate::notifications::observed_tag::ObservedTag;

/// How many repositories a page checks.
const MAX_REPOSITORIES: usize = 20;
/// How many tags of a page are checked in the registry.
const MAX_TAGS: usize = 1_000;
/// How long after a restart, of the registry or of this process, its own notifications are waited for.
const NOTIFICATION_WAIT: TimeDelta = TimeDelta::seconds(5);

impl RegistryObserver {
    pub(crate) async fn reconcile(
        &self,
        command: &Reconcile,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        ensure_no_pending_events(&self.bus, &topology::GATEWAY, command, cause).await?;
        let until = cause.time + NOTIFICATION_WAIT;
        let is_start = [reason::START, reason::RESTARTED].contains(&command.reason.as_str());
        if is_start && until > Utc::now() {
            return Err(Error::WaitingForNotifications { until });
        }
        match self.find_missing(command).await {
            Ok(page) => Ok(page.into_outcome(&self.state, command, cause)),
            // A retry would fail too. The reconciliation is not recorded, which raises an alarm.
            Err(Error::State(sluice_state::Error::Registry(error))) => {
                tracing::error!(%error, "the registry cannot be compared with the state; see `registry` in the settings");
                Ok(Outcome::done())
            }
            Err(error) => Err(error),
        }
    }

    async fn find_missing(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        let after = command.after_name.as_str();
        if let Some((repository, tag)) = after.split_once(':') {
            let Ok(named) = repository.parse() else {
                return Ok(ReconcilePage::default());
            };
            let compared = self.compare_tags(&named, Some(tag), MAX_TAGS).await?;
            return Ok(ReconcilePage {
                checked: compared.tags,
                events: compared.missing,
                next: Next::AfterName(compared.next.unwrap_or_else(|| repository.to_owned())),
                ..ReconcilePage::default()
            });
        }
        let (repositories, last) = match self
            .registry
            .list_repositories_after(after, MAX_REPOSITORIES)
            .await
        {
            Ok(page) => page,
            Err(error) if error.is_not_found() => {
                tracing::warn!(
                    "the registry does not list its repositories, so missing notifications are not found"
                );
                return Ok(ReconcilePage::default());
            }
            Err(error) => return Err(error.into()),
        };
        let catalog = self.catalog.current();
        let mut page = ReconcilePage {
            next: last.map_or(Next::End, Next::AfterName),
            ..ReconcilePage::default()
        };
        let mut left = MAX_TAGS;
        for repository in &repositories {
            page.checked += 1;
            if !is_pushed_to(&catalog, repository) {
                continue;
            }
            let compared = self.compare_tags(repository, None, left).await?;
            page.events.extend(compared.missing);
            left = left.saturating_sub(compared.tags).max(1);
            if let Some(next) = compared.next {
                page.next = Next::AfterName(next);
                break;
            }
        }
        Ok(page)
    }

    /// Compares at most `most` tags of a repository after a tag; returns the events that are missing.
    async fn compare_tags(
        &self,
        repository: &Repository,
        after: Option<&str>,
        most: usize,
    ) -> Result<TagComparison, Error> {
        let mut listed = match self.registry.list_tags(repository).await {
            Ok(listed) => listed,
            // A repository without a tag.
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let is_after = |tag: &Tag| after.is_none_or(|after| tag.as_str() > after);
        listed.retain(is_after);
        listed.sort_unstable();
        let is_last = listed.len() <= most;
        listed.truncate(most);
        let last = listed.last().filter(|_| !is_last).cloned();
        let filter = key::tags_of(repository);
        let entries = self.state.tags.collect(&filter, |entry| {
            let tag: Tag = entry.value.tag.parse().ok()?;
            let is_in_page = is_after(&tag) && last.as_ref().is_none_or(|last| tag <= *last);
            is_in_page.then_some((tag, entry.value))
        });
        let entries: BTreeMap<Tag, TagEntry> = entries.await?.into_values().collect();
        let mut missing = Vec::new();
        for tag in &listed {
            let entry = entries.get(tag);
            if entry.is_some_and(|entry| entry.claim.is_some()) {
                continue;
            }
            let Some(head) = self.registry.head(repository, &tag.into()).await? else {
                continue;
            };
            if entry.is_none_or(|entry| entry.digest != head.digest.as_str()) {
                let generation = entry.map_or(0, |entry| entry.generation);
                let pushed = TagPushed {
                    registry: self.registry.host().clone(),
                    repository: repository.clone(),
                    tag: tag.clone(),
                    digest: head.digest,
                    media_type: head.media_type,
                    // HEAD does not return it.
                    size_bytes: 0,
                    // The actor was in the lost notification.
                    actor: String::new(),
                    at: Utc::now(),
                };
                missing.push((pushed.into(), format!("missed/{generation}")));
            }
        }
        for (tag, entry) in entries
            .iter()
            .filter(|(tag, _)| listed.binary_search(tag).is_err())
        {
            if entry.digest.is_empty() || entry.claim.is_some() {
                continue;
            }
            let deleted = TagDeleted {
                registry: self.registry.host().clone(),
                repository: repository.clone(),
                tag: tag.clone(),
                actor: String::new(),
                at: Utc::now(),
            };
            missing.push((deleted.into(), format!("missed/{}", entry.generation)));
        }
        Ok(TagComparison {
            tags: listed.len(),
            missing: self.without_published(repository, missing).await?,
            next: last.map(|last| format!("{repository}:{last}")),
        })
    }

    /// Removes the events that the log has: they were published. Their tags are recorded if that failed then.
    async fn without_published(
        &self,
        repository: &Repository,
        missing: Vec<(Event, String)>,
    ) -> Result<Vec<(Event, String)>, Error> {
        if missing.is_empty() {
            return Ok(missing);
        }
        let topic = of_repository(repository);
        let mut logged = Vec::new();
        for name in ["tag.pushed", "tag.deleted"] {
            let events = self.bus.facts(&format!("sluice.v1.{name}.{topic}")).await;
            logged.extend(events.map_err(sluice_state::Error::from)?);
        }
        logged.sort_by_key(|event| event.sequence);
        let (published, missing): (Vec<_>, Vec<_>) = missing
            .into_iter()
            .partition(|(event, _)| is_last_logged(event, &logged));
        for (event, _) in published {
            let observed: ObservedTag = match event {
                Event::TagPushed(event) => event.into(),
                Event::TagDeleted(event) => event.into(),
                _ => continue,
            };
            let digest = observed.digest.as_ref();
            self.tags
                .record_external_change(
                    &observed.repository,
                    &observed.tag,
                    digest,
                    "",
                    observed.at,
                )
                .await
                .map_err(Error::from_state)?;
        }
        Ok(missing)
    }
}

/// The result of comparing some tags of a repository.
struct TagComparison {
    tags: usize,
    missing: Vec<(Event, String)>,
    /// The repository and tag after which the next page begins, if there is one.
    next: Option<String>,
}

/// Says whether an event is the last one of its tag in the log.
fn is_last_logged(event: &Event, logged: &[Fact]) -> bool {
    let (tag, digest) = match event {
        Event::TagPushed(event) => (&event.tag, Some(&event.digest)),
        Event::TagDeleted(event) => (&event.tag, None),
        _ => return false,
    };
    let last = logged.iter().rev().find_map(|fact| match &fact.event {
        Some(Event::TagPushed(event)) if event.tag == *tag => Some(Some(&event.digest)),
        Some(Event::TagDeleted(event)) if event.tag == *tag => Some(None),
        _ => None,
    });
    last == Some(digest)
}

/// Says whether people and build systems push to a repository.
fn is_pushed_to(catalog: &Snapshot, repository: &Repository) -> bool {
    let is_mirrored = catalog
        .mirrors
        .values()
        .any(|mirror| mirror.to == *repository);
    !is_mirrored && !catalog.is_target(repository)
}
