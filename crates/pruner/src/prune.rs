//! The stage: one repository at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::{Bus, Cause, Handler, Outcome, topology};
use sluice_domain::resources::KeepOrder;
use sluice_domain::{Class, Classify, Digest, Repository, ResourceName, Tag};
use sluice_events::commands::{PruneRepositories, Reconcile};
use sluice_events::facts::{PruneCompleted, PrunedTag};
use sluice_events::wire::state::TagEntry;
use sluice_events::{Command, Decode, Event, Message, UnexpectedMessage, time_from_wire};
use sluice_policy::retention::{Plan, PlannedDeletion, Rules, TagFacts, plan};
use sluice_registry::Client;
use sluice_state::reconcile::ensure_no_pending_events;
use sluice_state::{Catalog, Provenance, Snapshot, State, TagWriter, key, remove_attachments};
use thiserror::Error;

use crate::ask::ask_for;
use crate::facts::{self, ConditionFacts};
use crate::removal::{Removal, soaking, waiting};
use crate::rules::{chosen, compiled, is_own, keep, left_alone, nothing_to_do, protection};
use crate::run::Run;

/// What the stage calls itself in claims and entries.
pub(crate) const NAME: &str = "pruner";
/// The most tags that one run removes, so that its fact stays small; another run does the rest.
const MOST_AT_ONCE: usize = 300;
/// How much of a reason is told, in characters.
const LONGEST_REASON: usize = 400;
/// When a registry that does not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// How long a run of a policy waits for the registry; its schedule asks again anyway.
const POLICY_WAITS: TimeDelta = TimeDelta::hours(1);
/// How long any other run does.
const LIMIT_WAITS: TimeDelta = TimeDelta::hours(24);

/// The stage.
#[derive(Debug)]
pub struct Pruner {
    bus: Bus,
    pub(crate) state: State,
    pub(crate) catalog: Catalog,
    registry: Client,
    tags: TagWriter,
}

/// What the stage works on.
#[derive(Debug)]
pub enum Input {
    /// A tag was mirrored into a repository.
    Mirrored(Repository),
    /// Somebody, or a schedule, asks for retention.
    Asked(PruneRepositories),
    /// Missing work is to be found.
    Reconcile(Reconcile),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, UnexpectedMessage> {
        match message {
            Message::Event(Event::TagMirrored(fact)) => Ok(Self::Mirrored(fact.repository)),
            Message::Command(Command::PruneRepositories(command)) => Ok(Self::Asked(command)),
            Message::Command(Command::Reconcile(command)) => Ok(Self::Reconcile(command)),
            other => Err(other.unexpected()),
        }
    }
}

/// Why retention did not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The state failed.
    #[error(transparent)]
    State(#[from] sluice_state::Error),
    /// A policy cannot be used.
    #[error("the condition of pruning policy `{policy}` cannot be used: {problems}")]
    Condition {
        /// Its name.
        policy: ResourceName,
        /// What is wrong with it.
        problems: String,
    },
    /// The registry does not answer.
    #[error("the registry does not answer, so nothing is deleted")]
    Away {
        /// When to ask again.
        until: DateTime<Utc>,
        /// What it said.
        source: sluice_registry::Error,
    },
}

impl From<sluice_registry::Error> for Error {
    fn from(error: sluice_registry::Error) -> Self {
        Self::State(error.into())
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::State(error) => error.class(),
            Self::Condition { .. } => Class::Permanent,
            Self::Away { until, .. } => Class::Unavailable { until: *until },
        }
    }
}

impl Handler for Pruner {
    type Input = Input;
    type Error = Error;

    const SPAN: &'static str = sluice_telemetry::span::PRUNE;

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, Error> {
        let catalog = self.catalog.current();
        let (repository, policy) = match input {
            Input::Mirrored(repository) => (repository, None),
            Input::Asked(PruneRepositories {
                policy,
                repository: Some(repository),
            }) => (repository, policy),
            Input::Asked(PruneRepositories {
                policy,
                repository: None,
            }) => return self.fan_out(&catalog, policy.as_ref(), cause).await,
            Input::Reconcile(command) => {
                ensure_no_pending_events(&self.bus, &topology::PRUNER, &command, cause).await?;
                let found = self.missing(&command).await?;
                return Ok(found.into_outcome(&self.state, &command, cause));
            }
        };
        match self
            .prune(&catalog, &repository, policy.as_ref(), cause)
            .await
        {
            Ok(outcome) => Ok(outcome),
            Err(error) => self.postponed(error, policy.is_some(), cause),
        }
    }
}

impl Pruner {
    /// Makes the stage, with the account that deletes in staging; a claim of a tag lapses after this long.
    #[must_use]
    pub fn new(
        bus: Bus,
        state: State,
        catalog: Catalog,
        registry: Client,
        claim: Duration,
    ) -> Self {
        let tags =
            TagWriter::new(state.clone(), catalog.clone(), registry.clone()).claiming_for(claim);
        Self {
            bus,
            state,
            catalog,
            registry,
            tags,
        }
    }

    /// A registry that is away is waited for; a source that could not be listed deletes nothing.
    fn postponed(&self, error: Error, by_policy: bool, cause: &Cause) -> Result<Outcome, Error> {
        let Error::State(sluice_state::Error::Registry(source)) = error else {
            return Err(error);
        };
        let Class::Unavailable { until } = source.class() else {
            return Err(source.into());
        };
        if !source.is_unreachable() {
            return Err(source.into());
        }
        let now = sluice_domain::now();
        let waited = now - cause.time;
        if by_policy && waited > POLICY_WAITS {
            tracing::warn!(error = %source, "the registry was away for too long; the next run of the policy will do it");
            return Ok(Outcome::done());
        }
        if waited > LIMIT_WAITS {
            return Err(source.into());
        }
        Err(Error::Away {
            until: until.max(now + ASK_AGAIN),
            source,
        })
    }

    /// Asks for each repository by itself, so that one that fails holds up no other.
    async fn fan_out(
        &self,
        catalog: &Snapshot,
        policy: Option<&ResourceName>,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        let mut repositories: BTreeSet<Repository> = BTreeSet::new();
        let named = self.state.tags.each(">", |_, entry| {
            let held = entry.filter(|entry| !entry.value.digest.is_empty());
            repositories.extend(held.and_then(|entry| entry.value.repository.parse().ok()));
            ControlFlow::Continue(())
        });
        named.await?;
        let mut outcome = Outcome::done();
        for repository in repositories {
            let concerned = match policy {
                Some(name) => chosen(catalog, name, &repository).is_some(),
                None => keep(catalog, &repository).newest > 0,
            };
            if concerned && !left_alone(catalog, &repository) {
                outcome = ask_for(outcome, policy, &repository, &cause.occurrence);
            }
        }
        Ok(outcome)
    }

    async fn prune(
        &self,
        catalog: &Snapshot,
        repository: &Repository,
        policy: Option<&ResourceName>,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        if left_alone(catalog, repository) {
            return Ok(Outcome::done());
        }
        let policy = match policy {
            None => None,
            Some(name) => match chosen(catalog, name, repository) {
                Some(policy) => Some((&policy.name, compiled(policy)?)),
                None => {
                    tracing::info!(policy = %name, image.repository = %repository, "no such policy is on for this repository");
                    return Ok(Outcome::done());
                }
            },
        };
        let rules = Rules {
            repository,
            keep: keep(catalog, repository),
            policy: policy.as_ref().map(|(name, condition)| (*name, condition)),
            now: sluice_domain::now(),
        };
        let held = self.held(repository).await?;
        if rules.policy.is_none() && nothing_to_do(&held, rules.keep.newest, &cause.occurrence) {
            return Ok(Outcome::done());
        }
        let listed: BTreeSet<Tag> = match self.registry.tags(repository).await {
            Ok(tags) => tags.into_iter().collect(),
            Err(error) if error.is_not_found() => return Ok(Outcome::done()),
            Err(error) => return Err(error.into()),
        };
        let run = Run {
            catalog,
            repository,
            policy: rules.policy.map(|(name, _)| name),
            held: &held,
            cause,
        };
        let interrupted = self.interrupted(&run).await?;
        let listed = listed
            .into_iter()
            .filter(|tag| !interrupted.iter().any(|planned| planned.tag == *tag))
            .collect();
        let tags = self.facts(catalog, &rules, &held, &listed).await?;
        let mut plan = plan(&rules, &tags);
        plan.delete.splice(..0, interrupted);
        self.give_up_the_begun(&run, &plan).await?;
        self.carry_out(&run, plan).await
    }

    /// Returns the entries of the images of a repository by tag; removed ones too if this version can still tell of them.
    async fn held(&self, repository: &Repository) -> Result<BTreeMap<Tag, TagEntry>, Error> {
        let filter = key::tags_of(repository);
        let held = self.state.tags.collect(&filter, |entry| {
            let is_known = !entry.value.digest.is_empty() || entry.value.pruning.is_some();
            let tag = entry.value.tag.parse::<Tag>().ok()?;
            // What is attached to an image is no image: it neither counts nor is judged.
            let is_image = tag.attached_to().is_none();
            (is_known && is_image).then_some((tag, entry.value))
        });
        Ok(held.await?.into_values().collect())
    }

    /// Returns the removals that were begun and whose tag is gone, but whose entry does not say so.
    async fn interrupted(&self, run: &Run<'_>) -> Result<Vec<PlannedDeletion>, Error> {
        let mut found = Vec::new();
        for (tag, entry) in run.held {
            let (Some(pruning), Ok(digest)) = (&entry.pruning, entry.digest.parse::<Digest>())
            else {
                continue;
            };
            if self.removal(run, tag, &digest).is_gone(entry).await? {
                found.push(PlannedDeletion {
                    tag: tag.clone(),
                    digest,
                    reason: pruning.reason.clone(),
                });
            }
        }
        Ok(found)
    }

    /// Ends removals that were begun, changed nothing, and are no longer planned.
    async fn give_up_the_begun(&self, run: &Run<'_>, plan: &Plan) -> Result<(), Error> {
        for (tag, entry) in run.held {
            let begun = entry.pruning.is_some() && entry.claim.is_some();
            let planned = plan.delete.iter().any(|deletion| deletion.tag == *tag);
            if let (true, false, Ok(digest)) = (begun, planned, entry.digest.parse()) {
                let ours = Provenance::default();
                let left = self
                    .tags
                    .clean_up_stale(run.repository, tag, Some(&digest), &ours);
                match left.await {
                    // Whoever is at it ends it.
                    Err(sluice_state::Error::Claimed { .. }) => {}
                    left => left?,
                }
            }
        }
        Ok(())
    }

    const fn removal<'a>(&'a self, run: &Run<'a>, tag: &'a Tag, digest: &'a Digest) -> Removal<'a> {
        Removal {
            state: &self.state,
            registry: &self.registry,
            catalog: run.catalog,
            repository: run.repository,
            tag,
            digest,
        }
    }

    /// Returns the tags that both the entries and the registry have.
    async fn facts(
        &self,
        catalog: &Snapshot,
        rules: &Rules<'_>,
        held: &BTreeMap<Tag, TagEntry>,
        listed: &BTreeSet<Tag>,
    ) -> Result<Vec<TagFacts>, Error> {
        let decisions = key::decisions_in(rules.repository);
        let decisions = self.state.decisions.collect(&decisions, waiting).await?;
        let soaking = soaking(catalog, rules.repository, decisions.values());
        let mut seen: BTreeMap<Digest, ConditionFacts> = BTreeMap::new();
        let mut all = Vec::new();
        for (tag, entry) in held.iter().filter(|(tag, _)| listed.contains(*tag)) {
            let Ok(digest) = entry.digest.parse::<Digest>() else {
                continue;
            };
            let known = match (seen.get(&digest), rules.policy) {
                (Some(known), _) => known.clone(),
                (None, None) => ConditionFacts::default(),
                (None, Some((_, condition))) => {
                    facts::condition_facts(
                        &self.state,
                        &self.registry,
                        rules.repository,
                        &digest,
                        condition,
                    )
                    .await?
                }
            };
            seen.insert(digest.clone(), known.clone());
            let arrived_at = time_from_wire(entry.arrived_at.as_ref());
            let pulled_at = match rules.keep.by {
                KeepOrder::Pulled => self.last_pull(rules.repository, &digest).await?,
                KeepOrder::Version | KeepOrder::Pushed => None,
            };
            let soak = soaking.get(&(tag.to_string(), entry.digest.clone()));
            let protected = protection(entry, rules.now)
                .or_else(|| soak.map(|policy| format!("policy `{policy}` lets it wait")))
                .or_else(|| {
                    arrived_at
                        .is_none()
                        .then(|| "when it arrived is not known".to_owned())
                });
            all.push(TagFacts {
                tag: tag.clone(),
                digest,
                pulled_at,
                arrived_at: arrived_at.unwrap_or(rules.now),
                protected,
                scan: known.scan,
                image: known.image,
            });
        }
        Ok(all)
    }

    async fn last_pull(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<DateTime<Utc>>, Error> {
        let entry = self.state.pulls.get(&key::pull(repository, digest)).await?;
        Ok(entry.and_then(|entry| time_from_wire(entry.value.at.as_ref())))
    }

    async fn carry_out(&self, run: &Run<'_>, plan: Plan) -> Result<Outcome, Error> {
        let occurrence = &run.cause.occurrence;
        if !plan.delete.is_empty() {
            self.state.ensure_not_paused().await?;
        }
        let (mut deleted, mut kept) = (run.deleted_before(), plan.kept.len());
        for deletion in plan.delete.iter().take(MOST_AT_ONCE) {
            let removal = self.removal(run, &deletion.tag, &deletion.digest);
            let Some(entry) = run.held.get(&deletion.tag) else {
                continue;
            };
            let reason: String = deletion.reason.chars().take(LONGEST_REASON).collect();
            let gone = match removal
                .carry_out(&self.tags, entry, occurrence, &reason)
                .await
            {
                // Whoever changes it now wants it. Another run that removes it must end first, or its claim lapse.
                Err(sluice_state::Error::Claimed { ref holder, .. }) if !is_own(holder) => false,
                other => other?,
            };
            if gone {
                tracing::info!(
                    image.repository = %run.repository, image.tag = %deletion.tag, image.digest = %deletion.digest,
                    reason, "pruned"
                );
                deleted.push(PrunedTag {
                    tag: deletion.tag.clone(),
                    digest: deletion.digest.clone(),
                    reason,
                });
            } else {
                tracing::info!(image.repository = %run.repository, image.tag = %deletion.tag, "it changed since it was planned, and stays");
                kept += 1;
            }
        }
        let gone: Vec<Digest> = deleted.iter().map(|tag| tag.digest.clone()).collect();
        remove_attachments(&self.state, &self.tags, run.repository, &gone, NAME).await?;
        let mut outcome = Outcome::done();
        let left = plan.delete.len().saturating_sub(MOST_AT_ONCE);
        if left > 0 {
            kept += left;
            outcome = ask_for(outcome, run.policy, run.repository, occurrence);
        }
        if deleted.is_empty() {
            return Ok(outcome);
        }
        Ok(outcome.fact(PruneCompleted {
            repository: run.repository.clone(),
            policy: run.policy.cloned(),
            deleted,
            kept: u64::try_from(kept).unwrap_or(u64::MAX),
            dry_run: false,
        }))
    }
}
