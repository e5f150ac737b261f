//! The backlog of a stage: messages that it has still to process, which a search for missing work leaves alone.

use std::ops::ControlFlow;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use chrono::{DateTime, TimeDelta, Utc};
use sluice_domain::now;
use sluice_events::{Message, headers};

use super::consumer_position::ConsumerPosition;
use super::reader::drain_pending;
use super::schedules::SPEC;
use crate::connection::Bus;
use crate::connection::headers::header;
use crate::error::Error;
use crate::topology::{EVENTS, SCHEDULE, Stage};

/// How late a delayed copy may fire; one that is later never fires.
const MAX_DELAY: TimeDelta = TimeDelta::minutes(10);

impl Bus {
    /// Passes on the backlog of a stage as far as it can be decoded, until `visit` breaks: events from the first that is
    /// not acknowledged, and delayed copies. A simulation has none.
    ///
    /// Commands that were not delayed are left out, and so are redriven dead letters.
    pub async fn backlog(
        &self,
        stage: &Stage,
        mut visit: impl FnMut(Message) -> ControlFlow<()> + Send,
    ) -> Result<(), Error> {
        if self.is_simulated() {
            return Ok(());
        }
        // A delayed copy is stored before its event is acknowledged, so events are read first.
        let events = self.pending_events(stage, &mut visit);
        let flow = self.violations.fail_on(&[EVENTS], events).await?;
        if flow.is_break() {
            return Ok(());
        }
        let copies = self.delayed_copies(stage, &mut visit);
        self.violations.fail_on(&[stage.schedules], copies).await
    }

    async fn pending_events(
        &self,
        stage: &Stage,
        visit: &mut (impl FnMut(Message) -> ControlFlow<()> + Send),
    ) -> Result<ControlFlow<()>, Error> {
        let positions = self.consumer_positions(stage).await?;
        let has_events =
            |position: &&ConsumerPosition| position.stream == EVENTS && position.has_backlog();
        let Some(position) = positions.iter().find(has_events) else {
            return Ok(ControlFlow::Continue(()));
        };
        let start_sequence = position.floor.saturating_add(1);
        for filter in stage.events {
            let from = DeliverPolicy::ByStartSequence { start_sequence };
            let consumer = self.ordered_consumer(EVENTS, filter, from).await?;
            let mut flow = ControlFlow::Continue(());
            drain_pending(consumer, "read", EVENTS, |event| {
                let type_name = header(event.headers.as_ref(), headers::TYPE).unwrap_or_default();
                if let Ok(message) = Message::decode(&type_name, &event.payload) {
                    flow = visit(message);
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

    /// Reads the stream of the stage's schedules once: a message that is written meanwhile comes at its end.
    async fn delayed_copies(
        &self,
        stage: &Stage,
        visit: &mut (impl FnMut(Message) -> ControlFlow<()> + Send),
    ) -> Result<(), Error> {
        let stream = self.stream_handle(stage.schedules).await?;
        let mut next = 1;
        loop {
            let copy = match stream.get_first_raw_message_by_subject(">", next).await {
                Ok(copy) => copy,
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                    return Ok(());
                }
                Err(error) => return Err(Error::server("read schedules", stage.schedules)(error)),
            };
            next = copy.sequence + 1;
            let read = |name| header(Some(&copy.headers), name);
            let is_schedule = copy.subject.starts_with(SCHEDULE);
            if is_schedule && read(SPEC).is_some_and(|spec| is_overdue(&spec, now())) {
                continue;
            }
            let type_name = read(headers::TYPE).unwrap_or_default();
            if let Ok(message) = Message::decode(&type_name, &copy.payload)
                && visit(message).is_break()
            {
                return Ok(());
            }
        }
    }
}

/// Says whether a schedule should have fired so long ago that it never will.
fn is_overdue(spec: &str, now: DateTime<Utc>) -> bool {
    let at = spec.strip_prefix("@at ").map(str::parse::<DateTime<Utc>>);
    at.is_some_and(|at| at.is_ok_and(|at| at + MAX_DELAY < now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::schedules::at;

    #[test]
    fn a_copy_that_is_long_overdue_never_fires() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        assert!(!is_overdue(&at(now), now) && !is_overdue(&at(now - MAX_DELAY), now));
        assert!(is_overdue(
            &at(now - MAX_DELAY - TimeDelta::seconds(1)),
            now
        ));
        assert!(!is_overdue("@every 1h", now) && !is_overdue("@at whenever", now));
    }
}
