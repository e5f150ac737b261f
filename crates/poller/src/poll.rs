//! One poll of one mirror.

use std::collections::BTreeMap;
use std::sync::Mutex;

use sluice_bus::{Cause, Handler, Outcome};
use sluice_domain::resources::Mirror;
use sluice_domain::{Class, Classify, RegistryHost};
use sluice_events::commands::{PollMirror, Reconcile};
use sluice_events::facts::{UpstreamPollFailed, UpstreamPollRecovered};
use sluice_events::wire::state::UpstreamPoll;
use sluice_events::{Command, Decode, Message, Unexpected, time_to_wire};
use sluice_registry::{Client, Transport};
use sluice_state::{Catalog, Entry, Snapshot, State, budgeted_registry, key};
use thiserror::Error;

use crate::ask::Answers;
use crate::{patience, reconcile};

/// The stage.
#[derive(Debug)]
pub struct Poller {
    pub(crate) state: State,
    pub(crate) catalog: Catalog,
    pub(crate) parallel_heads: usize,
    transport: Transport,
    clients: Mutex<BTreeMap<RegistryHost, (u64, Client)>>,
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
            .and_then(|poll| patience::leave_alone_until(&poll.value, mirror.every.duration()));
        // Whoever asks for a poll gets it.
        if let Some(until) =
            until.filter(|until| cause.is_scheduled() && *until > sluice_domain::now())
        {
            tracing::debug!(mirror = %name, %until, "its upstream keeps failing; it is left alone");
            return Ok(Outcome::done());
        }
        let answers = self.ask(&catalog, mirror, command.urgent).await?;
        Ok(self.poll_outcome(mirror, poll, answers))
    }

    /// Makes the stage.
    #[must_use]
    pub fn new(state: State, catalog: Catalog, parallel_heads: usize) -> Self {
        Self {
            state,
            catalog,
            parallel_heads,
            transport: Transport::default(),
            clients: Mutex::default(),
        }
    }

    /// Reaches upstream registries in another way than over the wire.
    #[must_use]
    pub fn reaching(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Keeps one client per registry, and with it its tokens, until a resource or a certificate changes.
    pub(crate) fn client(&self, catalog: &Snapshot, host: &RegistryHost) -> anyhow::Result<Client> {
        let mut clients = self
            .clients
            .lock()
            .map_err(|_| anyhow::anyhow!("the list of clients is broken"))?;
        if let Some((_, client)) = clients
            .get(host)
            .filter(|(revision, client)| *revision == catalog.revision && client.is_current())
        {
            return Ok(client.clone());
        }
        let client = budgeted_registry(&self.state.budgets, catalog, host, &self.transport, false)?;
        clients.insert(host.clone(), (catalog.revision, client.clone()));
        Ok(client)
    }

    fn poll_outcome(
        &self,
        mirror: &Mirror,
        before: Option<Entry<UpstreamPoll>>,
        answers: Answers,
    ) -> Outcome {
        let mut outcome = answers.outcome;
        let mut poll = before.map(|entry| entry.value).unwrap_or_default();
        let failed_before = poll.failures;
        poll.mirror = mirror.name.to_string();
        poll.polled_at = Some(time_to_wire(sluice_domain::now()));
        poll.tags_selected = u64::try_from(answers.selected).unwrap_or(u64::MAX);
        poll.reason = answers.failure.clone().unwrap_or_default();
        match &answers.failure {
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
