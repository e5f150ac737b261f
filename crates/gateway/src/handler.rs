//! The handler of the gateway's messages: tags that clients push and delete, and reconciliation with the registry.

use sluice_bus::{Bus, Cause, Handler, Outcome};
use sluice_events::commands::Reconcile;
use sluice_events::{Command, Decode, Event, Message, UnexpectedMessage};
use sluice_registry::Client;
use sluice_state::{Catalog, State, TagWriter};

use crate::error::Error;
use crate::notifications::observed_tag::ObservedTag;

/// Records what clients change in the internal registry.
#[derive(Debug)]
pub(crate) struct RegistryObserver {
    pub(crate) bus: Bus,
    pub(crate) state: State,
    pub(crate) catalog: Catalog,
    pub(crate) registry: Client,
    pub(crate) tags: TagWriter,
}

/// A message that the gateway handles.
#[derive(Debug)]
pub(crate) enum Input {
    /// Compare the registry with the state.
    Reconcile(Reconcile),
    /// A client pushed or deleted a tag.
    Observed(ObservedTag),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, UnexpectedMessage> {
        match message {
            Message::Command(Command::Reconcile(command)) => Ok(Self::Reconcile(command)),
            Message::Event(Event::TagPushed(event)) => Ok(Self::Observed(event.into())),
            Message::Event(Event::TagDeleted(event)) => Ok(Self::Observed(event.into())),
            other => Err(other.unexpected()),
        }
    }
}

impl Handler for RegistryObserver {
    type Input = Input;
    type Error = Error;

    const SPAN: &'static str = sluice_telemetry::span::COMPARE;

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, Error> {
        match input {
            Input::Observed(tag) => self.record_tag(tag, cause).await,
            Input::Reconcile(command) => self.reconcile(&command, cause).await,
        }
    }
}
