//! Deliveries that were asked for, are neither done nor given up, and wait nowhere.
//!
//! What they would tell is in the log alone. What the log lost too cannot be delivered any more; that is only counted.

use std::collections::BTreeMap;

use sluice_bus::topology::{PULLS, WEBHOOK_DISPATCHER};
use sluice_bus::{Fact, StageStatus};
use sluice_domain::ResourceName;
use sluice_events::commands::{DeliverEvent, Reconcile};
use sluice_events::subject::FACTS;
use sluice_events::wire::state::Delivery;
use sluice_state::reconcile::{Next, PAGE, ReconcilePage};
use sluice_telemetry::metrics;

use crate::dispatch::{Dispatcher, Error};

impl Dispatcher {
    /// Looks at a page of the deliveries.
    pub(crate) async fn missing(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        let page = self
            .state
            .deliveries
            .page("*.*", command.after, PAGE)
            .await?;
        let mut found = ReconcilePage {
            checked: page.entries.len(),
            counted: command.counted,
            next: Next::after(page.next, Next::End),
            ..ReconcilePage::default()
        };
        let open: Vec<Delivery> = page
            .entries
            .into_iter()
            .map(|entry| entry.value)
            .filter(|delivery| !delivery.delivered && !delivery.given_up)
            .collect();
        // While others wait, these may be among them.
        if !open.is_empty() && self.is_idle().await? {
            let facts = self.facts(&open).await?;
            for delivery in &open {
                match facts
                    .get(&delivery.event_id)
                    .and_then(|fact| again(delivery, fact))
                {
                    Some(command) => {
                        let id = format!("{}/{}", delivery.event_id, delivery.endpoint);
                        found.distinct_commands.push((command.into(), id));
                    }
                    None => found.counted += 1,
                }
            }
        }
        if found.next == Next::End {
            let lost = found.counted;
            if lost > 0 {
                tracing::warn!(
                    lost,
                    "deliveries cannot be made: the log no longer has their events"
                );
            }
            let lost = u32::try_from(lost).unwrap_or(u32::MAX);
            metrics::DELIVERIES_LOST.set(f64::from(lost), &[]);
        }
        Ok(found)
    }

    /// Says whether no delivery waits, now or later; the search itself is being worked on.
    async fn is_idle(&self) -> Result<bool, Error> {
        let all = self.bus.status_of(&WEBHOOK_DISPATCHER).await;
        let all = all.map_err(sluice_state::Error::from)?;
        let left = |status: &StageStatus| status.waiting + status.in_flight + status.later;
        // Pulls that nobody has looked at have no delivery yet, and there may always be some.
        let others = all.iter().filter(|status| status.stream != PULLS);
        Ok(others.map(left).sum::<u64>() <= 1)
    }

    /// Returns the events of deliveries that the log still has.
    async fn facts(&self, open: &[Delivery]) -> Result<BTreeMap<String, Fact>, Error> {
        let mut names: Vec<&str> = open.iter().map(|open| open.event_name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let mut found = BTreeMap::new();
        for name in names {
            let filter = FACTS.replace('>', &format!("{name}.>"));
            let facts = self.bus.facts(&filter).await;
            for fact in facts.map_err(sluice_state::Error::from)? {
                if open.iter().any(|open| open.event_id == fact.id) {
                    found.insert(fact.id.clone(), fact);
                }
            }
        }
        Ok(found)
    }
}

fn again(delivery: &Delivery, fact: &Fact) -> Option<DeliverEvent> {
    let event = fact.event.as_ref()?;
    let endpoint: ResourceName = delivery.endpoint.parse().ok()?;
    Some(DeliverEvent {
        endpoint,
        event_id: delivery.event_id.parse().ok()?,
        event_type: event.type_name().to_owned(),
        event_time: fact.at?,
        payload: event.encode(),
        event_source: fact.source.clone(),
    })
}
