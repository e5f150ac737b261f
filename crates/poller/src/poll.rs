//! One poll of one mirror.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::{Cause, Handler, Outcome};
use sluice_domain::resources::Mirror;
use sluice_domain::{Class, Classify, RegistryHost};
use sluice_events::commands::{PollMirror, Reconcile};
use sluice_events::facts::{UpstreamPollFailed, UpstreamPollRecovered};
use sluice_events::wire::state::UpstreamPoll;
use sluice_events::{Command, Decode, EventId, Message, Unexpected, time_from_wire, time_to_wire};
use sluice_registry::{Client, Transport};
use sluice_service::Secrets;
use sluice_state::{Catalog, Pulls, RemoteClients, Snapshot, State, key};
use thiserror::Error;

use crate::tag_poll::Answers;
use crate::{backoff, reconcile};

/// How long one message asks at most.
const PART: Duration = Duration::from_secs(60);
/// How long after a part the next one may begin; then a tick goes on instead.
const LATE: TimeDelta = TimeDelta::minutes(5);

/// The stage.
#[derive(Debug)]
pub struct Poller {
    pub(crate) state: State,
    pub(crate) catalog: Catalog,
    pub(crate) parallel_heads: usize,
    /// How long one message asks; the rest of the tags is left to another one.
    pub(crate) part: Duration,
    remotes: RemoteClients,
}

/// What the stage works on.
#[derive(Debug)]
pub enum Input {
    /// A mirror is to be polled.
    Poll(PollMirror),
    /// Missing work is to be found.
    Reconcile(Reconcile),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, Unexpected> {
        match message {
            Message::Command(Command::PollMirror(command)) => Ok(Self::Poll(command)),
            Message::Command(Command::Reconcile(command)) => Ok(Self::Reconcile(command)),
            other => Err(other.unexpected()),
        }
    }
}

/// A poll that could not be recorded; an upstream that fails is a fact and no error.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct Error(#[from] sluice_state::Error);

impl Classify for Error {
    fn class(&self) -> Class {
        self.0.class()
    }
}

impl Handler for Poller {
    type Input = Input;
    type Error = Error;

    const SPAN: &'static str = sluice_telemetry::span::POLL;

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, Error> {
        match input {
            Input::Poll(command) => self.poll(&command, cause).await,
            Input::Reconcile(command) => {
                let found = self.missing().await?;
                Ok(found.into_outcome(&self.state, &command, cause))
            }
        }
    }
}

impl Poller {
    async fn poll(&self, command: &PollMirror, cause: &Cause) -> Result<Outcome, Error> {
        let name = &command.mirror;
        let catalog = self.catalog.current();
        let Some(mirror) = catalog.mirrors.get(name).filter(|mirror| mirror.enabled) else {
            tracing::info!(mirror = %name, "no such mirror is enabled; nothing to poll");
            return Ok(Outcome::done());
        };
        let poll = self.state.polls.get(&key::poll(&mirror.name)).await?;
        let until = poll
            .as_ref()
            .and_then(|poll| backoff::leave_alone_until(&poll.value, mirror.every.duration()));
        // Whoever asks for a poll gets it.
        if let Some(until) =
            until.filter(|until| cause.is_scheduled() && *until > sluice_domain::now())
        {
            tracing::debug!(mirror = %name, %until, "its upstream keeps failing; it is left alone");
            return Ok(Outcome::done());
        }
        let mut poll = poll.map(|entry| entry.value).unwrap_or_default();
        if cause.is_scheduled() && goes_on(&poll, sluice_domain::now()) {
            tracing::debug!(mirror = %name, after = poll.resume_after, "the poll before goes on");
            return Ok(Outcome::done());
        }
        let answers = self
            .ask(&catalog, mirror, command.urgent, &poll.resume_after)
            .await?;
        let Some(stopped_after) = answers.stopped_after.clone() else {
            return Ok(self.poll_outcome(mirror, poll, answers));
        };
        if let Some(reason) = answers.failure {
            poll.reason = reason;
        } else if poll.resume_after.is_empty() {
            poll.reason.clear();
        }
        poll.mirror = mirror.name.to_string();
        poll.polled_at = Some(time_to_wire(sluice_domain::now()));
        poll.resume_after = stopped_after;
        // Before the message that goes on can be taken up. What was found until here is told after that; should this
        // process die before, the entries of those tags say that it was not, and it is told with the next part.
        self.state.polls.put(&key::poll(name), &poll).await?;
        let id = format!("poll/{name}/{}/{}", cause.occurrence, poll.resume_after);
        let rest = command.clone();
        Ok(answers.outcome.command(rest, EventId::random(), id))
    }

    /// Makes the stage.
    #[must_use]
    pub fn new(state: State, catalog: Catalog, parallel_heads: usize) -> Self {
        Self {
            state,
            catalog,
            parallel_heads,
            part: PART,
            remotes: RemoteClients::default(),
        }
    }

    /// Lets one message ask for a quarter of the time that it may take, so that what it found is told within that.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.part = PART.min(limit / 4);
        self
    }

    /// Reaches upstream registries in another way than over the wire.
    #[must_use]
    pub fn reaching(mut self, transport: Transport) -> Self {
        self.remotes = self.remotes.reaching(transport);
        self
    }

    /// Takes the secrets that `Registry` resources name from this folder.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Secrets) -> Self {
        self.remotes = self.remotes.with_secrets(secrets);
        self
    }

    pub(crate) fn client(&self, catalog: &Snapshot, host: &RegistryHost) -> anyhow::Result<Client> {
        let budgets = &self.state.budgets;
        self.remotes
            .client(budgets, catalog, host, Pulls::Background)
    }

    fn poll_outcome(&self, mirror: &Mirror, mut poll: UpstreamPoll, answers: Answers) -> Outcome {
        let mut outcome = answers.outcome;
        let of_earlier_parts = std::mem::take(&mut poll.reason);
        let is_last_part = !poll.resume_after.is_empty() && !of_earlier_parts.is_empty();
        let failure = answers
            .failure
            .or_else(|| is_last_part.then_some(of_earlier_parts));
        if answers.is_listed {
            poll.resume_after.clear();
        }
        let failed_before = poll.failures;
        poll.mirror = mirror.name.to_string();
        poll.polled_at = Some(time_to_wire(sluice_domain::now()));
        poll.tags_selected = u64::try_from(answers.selected).unwrap_or(u64::MAX);
        poll.reason = failure.clone().unwrap_or_default();
        match &failure {
            Some(reason) => {
                poll.failures += 1;
                tracing::warn!(mirror = %mirror.name, reason, failures = poll.failures, "the poll failed");
                if !poll.failure_announced {
                    poll.failure_announced = true;
                    outcome = outcome.fact(UpstreamPollFailed {
                        mirror: mirror.name.clone(),
                        source: mirror.from.clone(),
                        repository: mirror.to.clone(),
                        reason: reason.clone(),
                        failures: poll.failures,
                    });
                }
            }
            None => {
                poll.failures = 0;
                poll.succeeded_at = poll.polled_at;
                if std::mem::take(&mut poll.failure_announced) {
                    outcome = outcome.fact(UpstreamPollRecovered {
                        mirror: mirror.name.clone(),
                        source: mirror.from.clone(),
                        repository: mirror.to.clone(),
                        failures: failed_before,
                    });
                }
            }
        }
        reconcile::tell(&poll);
        let (polls, key) = (self.state.polls.clone(), key::poll(&mirror.name));
        outcome.then(async move { polls.put(&key, &poll).await.map(drop) })
    }
}

/// Says whether another message is about to ask for the tags that a poll has not come to.
fn goes_on(poll: &UpstreamPoll, now: DateTime<Utc>) -> bool {
    let ended = time_from_wire(poll.polled_at.as_ref());
    !poll.resume_after.is_empty() && ended.is_some_and(|ended| now - ended < LATE)
}
