//! Compares the registry with what is known of it: its notifications die with its memory.
//!
//! Only repositories that people and build systems push to: what is in a mirror or a target has a source of truth, by
//! which the stages go.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::{Bus, Cause, Fact, Handler, Outcome, StreamUsage, topology};
use sluice_domain::{Class, Classify, Repository, Tag};
use sluice_events::commands::Reconcile;
use sluice_events::facts::{TagDeleted, TagPushed};
use sluice_events::subject::of_repository;
use sluice_events::wire::state::TagEntry;
use sluice_events::{Command, Decode, Event, Message, Unexpected};
use sluice_registry::Client;
use sluice_state::reconcile::{Next, ReconcilePage, ensure_no_pending_events, reason};
use sluice_state::{Catalog, Snapshot, State, TagWriter, key};
use sluice_telemetry::metrics;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::pushed_tags::ObservedTag;

/// How many repositories a page looks at.
const REPOSITORIES: usize = 20;
/// How many tags a page asks the registry for.
const TAGS: usize = 1_000;
/// How soon a registry that does not answer is asked again.
const ASK_AGAIN: TimeDelta = TimeDelta::seconds(10);
/// How long after a restart, of the registry or of this process, the registry is left to tell by itself what came since.
const SETTLE: TimeDelta = TimeDelta::seconds(5);
/// How often dead letters are counted.
const COUNT: Duration = Duration::from_secs(15);

/// The part of the gateway that consumes messages.
#[derive(Debug)]
pub(crate) struct Comparer {
    pub(crate) bus: Bus,
    pub(crate) state: State,
    pub(crate) catalog: Catalog,
    pub(crate) registry: Client,
    pub(crate) tags: TagWriter,
}

/// What it works on.
#[derive(Debug)]
pub(crate) enum Input {
    /// The registry is to be compared with what is known of it.
    Reconcile(Reconcile),
    /// Somebody pushed or deleted a tag.
    Changed(ObservedTag),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, Unexpected> {
        match message {
            Message::Command(Command::Reconcile(command)) => Ok(Self::Reconcile(command)),
            Message::Event(Event::TagPushed(fact)) => Ok(Self::Changed(fact.into())),
            Message::Event(Event::TagDeleted(fact)) => Ok(Self::Changed(fact.into())),
            other => Err(other.unexpected()),
        }
    }
}

/// Why the registry could not be compared.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(transparent)]
    State(#[from] sluice_state::Error),
    #[error("the registry does not answer, so what it did not tell cannot be found out")]
    Away {
        until: DateTime<Utc>,
        source: sluice_registry::Error,
    },
    #[error("waiting for registry notifications")]
    Starting { until: DateTime<Utc> },
    #[error("the registry does not show what was told of `{tag}` yet")]
    Unsettled { tag: String, until: DateTime<Utc> },
}

impl Error {
    /// Makes one of a failing state, which may be the registry's.
    pub(crate) fn of_state(error: sluice_state::Error) -> Self {
        match error {
            sluice_state::Error::Registry(source) => source.into(),
            other => other.into(),
        }
    }
}

impl From<sluice_registry::Error> for Error {
    fn from(error: sluice_registry::Error) -> Self {
        if error.is_unreachable() || matches!(error.class(), Class::Transient { .. }) {
            return Self::Away {
                until: Utc::now() + ASK_AGAIN,
                source: error,
            };
        }
        Self::State(error.into())
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::State(error) => error.class(),
            Self::Away { until, .. } | Self::Starting { until } | Self::Unsettled { until, .. } => {
                Class::Unavailable { until: *until }
            }
        }
    }
}

impl Handler for Comparer {
    type Input = Input;
    type Error = Error;

    const SPAN: &'static str = sluice_telemetry::span::COMPARE;

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, Error> {
        let command = match input {
            Input::Changed(change) => return self.record(change, cause).await,
            Input::Reconcile(command) => command,
        };
        ensure_no_pending_events(&self.bus, &topology::GATEWAY, &command, cause).await?;
        let settled = cause.time + SETTLE;
        let just_started = [reason::START, reason::RESTARTED].contains(&command.reason.as_str());
        if just_started && settled > Utc::now() {
            return Err(Error::Starting { until: settled });
        }
        let found = match self.missing(&command).await {
            Ok(found) => found,
            // Another message would fare the same. The search counts as not made, which is what the alarm goes by.
            Err(Error::State(sluice_state::Error::Registry(error))) => {
                tracing::error!(%error, "the registry cannot be compared with what is known of it; see `registry` in the settings");
                return Ok(Outcome::done());
            }
            Err(error) => return Err(error),
        };
        Ok(found.into_outcome(&self.state, &command, cause))
    }
}

impl Comparer {
    async fn missing(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        let after = command.after_name.as_str();
        if let Some((repository, tag)) = after.split_once(':') {
            let Ok(named) = repository.parse() else {
                return Ok(ReconcilePage::default());
            };
            let part = self.compare(&named, Some(tag), TAGS).await?;
            return Ok(ReconcilePage {
                checked: part.tags,
                events: part.missed,
                next: Next::AfterName(part.next.unwrap_or_else(|| repository.to_owned())),
                ..ReconcilePage::default()
            });
        }
        let (repositories, last) = match self.registry.repositories_after(after, REPOSITORIES).await
        {
            Ok(page) => page,
            Err(error) if error.is_not_found() => {
                tracing::warn!(
                    "the registry does not list its repositories, so what it did not tell stays unknown"
                );
                return Ok(ReconcilePage::default());
            }
            Err(error) => return Err(error.into()),
        };
        let catalog = self.catalog.current();
        let mut found = ReconcilePage {
            next: last.map_or(Next::End, Next::AfterName),
            ..ReconcilePage::default()
        };
        let mut left = TAGS;
        for repository in &repositories {
            found.checked += 1;
            if !is_pushed_to(&catalog, repository) {
                continue;
            }
            let part = self.compare(repository, None, left).await?;
            found.events.extend(part.missed);
            left = left.saturating_sub(part.tags).max(1);
            if let Some(next) = part.next {
                found.next = Next::AfterName(next);
                break;
            }
        }
        Ok(found)
    }

    /// Returns what the registry did not tell of a repository, of so many tags.
    async fn compare(
        &self,
        repository: &Repository,
        after: Option<&str>,
        most: usize,
    ) -> Result<Part, Error> {
        let mut listed = match self.registry.tags(repository).await {
            Ok(listed) => listed,
            // A repository without a tag.
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let is_left = |tag: &Tag| after.is_none_or(|after| tag.as_str() > after);
        listed.retain(is_left);
        listed.sort_unstable();
        let is_last = listed.len() <= most;
        listed.truncate(most);
        let last = listed.last().filter(|_| !is_last).cloned();
        let filter = key::tags_of(repository);
        let held = self.state.tags.collect(&filter, |entry| {
            let tag: Tag = entry.value.tag.parse().ok()?;
            let is_here = is_left(&tag) && last.as_ref().is_none_or(|last| tag <= *last);
            is_here.then_some((tag, entry.value))
        });
        let held: BTreeMap<Tag, TagEntry> = held.await?.into_values().collect();
        let mut missed = Vec::new();
        for tag in &listed {
            let entry = held.get(tag);
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
                    // It is not asked for, as nobody needs it.
                    size_bytes: 0,
                    // Whoever it was, nobody will ever tell.
                    actor: String::new(),
                    at: Utc::now(),
                };
                missed.push((pushed.into(), format!("missed/{generation}")));
            }
        }
        for (tag, entry) in held
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
            missed.push((deleted.into(), format!("missed/{}", entry.generation)));
        }
        Ok(Part {
            tags: listed.len(),
            missed: self.untold(repository, missed).await?,
            next: last.map(|last| format!("{repository}:{last}")),
        })
    }

    /// Leaves out what the log holds: it was told. If it was not recorded, which failed then, it is now.
    async fn untold(
        &self,
        repository: &Repository,
        missed: Vec<(Event, String)>,
    ) -> Result<Vec<(Event, String)>, Error> {
        if missed.is_empty() {
            return Ok(missed);
        }
        let place = of_repository(repository);
        let mut told = Vec::new();
        for name in ["tag.pushed", "tag.deleted"] {
            let facts = self.bus.facts(&format!("sluice.v1.{name}.{place}")).await;
            told.extend(facts.map_err(sluice_state::Error::from)?);
        }
        told.sort_by_key(|fact| fact.sequence);
        let (told, untold): (Vec<_>, Vec<_>) = missed
            .into_iter()
            .partition(|(event, _)| is_told(event, &told));
        for (event, _) in told {
            let change: ObservedTag = match event {
                Event::TagPushed(fact) => fact.into(),
                Event::TagDeleted(fact) => fact.into(),
                _ => continue,
            };
            let digest = change.digest.as_ref();
            self.tags
                .observe(&change.repository, &change.tag, digest, "", change.at)
                .await
                .map_err(Error::of_state)?;
        }
        Ok(untold)
    }
}

/// What a comparison of some tags of a repository found.
struct Part {
    tags: usize,
    missed: Vec<(Event, String)>,
    /// Where the next part goes on, if there is one.
    next: Option<String>,
}

/// Says whether the last that was told of a tag is this.
fn is_told(event: &Event, told: &[Fact]) -> bool {
    let (tag, digest) = match event {
        Event::TagPushed(fact) => (&fact.tag, Some(&fact.digest)),
        Event::TagDeleted(fact) => (&fact.tag, None),
        _ => return false,
    };
    let last = told.iter().rev().find_map(|fact| match &fact.event {
        Some(Event::TagPushed(fact)) if fact.tag == *tag => Some(Some(&fact.digest)),
        Some(Event::TagDeleted(fact)) if fact.tag == *tag => Some(None),
        _ => None,
    });
    last == Some(digest)
}

fn is_pushed_to(catalog: &Snapshot, repository: &Repository) -> bool {
    let mirrored = catalog
        .mirrors
        .values()
        .any(|mirror| mirror.to == *repository);
    !mirrored && !catalog.is_target(repository)
}

/// Asks for a comparison whenever another instance of the registry speaks, once for each.
pub(crate) async fn restarted(bus: &Bus, instance: &str) -> Result<(), sluice_state::Error> {
    sluice_state::reconcile::request(bus, &topology::GATEWAY, reason::RESTARTED, instance).await
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sizes are far below 2^53, up to which numbers are exact"
)]
fn tell_usage(usage: &StreamUsage) {
    metrics::STREAM_BYTES.set(usage.bytes as f64, &[usage.stream]);
    if let Some(limit) = usage.limit_bytes {
        metrics::STREAM_LIMIT_BYTES.set(limit as f64, &[usage.stream]);
    }
}

/// Tells how many dead letters each stage has and how full streams are, until it is told to stop.
pub(crate) async fn count_dead_letters(
    bus: Bus,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        match bus.dead_letter_counts().await {
            Ok(counts) => {
                for (stage, count) in counts {
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    metrics::DEAD_LETTERS.set(f64::from(count), &[stage]);
                }
            }
            Err(error) => tracing::warn!(%error, "dead letters cannot be counted; trying again"),
        }
        match bus.stream_usage().await {
            Ok(usage) => usage.iter().for_each(tell_usage),
            Err(error) => {
                tracing::warn!(%error, "how full streams are cannot be found out; trying again");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(COUNT) => {}
            () = stopping.cancelled() => return Ok(()),
        }
    }
}
