//! The handler of the stage: a command to poll a mirror, or to reconcile.

use std::time::Duration;

use sluice_bus::{Cause, Handler, Outcome};
use sluice_domain::RegistryHost;
use sluice_events::commands::{PollMirror, Reconcile};
use sluice_events::{Command, Decode, Message, UnexpectedMessage};
use sluice_registry::{Client, Transport};
use sluice_service::Secrets;
use sluice_state::{Catalog, Pulls, RemoteClients, Snapshot, State};

use crate::error::Error;

/// How long one message polls at most.
const MAX_PART: Duration = Duration::from_secs(60);

/// Polls the upstream tags of mirrors.
#[derive(Debug)]
pub struct Poller {
    pub(crate) state: State,
    pub(crate) catalog: Catalog,
    /// How many HEAD requests one poll has in flight.
    pub(crate) parallel_heads: usize,
    /// How long one message polls; the rest of the tags is left to the next message.
    pub(crate) max_part: Duration,
    remotes: RemoteClients,
}

/// A message that the stage handles.
#[derive(Debug)]
pub enum Input {
    /// Poll a mirror.
    Poll(PollMirror),
    /// Find polls that were missed.
    Reconcile(Reconcile),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, UnexpectedMessage> {
        match message {
            Message::Command(Command::PollMirror(command)) => Ok(Self::Poll(command)),
            Message::Command(Command::Reconcile(command)) => Ok(Self::Reconcile(command)),
            other => Err(other.unexpected()),
        }
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
                let page = self.find_overdue_polls().await?;
                Ok(page.into_outcome(&self.state, &command, cause))
            }
        }
    }
}

impl Poller {
    /// Creates the stage.
    #[must_use]
    pub fn new(state: State, catalog: Catalog, parallel_heads: usize) -> Self {
        Self {
            state,
            catalog,
            parallel_heads,
            max_part: MAX_PART,
            remotes: RemoteClients::default(),
        }
    }

    /// Sets the time limit of one message; a quarter of it is for requests, the rest for publishing what they found.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.max_part = MAX_PART.min(limit / 4);
        self
    }

    /// Uses another transport to upstream registries than HTTP connections.
    #[must_use]
    pub fn with_transport(mut self, transport: Transport) -> Self {
        self.remotes = self.remotes.with_transport(transport);
        self
    }

    /// Sets the folder of the secrets that `Registry` resources name.
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
}
