//! The stage: a fact becomes one delivery for each endpoint that wants it.

use chrono::{DateTime, Utc};
use sluice_bus::{Bus, Cause, Handler, Outcome, topology};
use sluice_domain::resources::Webhook;
use sluice_domain::{Class, Classify, ResourceName};
use sluice_events::commands::{DeliverEvent, Reconcile};
use sluice_events::subject::token;
use sluice_events::{Command, Decode, Event, EventId, Message, Unexpected};
use sluice_service::Secrets;
use sluice_state::reconcile::ensure_no_pending_events;
use sluice_state::{Catalog, Snapshot, State, key};
use thiserror::Error;

use crate::client::{Clients, Fault};
use crate::endpoint_limits::Lanes;
use crate::record;

/// The stage.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    pub(crate) bus: Bus,
    pub(crate) state: State,
    pub(crate) catalog: Catalog,
    pub(crate) secrets: Secrets,
    pub(crate) clients: Clients,
    pub(crate) lanes: Lanes,
    pub(crate) attempts: u32,
}

/// What the stage works on.
#[derive(Debug)]
pub(crate) enum Input {
    Fact(Event),
    Deliver(DeliverEvent),
    Reconcile(Reconcile),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, Unexpected> {
        match message {
            // Told of its own deliveries, an endpoint would never come to rest.
            Message::Event(Event::WebhookDelivered(_) | Event::WebhookFailed(_)) => {
                Err(message.unexpected())
            }
            Message::Event(event) => Ok(Self::Fact(event)),
            Message::Command(Command::DeliverEvent(command)) => Ok(Self::Deliver(command)),
            Message::Command(Command::Reconcile(command)) => Ok(Self::Reconcile(command)),
            Message::Command(_) => Err(message.unexpected()),
        }
    }
}

/// Why an event was not delivered.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(transparent)]
    State(#[from] sluice_state::Error),
    #[error("the event has no id by which it could be delivered once")]
    Id,
    #[error("the event `{id}` cannot be read")]
    Event {
        id: EventId,
        source: sluice_events::DecodeError,
    },
    #[error("`{type_name}` is no event that can be delivered")]
    Type { type_name: String },
    #[error("endpoint `{endpoint}` has no place free")]
    Busy {
        endpoint: ResourceName,
        until: DateTime<Utc>,
    },
    #[error("webhook `{endpoint}` is not known here yet")]
    Behind {
        endpoint: ResourceName,
        until: DateTime<Utc>,
    },
    #[error(
        "a secret of webhook `{endpoint}` cannot be used, and nothing is sent without it: {reason}"
    )]
    Secret {
        endpoint: ResourceName,
        reason: String,
        until: DateTime<Utc>,
    },
    #[error("endpoint `{endpoint}` answered {status}{hint}")]
    Answered {
        endpoint: ResourceName,
        status: reqwest::StatusCode,
        hint: &'static str,
        retry_after: Option<std::time::Duration>,
    },
    #[error("endpoint `{endpoint}` returned 410 Gone; disable the webhook")]
    Gone { endpoint: ResourceName },
    #[error("endpoint `{endpoint}` was not reached")]
    NoAnswer {
        endpoint: ResourceName,
        source: Fault,
    },
    #[error("given up after {attempts} attempts")]
    GivenUp { attempts: u32, source: Box<Self> },
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::State(error) => error.class(),
            Self::Busy { until, .. } | Self::Behind { until, .. } | Self::Secret { until, .. } => {
                Class::Unavailable { until: *until }
            }
            Self::Answered { retry_after, .. } => Class::Transient {
                after: *retry_after,
            },
            Self::NoAnswer { source, .. } => match source {
                Fault::Forbidden { .. } | Fault::Url(_) => Class::Permanent,
                Fault::Certificate { .. } | Fault::TimedOut | Fault::Unreachable(_) => {
                    Class::TRANSIENT
                }
            },
            Self::Id
            | Self::Event { .. }
            | Self::Type { .. }
            | Self::Gone { .. }
            | Self::GivenUp { .. } => Class::Permanent,
        }
    }
}

impl Handler for Dispatcher {
    type Input = Input;
    type Error = Error;

    const SPAN: &'static str = sluice_telemetry::span::DELIVER;

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, Error> {
        match input {
            Input::Fact(event) => self.fan_out(&event, cause).await,
            Input::Deliver(command) => self.deliver(command, cause).await,
            Input::Reconcile(command) => {
                ensure_no_pending_events(&self.bus, &topology::WEBHOOK_DISPATCHER, &command, cause)
                    .await?;
                let found = self.missing(&command).await?;
                Ok(found.into_outcome(&self.state, &command, cause))
            }
        }
    }
}

impl Dispatcher {
    /// Asks for one delivery per endpoint; one that was asked for before is left alone, however long ago that was.
    async fn fan_out(&self, event: &Event, cause: &Cause) -> Result<Outcome, Error> {
        let event_id: EventId = cause.id.parse().map_err(|_| Error::Id)?;
        let catalog = self.catalog.current();
        let mut outcome = Outcome::done();
        for webhook in wanting(&catalog, event, cause.time) {
            let key = key::delivery(&webhook.name, &cause.id);
            if self.state.deliveries.get(&key).await?.is_some() {
                continue;
            }
            let command = DeliverEvent {
                endpoint: webhook.name.clone(),
                event_id,
                event_type: event.type_name().to_owned(),
                event_time: cause.time,
                payload: event.encode(),
                event_source: cause.source.clone(),
            };
            let endpoint = token(webhook.name.as_str());
            let id = EventId::of("sluice.events.v1.DeliverEvent", &endpoint, &cause.id);
            let (state, planned, name) = (self.state.clone(), command.clone(), event.name());
            outcome = outcome
                .command(command, id, format!("{}/{endpoint}", cause.id))
                .then(async move { record::planned(&state, &planned, name).await });
        }
        Ok(outcome)
    }
}

/// Returns the webhooks that want an event and are no younger than it.
fn wanting<'a>(
    catalog: &'a Snapshot,
    event: &Event,
    time: DateTime<Utc>,
) -> impl Iterator<Item = &'a Webhook> {
    let repositories: Vec<String> = event
        .repositories()
        .into_iter()
        .map(ToString::to_string)
        .chain(event.remote_target().map(|target| target.to_string()))
        .collect();
    let name = event.name();
    catalog.webhooks.values().filter(move |webhook| {
        let since = catalog.webhooks_since.get(&webhook.name);
        // Times of events are told in milliseconds.
        let older = since.is_some_and(|since| since.timestamp_millis() > time.timestamp_millis());
        !older && webhook.wants(name, repositories.iter().map(String::as_str))
    })
}

#[cfg(test)]
mod tests {
    use sluice_domain::resources::{Resource, documents};
    use sluice_events::facts::{ImagePromoted, ResourceApplied, WebhookFailed};

    use super::*;

    fn catalog(yaml: &str) -> Snapshot {
        let mut catalog = Snapshot::default();
        for document in documents(yaml).unwrap() {
            if let Resource::Webhook(webhook) = document.resource {
                catalog.webhooks.insert(webhook.name.clone(), webhook);
            }
        }
        catalog
    }

    fn promoted() -> Event {
        ImagePromoted {
            policy: "p".parse().unwrap(),
            source: "hub/app".parse().unwrap(),
            source_tag: "1".parse().unwrap(),
            target: "official/app".parse().unwrap(),
            target_tag: "1".parse().unwrap(),
            digest: format!("sha256:{}", "0a".repeat(32)).parse().unwrap(),
            decided_at: Utc::now(),
            previous: None,
            registry: None,
        }
        .into()
    }

    fn names(catalog: &Snapshot, event: &Event, time: DateTime<Utc>) -> Vec<String> {
        wanting(catalog, event, time)
            .map(|webhook| webhook.name.to_string())
            .collect()
    }

    #[test]
    fn an_event_goes_to_those_who_want_it_by_name_and_by_source_or_target() {
        let catalog = catalog(
            "kind: Webhook\nname: all\nurl: https://a.example\nevents: ['*']\n---\n\
             kind: Webhook\nname: images\nurl: https://a.example\nevents: ['image.*']\n---\n\
             kind: Webhook\nname: off\nurl: https://a.example\nevents: ['*']\nenabled: false\n---\n\
             kind: Webhook\nname: other\nurl: https://a.example\nevents: ['*']\nrepositories: ['team/*']\n---\n\
             kind: Webhook\nname: scans\nurl: https://a.example\nevents: ['scan.*']\n---\n\
             kind: Webhook\nname: source\nurl: https://a.example\nevents: ['*']\nrepositories: ['hub/*']\n---\n\
             kind: Webhook\nname: target\nurl: https://a.example\nevents: ['*']\nrepositories: ['official/*']\n",
        );
        let now = Utc::now();
        assert_eq!(
            names(&catalog, &promoted(), now),
            ["all", "images", "source", "target"]
        );
        let applied = ResourceApplied {
            kind: "Mirror".to_owned(),
            name: "x".parse().unwrap(),
            revision: 1,
            removed: false,
            actor: String::new(),
        };
        assert_eq!(names(&catalog, &applied.into(), now), ["all"]);
    }

    #[test]
    fn a_remote_target_is_chosen_with_its_registry_and_taken_for_no_repository_here() {
        let catalog = catalog(
            "kind: Webhook\nname: here\nurl: https://a.example\nevents: ['*']\nrepositories: ['official/*']\n---\n\
             kind: Webhook\nname: there\nurl: https://a.example\nevents: ['*']\nrepositories: ['registry.example/official/*']\n",
        );
        let mut event = promoted();
        assert_eq!(names(&catalog, &event, Utc::now()), ["here"]);
        if let Event::ImagePromoted(fact) = &mut event {
            fact.registry = "registry.example".parse().ok();
        }
        assert_eq!(names(&catalog, &event, Utc::now()), ["there"]);
    }

    #[test]
    fn an_event_older_than_the_webhook_is_not_for_it() {
        let mut catalog =
            catalog("kind: Webhook\nname: all\nurl: https://a.example\nevents: ['*']\n");
        let since: DateTime<Utc> = "2026-11-24T12:00:00.0005Z".parse().unwrap();
        catalog.webhooks_since.insert("all".parse().unwrap(), since);
        let at = |text: &str| text.parse().unwrap();
        for (time, wanted) in [
            ("2026-11-24T11:59:59.999Z", 0),
            ("2026-11-24T12:00:00.000Z", 1),
            ("2026-11-24T12:00:01Z", 1),
        ] {
            assert_eq!(
                names(&catalog, &promoted(), at(time)).len(),
                wanted,
                "{time}"
            );
        }
    }

    #[test]
    fn the_fate_of_a_delivery_is_never_delivered() {
        let failed = WebhookFailed {
            endpoint: "all".parse().unwrap(),
            event_id: EventId::of("t", "k", "1"),
            event_name: "image.promoted".to_owned(),
            attempts: 1,
            status: 500,
            reason: String::new(),
        };
        assert!(Input::decode(Message::Event(failed.into())).is_err());
        assert!(Input::decode(Message::Event(promoted())).is_ok());
    }
}
