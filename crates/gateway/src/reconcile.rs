//! Compares the registry with what is known of it: its notifications die with its memory.
//!
//! Only repositories that people and build systems push to: what is in a mirror or a target has a source of truth, by
//! which the stages go.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::{Bus, Cause, Fact, Handler, Outcome, topology};
use sluice_domain::{Class, Classify, Repository, Tag};
use sluice_events::commands::Reconcile;
use sluice_events::facts::{TagDeleted, TagPushed};
use sluice_events::subject::of_repository;
use sluice_events::wire::state::TagEntry;
use sluice_events::{Command, Decode, Event, Message, Unexpected};
use sluice_registry::Client;
use sluice_state::reconcile::{Found, Next, reason};
use sluice_state::{Catalog, Snapshot, State, key};
use sluice_telemetry::metrics;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// How many repositories a page looks at.
const REPOSITORIES: usize = 20;
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
}

/// What it works on.
#[derive(Debug)]
pub(crate) struct Input(Reconcile);

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, Unexpected> {
        match message {
            Message::Command(Command::Reconcile(command)) => Ok(Self(command)),
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
    #[error("the registry may still tell by itself what came since a start")]
    Starting { until: DateTime<Utc> },
}

impl From<sluice_registry::Error> for Error {
    fn from(error: sluice_registry::Error) -> Self {
        if error.is_away() || matches!(error.class(), Class::Transient { .. }) {
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
            Self::Away { until, .. } | Self::Starting { until } => {
                Class::Unavailable { until: *until }
            }
        }
    }
}

impl Handler for Comparer {
    type Input = Input;
    type Error = Error;

    const SPAN: &'static str = sluice_telemetry::span::COMPARE;

    async fn handle(&self, Input(command): Input, cause: &Cause) -> Result<Outcome, Error> {
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
    async fn missing(&self, command: &Reconcile) -> Result<Found, Error> {
        let after = command.after_name.as_str();
        let (repositories, last) = match self.registry.repositories_after(after, REPOSITORIES).await
        {
            Ok(page) => page,
            Err(error) if error.is_not_found() => {
                tracing::warn!(
                    "the registry does not list its repositories, so what it did not tell stays unknown"
                );
                return Ok(Found::default());
            }
            Err(error) => return Err(error.into()),
        };
        let catalog = self.catalog.current();
        let mut found = Found {
            looked_at: repositories.len(),
            next: last.map_or(Next::End, Next::AfterName),
            ..Found::default()
        };
        for repository in repositories
            .iter()
            .filter(|one| is_pushed_to(&catalog, one))
        {
            found.facts.extend(self.compare(repository).await?);
        }
        Ok(found)
    }

    /// Returns what the registry did not tell of a repository.
    async fn compare(&self, repository: &Repository) -> Result<Vec<(Event, String)>, Error> {
        let listed = match self.registry.tags(repository).await {
            Ok(listed) => listed,
            // A repository without a tag.
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let held = self.state.tags.list(&key::tags_of(repository)).await?;
        let held: BTreeMap<Tag, TagEntry> = held
            .into_iter()
            .filter_map(|entry| Some((entry.value.tag.parse().ok()?, entry.value)))
            .collect();
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
        for (tag, entry) in held.iter().filter(|(tag, _)| !listed.contains(tag)) {
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
        self.untold(repository, missed).await
    }

    /// Leaves out what the log holds: it was told, and whoever it concerns has it before them.
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
        Ok(missed
            .into_iter()
            .filter(|(event, _)| !is_told(event, &told))
            .collect())
    }
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
    sluice_state::reconcile::ask(bus, &topology::GATEWAY, reason::RESTARTED, instance).await
}

/// Tells how many dead letters each stage has, until it is told to stop.
pub(crate) async fn count_dead_letters(
    bus: Bus,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        match bus.dead_letter_counts().await {
            Ok(counts) => {
                for (stage, count) in counts {
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    metrics::gauge("sluice_dead_letters", f64::from(count), &[("stage", stage)]);
                }
            }
            Err(error) => tracing::warn!(%error, "dead letters cannot be counted; trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(COUNT) => {}
            () = stopping.cancelled() => return Ok(()),
        }
    }
}
