//! What a stage has before it: whoever looks for missing work leaves that alone.

use std::ops::ControlFlow;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use chrono::{DateTime, TimeDelta, Utc};
use sluice_domain::now;
use sluice_events::{Message, headers};

use crate::backend::Link;
use crate::connect::Bus;
use crate::envelope::header;
use crate::error::Error;
use crate::read::to_the_end;
use crate::schedules::SPEC;
use crate::topology::{EVENTS, SCHEDULE, Stage};

/// So much later than it should have, a copy that was put off fires no more.
const LOST: TimeDelta = TimeDelta::minutes(10);

impl Bus {
    /// Shows what a stage has before it, as far as it can be read: events of which the first is not done, and what it put
    /// off, until `take` has enough. A bus that leads to no server keeps none.
    ///
    /// What it is asked for and has not put off is left out, and so are dead letters that are driven again.
    ///
    /// # Errors
    /// A server that does not answer, or a user who may not read it.
    pub async fn backlog(
        &self,
        stage: &Stage,
        mut take: impl FnMut(Message) -> ControlFlow<()> + Send,
    ) -> Result<(), Error> {
        if matches!(self.link, Link::Simulated(_)) {
            return Ok(());
        }
        // An event is put off before it is acknowledged: read in this order, none slips past.
        let events = self.events_left(stage, &mut take);
        if self
            .denials
            .fail_on_permission_violation(&[EVENTS], events)
            .await?
            .is_break()
        {
            return Ok(());
        }
        let put_off = self.put_off(stage, &mut take);
        self.denials
            .fail_on_permission_violation(&[stage.schedules], put_off)
            .await
    }

    async fn events_left(
        &self,
        stage: &Stage,
        take: &mut (impl FnMut(Message) -> ControlFlow<()> + Send),
    ) -> Result<ControlFlow<()>, Error> {
        let looks = self.look(stage).await?;
        let left = |look: &&crate::ConsumerPosition| look.stream == EVENTS && look.has_backlog();
        let Some(events) = looks.iter().find(left) else {
            return Ok(ControlFlow::Continue(()));
        };
        let start_sequence = events.floor.saturating_add(1);
        for filter in stage.events {
            let from = DeliverPolicy::ByStartSequence { start_sequence };
            let consumer = self.reader(EVENTS, filter, from).await?;
            let mut flow = ControlFlow::Continue(());
            to_the_end(consumer, "read", EVENTS, |event| {
                let type_name = header(event.headers.as_ref(), headers::TYPE).unwrap_or_default();
                if let Ok(message) = Message::decode(&type_name, &event.payload) {
                    flow = take(message);
                }
                flow
            })
            .await?;
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Reads the stage's schedules once through: what moves meanwhile, moves to the end.
    async fn put_off(
        &self,
        stage: &Stage,
        take: &mut (impl FnMut(Message) -> ControlFlow<()> + Send),
    ) -> Result<(), Error> {
        let action = "read schedules";
        let stream = self
            .server()?
            .get_stream_no_info(stage.schedules)
            .await
            .map_err(Error::server(action, stage.schedules))?;
        let mut next = 1;
        loop {
            let copy = match stream.get_first_raw_message_by_subject(">", next).await {
                Ok(copy) => copy,
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                    return Ok(());
                }
                Err(error) => return Err(Error::server(action, stage.schedules)(error)),
            };
            next = copy.sequence + 1;
            let read = |name| header(Some(&copy.headers), name);
            let waits = copy.subject.starts_with(SCHEDULE);
            if waits && read(SPEC).is_some_and(|spec| is_lost(&spec, now())) {
                continue;
            }
            let type_name = read(headers::TYPE).unwrap_or_default();
            if let Ok(message) = Message::decode(&type_name, &copy.payload)
                && take(message).is_break()
            {
                return Ok(());
            }
        }
    }
}

/// Says whether a schedule should have fired long ago.
fn is_lost(spec: &str, now: DateTime<Utc>) -> bool {
    let at = spec.strip_prefix("@at ").map(str::parse::<DateTime<Utc>>);
    at.is_some_and(|at| at.is_ok_and(|at| at + LOST < now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedules::at;

    #[test]
    fn what_should_have_fired_long_ago_comes_no_more() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        assert!(!is_lost(&at(now), now) && !is_lost(&at(now - LOST), now));
        assert!(is_lost(&at(now - LOST - TimeDelta::seconds(1)), now));
        assert!(!is_lost("@every 1h", now) && !is_lost("@at whenever", now));
    }
}
