//! Finds deliveries that are planned, neither made nor given up, and in no queue.
//!
//! Their events are in the log alone. A delivery whose event the log lost cannot be made; it is only counted.

use std::collections::BTreeMap;

use sluice_bus::topology::{PULLS, WEBHOOK_DISPATCHER};
use sluice_bus::{Fact, StageStatus};
use sluice_domain::ResourceName;
use sluice_events::commands::{DeliverEvent, Reconcile};
use sluice_events::subject::FACTS;
use sluice_events::wire::state::Delivery;
use sluice_state::reconcile::{Next, PAGE, ReconcilePage};
use sluice_telemetry::metrics;

use crate::error::Error;
use crate::handler::Dispatcher;

impl Dispatcher {
    /// Checks a page of the deliveries.
    pub(crate) async fn find_open_deliveries(
        &self,
        command: &Reconcile,
    ) -> Result<ReconcilePage, Error> {
        let entries = self
            .state
            .deliveries
            .page("*.*", command.after, PAGE)
            .await?;
        let mut page = ReconcilePage {
            checked: entries.entries.len(),
            counted: command.counted,
            next: Next::after(entries.next, Next::End),
            ..ReconcilePage::default()
        };
        let open: Vec<Delivery> = entries
            .entries
            .into_iter()
            .map(|entry| entry.value)
            .filter(|delivery| !delivery.delivered && !delivery.given_up)
            .collect();
        // While deliveries are queued, the open ones may be among them.
        if !open.is_empty() && self.is_idle().await? {
            let events = self.logged_events(&open).await?;
            for delivery in &open {
                let event = events.get(&delivery.event_id);
                match event.and_then(|event| delivery_command(delivery, event)) {
                    Some(command) => {
                        let id = format!("{}/{}", delivery.event_id, delivery.endpoint);
                        page.distinct_commands.push((command.into(), id));
                    }
                    None => page.counted += 1,
                }
            }
        }
        if page.next == Next::End {
            let lost = page.counted;
            if lost > 0 {
                tracing::warn!(
                    lost,
                    "open deliveries cannot be made: the log lost their events"
                );
            }
            let lost = u32::try_from(lost).unwrap_or(u32::MAX);
            metrics::DELIVERIES_LOST.set(f64::from(lost), &[]);
        }
        Ok(page)
    }

    /// Says whether no delivery is queued; this reconciliation itself is in flight.
    async fn is_idle(&self) -> Result<bool, Error> {
        let all = self.bus.status_of(&WEBHOOK_DISPATCHER).await;
        let all = all.map_err(sluice_state::Error::from)?;
        let left = |status: &StageStatus| status.waiting + status.in_flight + status.later;
        // Events of pulls that are not fanned out have no delivery yet, and there may always be some.
        let others = all.iter().filter(|status| status.stream != PULLS);
        Ok(others.map(left).sum::<u64>() <= 1)
    }

    /// Returns the events of deliveries that the log still has, by id.
    async fn logged_events(&self, open: &[Delivery]) -> Result<BTreeMap<String, Fact>, Error> {
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

fn delivery_command(delivery: &Delivery, fact: &Fact) -> Option<DeliverEvent> {
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
