//! Finds overdue polls in the state.

use chrono::{DateTime, TimeDelta, Utc};
use sluice_domain::resources::Mirror;
use sluice_events::commands::PollMirror;
use sluice_events::time_from_wire;
use sluice_events::wire::state::UpstreamPoll;
use sluice_state::key;
use sluice_state::reconcile::ReconcilePage;

use crate::error::Error;
use crate::handler::Poller;
use crate::poll::report_metrics;

/// How much later than its interval a poll may end.
const TOLERANCE: TimeDelta = TimeDelta::minutes(2);

impl Poller {
    /// Checks every mirror: there are as many as resources, so one page has them all.
    pub(crate) async fn find_overdue_polls(&self) -> Result<ReconcilePage, Error> {
        let catalog = self.catalog.current();
        let mut page = ReconcilePage::default();
        for mirror in catalog.mirrors.values().filter(|mirror| mirror.enabled) {
            let poll = self.state.polls.get(&key::poll(&mirror.name)).await?;
            let poll = poll.map(|entry| entry.value);
            if let Some(poll) = &poll {
                report_metrics(poll);
            }
            page.checked += 1;
            if is_overdue(mirror, poll.as_ref(), sluice_domain::now()) {
                let command = PollMirror {
                    mirror: mirror.name.clone(),
                    urgent: false,
                };
                page.commands.push(command.into());
            }
        }
        Ok(page)
    }
}

fn is_overdue(mirror: &Mirror, poll: Option<&UpstreamPoll>, now: DateTime<Utc>) -> bool {
    let every = TimeDelta::from_std(mirror.every.duration()).unwrap_or(TimeDelta::MAX);
    let ended = time_from_wire(poll.and_then(|poll| poll.polled_at.as_ref()));
    ended.is_none_or(|ended| now - ended > every.checked_add(&TOLERANCE).unwrap_or(every))
}

#[cfg(test)]
mod tests {
    use sluice_domain::resources::{Resource, parse_documents};
    use sluice_events::time_to_wire;

    use super::*;

    #[test]
    fn a_mirror_is_overdue_well_after_its_interval_or_if_it_was_never_polled() {
        let yaml = "kind: Mirror\nname: a\nfrom: docker.io/a/a\nto: hub/a\nevery: 15m\n";
        let Resource::Mirror(mirror) = parse_documents(yaml).unwrap().remove(0).resource else {
            panic!("no mirror");
        };
        let now = Utc::now();
        assert!(is_overdue(&mirror, None, now));
        for (minutes, overdue) in [(0, false), (15, false), (16, false), (18, true)] {
            let poll = UpstreamPoll {
                polled_at: Some(time_to_wire(now - TimeDelta::minutes(minutes))),
                ..Default::default()
            };
            assert_eq!(is_overdue(&mirror, Some(&poll), now), overdue, "{minutes}");
        }
    }
}
