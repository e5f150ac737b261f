//! The pruner: runs retention in one repository per message.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use chrono::TimeDelta;
use sluice_bus::{Bus, Cause, Handler, Outcome, topology};
use sluice_domain::{Class, Classify as _, Repository, ResourceName};
use sluice_events::commands::{PruneRepositories, Reconcile};
use sluice_events::{Command, Decode, Event, Message, UnexpectedMessage};
use sluice_registry::Client;
use sluice_state::reconcile::ensure_no_pending_events;
use sluice_state::{Catalog, Snapshot, State, TagWriter};

use crate::error::Error;
use crate::reconcile::check_tags;
use crate::request::request_run;
use crate::run::RetentionRun;
use crate::run::policy::enabled_policy;
use crate::run::protection::is_promotion_target;

/// How soon a registry that cannot be reached is asked again.
const RETRY_UNREACHABLE_AFTER: Duration = Duration::from_secs(10);
/// How long a run of a policy waits for the registry; its schedule starts the next one anyway.
const POLICY_RUN_WAITS: TimeDelta = TimeDelta::hours(1);
/// How long any other run waits for the registry.
const LIMIT_RUN_WAITS: TimeDelta = TimeDelta::hours(24);

/// Plans retention and carries it out.
#[derive(Debug)]
pub struct Pruner {
    bus: Bus,
    state: State,
    catalog: Catalog,
    registry: Client,
    tags: TagWriter,
}

/// What the pruner works on.
#[derive(Debug)]
pub enum Input {
    /// A tag was mirrored into a repository.
    Mirrored(Repository),
    /// A run is requested, by a person or a schedule.
    Prune(PruneRepositories),
    /// Missing work is to be found.
    Reconcile(Reconcile),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, UnexpectedMessage> {
        match message {
            Message::Event(Event::TagMirrored(event)) => Ok(Self::Mirrored(event.repository)),
            Message::Command(Command::PruneRepositories(command)) => Ok(Self::Prune(command)),
            Message::Command(Command::Reconcile(command)) => Ok(Self::Reconcile(command)),
            other => Err(other.unexpected()),
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
            Input::Prune(PruneRepositories {
                policy,
                repository: Some(repository),
            }) => (repository, policy),
            Input::Prune(PruneRepositories {
                policy,
                repository: None,
            }) => return self.fan_out(&catalog, policy.as_ref(), cause).await,
            Input::Reconcile(command) => {
                ensure_no_pending_events(&self.bus, &topology::PRUNER, &command, cause).await?;
                let page = check_tags(&self.state, &self.tags, &catalog, &command).await?;
                return Ok(page.into_outcome(&self.state, &command, cause));
            }
        };
        let run = RetentionRun {
            state: &self.state,
            registry: &self.registry,
            tags: &self.tags,
            catalog: &catalog,
            repository: &repository,
            policy: policy.as_ref(),
            cause,
        };
        match run.execute().await {
            Ok(outcome) => Ok(outcome),
            Err(error) => postpone(error, policy.is_some(), cause),
        }
    }
}

impl Pruner {
    /// Makes the pruner, with the account that deletes in staging; a claim of a tag lapses after this long.
    #[must_use]
    pub fn new(
        bus: Bus,
        state: State,
        catalog: Catalog,
        registry: Client,
        claim: Duration,
    ) -> Self {
        let tags = TagWriter::new(state.clone(), catalog.clone(), registry.clone())
            .with_claim_duration(claim);
        Self {
            bus,
            state,
            catalog,
            registry,
            tags,
        }
    }

    /// Requests a run for each repository by itself, so that one that fails holds up no other.
    async fn fan_out(
        &self,
        catalog: &Snapshot,
        policy: Option<&ResourceName>,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        let mut repositories: BTreeSet<Repository> = BTreeSet::new();
        let listed = self.state.tags.each(">", |_, entry| {
            let entry = entry.filter(|entry| !entry.value.digest.is_empty());
            repositories.extend(entry.and_then(|entry| entry.value.repository.parse().ok()));
            ControlFlow::Continue(())
        });
        listed.await?;
        let mut outcome = Outcome::done();
        for repository in repositories {
            let is_selected = match policy {
                Some(name) => enabled_policy(catalog, name, &repository).is_some(),
                None => catalog.settings(&repository).keep.newest > 0,
            };
            if is_selected && !is_promotion_target(catalog, &repository) {
                outcome = request_run(outcome, policy, &repository, &cause.occurrence);
            }
        }
        Ok(outcome)
    }
}

/// Postpones a run while the registry cannot be reached; a repository that cannot be listed loses nothing.
fn postpone(error: Error, is_policy_run: bool, cause: &Cause) -> Result<Outcome, Error> {
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
    if is_policy_run && waited > POLICY_RUN_WAITS {
        tracing::warn!(error = %source, "the registry was unreachable for too long; the next run of the policy prunes the repository");
        return Ok(Outcome::done());
    }
    if waited > LIMIT_RUN_WAITS {
        return Err(source.into());
    }
    Err(Error::Unreachable {
        until: until.max(now + RETRY_UNREACHABLE_AFTER),
        source,
    })
}
