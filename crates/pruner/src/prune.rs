//! The stage: one repository at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::{Cause, Handler, Outcome};
use sluice_domain::resources::PruningPolicy;
use sluice_domain::service_account::is_service_account;
use sluice_domain::{Class, Classify, Digest, Repository, ResourceName, Tag};
use sluice_events::commands::PruneRepositories;
use sluice_events::facts::{PruneCompleted, PrunedTag, TagPushed};
use sluice_events::wire::state::TagEntry;
use sluice_events::{Command, Decode, Event, EventId, Message, Unexpected, time_from_wire};
use sluice_policy::condition::{Compiled, Scope};
use sluice_policy::retention::{Plan, PlannedDeletion, Rules, TagFacts, plan};
use sluice_registry::Client;
use sluice_state::{Catalog, Snapshot, State, TagWriter, key};
use thiserror::Error;

use crate::facts::{self, Known};
use crate::removal::{Removal, soaking};

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
pub(crate) struct Pruner {
    state: State,
    catalog: Catalog,
    registry: Client,
    tags: TagWriter,
}

/// What the stage works on.
#[derive(Debug)]
pub(crate) enum Input {
    Mirrored(Repository),
    Pushed(TagPushed),
    Asked(PruneRepositories),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, Unexpected> {
        match message {
            Message::Event(Event::TagMirrored(fact)) => Ok(Self::Mirrored(fact.repository)),
            Message::Event(Event::TagPushed(fact)) => Ok(Self::Pushed(fact)),
            Message::Command(Command::PruneRepositories(command)) => Ok(Self::Asked(command)),
            other => Err(other.unexpected()),
        }
    }
}

/// Why retention did not run.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(transparent)]
    State(#[from] sluice_state::Error),
    #[error("the condition of pruning policy `{policy}` cannot be used: {problems}")]
    Condition {
        policy: ResourceName,
        problems: String,
    },
    #[error("the registry does not answer, so nothing is deleted")]
    Away {
        until: DateTime<Utc>,
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
            Input::Pushed(fact) if is_service_account(&fact.actor) => return Ok(Outcome::done()),
            Input::Pushed(fact) => {
                if !catalog.is_target(&fact.repository) {
                    self.observe(&fact, cause).await?;
                }
                (fact.repository, None)
            }
            Input::Asked(PruneRepositories {
                policy,
                repository: Some(repository),
            }) => (repository, policy),
            Input::Asked(PruneRepositories {
                policy,
                repository: None,
            }) => return self.fan_out(&catalog, policy.as_ref(), cause).await,
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
    pub(crate) fn new(state: State, catalog: Catalog, registry: Client) -> Self {
        let tags = TagWriter::new(state.clone(), registry.clone());
        Self {
            state,
            catalog,
            registry,
            tags,
        }
    }

    /// Notes what a person or a build system pushed, so that it counts among the tags.
    async fn observe(&self, fact: &TagPushed, cause: &Cause) -> Result<(), Error> {
        let noted = self
            .tags
            .observe(
                &fact.repository,
                &fact.tag,
                &fact.digest,
                &fact.actor,
                fact.at,
            )
            .await;
        match noted {
            Ok(()) => Ok(()),
            Err(error) => self.postponed(error.into(), false, cause).map(drop),
        }
    }

    /// A registry that is away is waited for; a source that could not be listed deletes nothing.
    fn postponed(&self, error: Error, by_policy: bool, cause: &Cause) -> Result<Outcome, Error> {
        let Error::State(sluice_state::Error::Registry(source)) = error else {
            return Err(error);
        };
        let Class::Transient { after } = source.class() else {
            return Err(source.into());
        };
        let now = Utc::now();
        let waited = now - cause.time;
        if by_policy && waited > POLICY_WAITS {
            tracing::warn!(error = %source, "the registry was away for too long; the next run of the policy will do it");
            return Ok(Outcome::done());
        }
        if waited > LIMIT_WAITS {
            return Err(source.into());
        }
        Err(Error::Away {
            until: now + after.unwrap_or(ASK_AGAIN).max(ASK_AGAIN),
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
        let mut repositories = BTreeSet::new();
        for entry in self.state.tags.list(">").await? {
            if !entry.value.digest.is_empty()
                && let Ok(repository) = entry.value.repository.parse::<Repository>()
            {
                repositories.insert(repository);
            }
        }
        let mut outcome = Outcome::done();
        for repository in repositories {
            let concerned = match policy {
                Some(name) => chosen(catalog, name, &repository).is_some(),
                None => keep(catalog, &repository) > 0,
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
            now: Utc::now(),
        };
        let held = self.held(repository).await?;
        if rules.policy.is_none() && nothing_to_do(&held, rules.keep, &cause.occurrence) {
            return Ok(Outcome::done());
        }
        let listed: BTreeSet<Tag> = match self.registry.tags(repository).await {
            Ok(tags) => tags.into_iter().collect(),
            Err(error) if error.is_not_found() => return Ok(Outcome::done()),
            Err(error) => return Err(error.into()),
        };
        let tags = self.facts(catalog, &rules, &held, &listed).await?;
        let plan = finished(plan(&rules, &tags), &held, &listed);
        let run = Run {
            catalog,
            repository,
            policy: rules.policy.map(|(name, _)| name),
            held: &held,
            cause,
        };
        self.carry_out(&run, plan).await
    }

    /// Returns the entries of a repository by tag; removed ones too if this version can still tell of them.
    async fn held(&self, repository: &Repository) -> Result<BTreeMap<Tag, TagEntry>, Error> {
        let entries = self.state.tags.list(&key::tags_of(repository)).await?;
        Ok(entries
            .into_iter()
            .filter(|entry| !entry.value.digest.is_empty() || entry.value.pruning.is_some())
            .filter_map(|entry| Some((entry.value.tag.parse().ok()?, entry.value)))
            .collect())
    }

    /// Returns the tags that both the entries and the registry have.
    async fn facts(
        &self,
        catalog: &Snapshot,
        rules: &Rules<'_>,
        held: &BTreeMap<Tag, TagEntry>,
        listed: &BTreeSet<Tag>,
    ) -> Result<Vec<TagFacts>, Error> {
        let decisions = self
            .state
            .decisions
            .list(&key::decisions_in(rules.repository))
            .await?;
        let soaking = soaking(catalog, rules.repository, &decisions);
        let mut seen: BTreeMap<Digest, Known> = BTreeMap::new();
        let mut all = Vec::new();
        for (tag, entry) in held.iter().filter(|(tag, _)| listed.contains(*tag)) {
            let Ok(digest) = entry.digest.parse::<Digest>() else {
                continue;
            };
            let known = match (seen.get(&digest), rules.policy) {
                (Some(known), _) => known.clone(),
                (None, None) => Known::default(),
                (None, Some((_, condition))) => {
                    facts::known(
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
                arrived_at: arrived_at.unwrap_or(rules.now),
                protected,
                scan: known.scan,
                image: known.image,
            });
        }
        Ok(all)
    }

    async fn carry_out(&self, run: &Run<'_>, plan: Plan) -> Result<Outcome, Error> {
        let occurrence = &run.cause.occurrence;
        let (mut deleted, mut kept) = (run.deleted_before(), plan.kept.len());
        for deletion in plan.delete.iter().take(MOST_AT_ONCE) {
            let removal = Removal {
                state: &self.state,
                registry: &self.registry,
                catalog: run.catalog,
                repository: run.repository,
                tag: &deletion.tag,
                digest: &deletion.digest,
            };
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

/// One run of retention in one repository.
struct Run<'a> {
    catalog: &'a Snapshot,
    repository: &'a Repository,
    policy: Option<&'a ResourceName>,
    held: &'a BTreeMap<Tag, TagEntry>,
    cause: &'a Cause,
}

impl Run<'_> {
    /// Returns what this very run deleted before it was interrupted: it was not told yet.
    fn deleted_before(&self) -> Vec<PrunedTag> {
        self.held
            .iter()
            .filter(|(_, entry)| entry.digest.is_empty())
            .filter_map(|(tag, entry)| {
                let pruning = entry
                    .pruning
                    .as_ref()
                    .filter(|pruning| pruning.run == self.cause.occurrence)?;
                Some(PrunedTag {
                    tag: tag.clone(),
                    digest: pruning.digest.parse().ok()?,
                    reason: pruning.reason.clone(),
                })
            })
            .collect()
    }
}

/// Says without asking the registry that a tag limit holds and no removal was interrupted.
fn nothing_to_do(held: &BTreeMap<Tag, TagEntry>, keep: u32, occurrence: &str) -> bool {
    let there = held.values().filter(|entry| !entry.digest.is_empty());
    let interrupted = held.values().any(|entry| {
        entry
            .pruning
            .as_ref()
            .is_some_and(|pruning| !entry.digest.is_empty() || pruning.run == occurrence)
    });
    let within = keep == 0 || there.count() <= usize::try_from(keep).unwrap_or(usize::MAX);
    within && !interrupted
}

/// Adds removals that were begun and whose tag is gone, but whose entry does not say so.
fn finished(mut plan: Plan, held: &BTreeMap<Tag, TagEntry>, listed: &BTreeSet<Tag>) -> Plan {
    for (tag, entry) in held.iter().filter(|(tag, _)| !listed.contains(*tag)) {
        if let (Some(pruning), Ok(digest)) = (&entry.pruning, entry.digest.parse()) {
            plan.delete.push(PlannedDeletion {
                tag: tag.clone(),
                digest,
                reason: pruning.reason.clone(),
            });
        }
    }
    plan
}

/// Says why a tag must stay whatever the rules say.
fn protection(entry: &TagEntry, now: DateTime<Utc>) -> Option<String> {
    let claim = entry.claim.as_ref()?;
    let live = time_from_wire(claim.until.as_ref()).is_some_and(|until| until > now);
    (live && !is_own(&claim.holder)).then(|| format!("`{}` is changing it", claim.holder))
}

/// Says whether a claim is that of some run of this stage.
fn is_own(holder: &str) -> bool {
    holder
        .strip_prefix(NAME)
        .is_some_and(|rest| rest.starts_with('/'))
}

fn keep(catalog: &Snapshot, repository: &Repository) -> u32 {
    catalog
        .settings(repository)
        .map_or(0, |settings| settings.keep)
}

/// Only the promoter writes into targets, and what it put there stays until its policy withdraws it.
fn left_alone(catalog: &Snapshot, repository: &Repository) -> bool {
    let target = catalog.is_target(repository);
    if target {
        tracing::info!(image.repository = %repository, "left alone: it is a target of promotion, where only the promoter writes");
    }
    target
}

/// Returns a policy that is on, if it names the repository.
fn chosen<'a>(
    catalog: &'a Snapshot,
    name: &ResourceName,
    repository: &Repository,
) -> Option<&'a PruningPolicy> {
    catalog.pruning.get(name).filter(|policy| {
        policy.enabled
            && policy
                .repositories
                .iter()
                .any(|pattern| pattern.matches(repository.as_str()))
    })
}

fn compiled(policy: &PruningPolicy) -> Result<Compiled, Error> {
    Compiled::new(&policy.delete.0, Scope::Pruning).map_err(|problems| Error::Condition {
        policy: policy.name.clone(),
        problems: problems.join("; "),
    })
}

/// Asks for a run in one repository, once for each cause.
fn ask_for(
    outcome: Outcome,
    policy: Option<&ResourceName>,
    repository: &Repository,
    occurrence: &str,
) -> Outcome {
    let command = PruneRepositories {
        policy: policy.cloned(),
        repository: Some(repository.clone()),
    };
    let name = policy.map(ToString::to_string).unwrap_or_default();
    let id = EventId::of(
        "sluice.events.v1.PruneRepositories",
        &format!("{name}|{repository}"),
        occurrence,
    );
    outcome.command(command, id, id.to_string())
}

#[cfg(test)]
mod tests {
    use sluice_events::time_to_wire;
    use sluice_events::wire::state::{Claim, Pruning};

    use super::*;

    fn entry(tag: &str, digest: &str, run: Option<&str>) -> (Tag, TagEntry) {
        let entry = TagEntry {
            digest: digest.to_owned(),
            pruning: run.map(|run| Pruning {
                run: run.to_owned(),
                digest: full("a"),
                reason: "too many".to_owned(),
            }),
            ..Default::default()
        };
        (tag.parse().unwrap(), entry)
    }

    fn full(fill: &str) -> String {
        format!("sha256:{}", fill.repeat(64))
    }

    #[test]
    fn a_limit_that_holds_asks_nobody() {
        let a = full("a");
        let two = BTreeMap::from([entry("1", &a, None), entry("2", &a, None)]);
        for (keep, nothing) in [(0, true), (1, false), (2, true), (3, true)] {
            assert_eq!(nothing_to_do(&two, keep, "now"), nothing, "{keep}");
        }
        let removed = BTreeMap::from([entry("1", &a, None), entry("2", "", Some("before"))]);
        assert!(nothing_to_do(&removed, 1, "now"));
        assert!(!nothing_to_do(&removed, 1, "before"));
        let begun = BTreeMap::from([entry("1", &a, Some("before"))]);
        assert!(!nothing_to_do(&begun, 1, "now"));
    }

    #[test]
    fn a_removal_whose_tag_is_gone_is_finished_and_others_are_left() {
        let a = full("a");
        let held = BTreeMap::from([
            entry("begun", &a, Some("before")),
            entry("listed", &a, Some("before")),
            entry("removed", "", Some("before")),
            entry("vanished", &a, None),
        ]);
        let listed = BTreeSet::from(["listed".parse().unwrap()]);
        let plan = finished(Plan::default(), &held, &listed);
        let names: Vec<&str> = plan.delete.iter().map(|d| d.tag.as_str()).collect();
        assert_eq!(names, ["begun"]);
    }

    #[test]
    fn only_a_live_claim_of_somebody_else_protects() {
        let now = Utc::now();
        let claimed = |holder: &str, seconds| TagEntry {
            claim: Some(Claim {
                digest: String::new(),
                holder: holder.to_owned(),
                until: Some(time_to_wire(now + TimeDelta::seconds(seconds))),
            }),
            ..Default::default()
        };
        for (entry, protected) in [
            (claimed("mirror-worker/1", 5), true),
            (claimed("pruner-of-others/1", 5), true),
            (claimed("mirror-worker/1", -5), false),
            (claimed("pruner/1", 5), false),
            (TagEntry::default(), false),
        ] {
            assert_eq!(protection(&entry, now).is_some(), protected, "{entry:?}");
        }
    }
}
