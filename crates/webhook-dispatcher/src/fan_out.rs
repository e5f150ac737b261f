//! Turns an event into one delivery for each webhook that wants it.

use chrono::{DateTime, Utc};
use sluice_bus::{Cause, Outcome};
use sluice_domain::resources::Webhook;
use sluice_events::commands::DeliverEvent;
use sluice_events::subject;
use sluice_events::{Event, EventId};
use sluice_state::{Snapshot, key};

use crate::delivery::record;
use crate::error::Error;
use crate::handler::Dispatcher;

impl Dispatcher {
    /// Publishes one command for each endpoint, unless the delivery is recorded already.
    pub(crate) async fn fan_out(&self, event: &Event, cause: &Cause) -> Result<Outcome, Error> {
        let event_id: EventId = cause.id.parse().map_err(|_| Error::Id)?;
        let catalog = self.catalog.current();
        let mut outcome = Outcome::done();
        for webhook in webhooks_for(&catalog, event, cause.time) {
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
            let endpoint = subject::encode(webhook.name.as_str());
            let id = EventId::of("sluice.events.v1.DeliverEvent", &endpoint, &cause.id);
            let (state, recorded, name) = (self.state.clone(), command.clone(), event.name());
            outcome = outcome
                .command(command, id, format!("{}/{endpoint}", cause.id))
                .then(async move { record::record_planned(&state, &recorded, name).await });
        }
        Ok(outcome)
    }
}

/// Returns the webhooks that want an event and were not created after it.
fn webhooks_for<'a>(
    catalog: &'a Snapshot,
    event: &Event,
    time: DateTime<Utc>,
) -> impl Iterator<Item = &'a Webhook> {
    let repositories: Vec<String> = event
        .repositories()
        .iter()
        .map(ToString::to_string)
        .collect();
    let name = event.name();
    catalog.webhooks.values().filter(move |webhook| {
        let since = catalog.webhooks_since.get(&webhook.name);
        // Events have times in milliseconds.
        let is_older =
            since.is_some_and(|since| since.timestamp_millis() > time.timestamp_millis());
        !is_older && webhook.wants(name, repositories.iter().map(String::as_str))
    })
}

#[cfg(test)]
mod tests {
    use sluice_domain::resources::{Resource, parse_documents};
    use sluice_events::facts::{ImagePromoted, ResourceApplied, WebhookFailed};
    use sluice_events::{Decode as _, Message};

    use super::*;
    use crate::handler::Input;

    fn catalog(yaml: &str) -> Snapshot {
        let mut catalog = Snapshot::default();
        for document in parse_documents(yaml).unwrap() {
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
        webhooks_for(catalog, event, time)
            .map(|webhook| webhook.name.to_string())
            .collect()
    }

    #[test]
    fn webhooks_select_events_by_name_and_by_source_or_target() {
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
    fn a_remote_target_is_selected_with_its_registry_and_not_as_a_local_repository() {
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
    fn a_webhook_gets_no_event_older_than_itself() {
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
    fn events_about_deliveries_are_never_delivered() {
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
