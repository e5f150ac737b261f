//! The handler of the stage: events to fan out, commands to deliver, and reconciliation.

use sluice_bus::{Bus, Cause, Handler, Outcome, topology};
use sluice_events::commands::{DeliverEvent, Reconcile};
use sluice_events::{Command, Decode, Event, Message, UnexpectedMessage};
use sluice_service::Secrets;
use sluice_state::reconcile::ensure_no_pending_events;
use sluice_state::{Catalog, State};
use sluice_telemetry::context::TraceUrl;

use crate::delivery::client::Clients;
use crate::delivery::endpoint_limits::EndpointLimits;
use crate::error::Error;

/// Delivers events to the endpoints of webhooks.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    pub(crate) bus: Bus,
    pub(crate) state: State,
    pub(crate) catalog: Catalog,
    pub(crate) secrets: Secrets,
    pub(crate) clients: Clients,
    pub(crate) endpoint_limits: EndpointLimits,
    pub(crate) max_attempts: u32,
    pub(crate) trace_url: TraceUrl,
}

/// A message that the stage handles.
#[derive(Debug)]
pub(crate) enum Input {
    Event(Event),
    Deliver(DeliverEvent),
    Reconcile(Reconcile),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, UnexpectedMessage> {
        match message {
            // Deliveries of events about deliveries would never end.
            Message::Event(Event::WebhookDelivered(_) | Event::WebhookFailed(_)) => {
                Err(message.unexpected())
            }
            Message::Event(event) => Ok(Self::Event(event)),
            Message::Command(Command::DeliverEvent(command)) => Ok(Self::Deliver(command)),
            Message::Command(Command::Reconcile(command)) => Ok(Self::Reconcile(command)),
            Message::Command(_) => Err(message.unexpected()),
        }
    }
}

impl Handler for Dispatcher {
    type Input = Input;
    type Error = Error;

    const SPAN: &'static str = sluice_telemetry::span::DELIVER;

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, Error> {
        match input {
            Input::Event(event) => self.fan_out(&event, cause).await,
            Input::Deliver(command) => self.deliver(command, cause).await,
            Input::Reconcile(command) => {
                ensure_no_pending_events(&self.bus, &topology::WEBHOOK_DISPATCHER, &command, cause)
                    .await?;
                let page = self.find_open_deliveries(&command).await?;
                Ok(page.into_outcome(&self.state, &command, cause))
            }
        }
    }
}
