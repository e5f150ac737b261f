//! What a stage has before it: whoever looks for missing work leaves that alone.

use std::ops::ControlFlow;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use sluice_events::{Message, headers};

use crate::backend::Link;
use crate::connect::Bus;
use crate::envelope::header;
use crate::error::Error;
use crate::read::to_the_end;
use crate::topology::{EVENTS, Stage};

/// How many messages of each kind are read, the oldest first.
const MOST: usize = 10_000;

impl Bus {
    /// Returns what a stage has before it, as far as it can be read: events of which the first is not done, and what it
    /// put off; the oldest 10,000 of each. A bus that leads to no server keeps none.
    ///
    /// What is asked of it is left out: a command stays on its subject until it is done, where everybody sees it.
    ///
    /// # Errors
    /// A server that does not answer, or a user who may not read it.
    pub async fn backlog(&self, stage: &Stage) -> Result<Vec<Message>, Error> {
        if matches!(self.link, Link::Supplied(_)) {
            return Ok(Vec::new());
        }
        // An event is put off before it is acknowledged: read in this order, none slips past.
        let mut messages = self.events_left(stage).await?;
        let put_off = self.put_off(stage);
        messages.extend(self.denials.heed(&[stage.schedules], put_off).await?);
        Ok(messages)
    }

    async fn events_left(&self, stage: &Stage) -> Result<Vec<Message>, Error> {
        let looks = self.look(stage).await?;
        let events = looks
            .iter()
            .find(|look| look.stream == EVENTS && look.has_backlog());
        let mut messages = Vec::new();
        let Some(events) = events else {
            return Ok(messages);
        };
        let start_sequence = events.floor.saturating_add(1);
        for filter in stage.events {
            let from = DeliverPolicy::ByStartSequence { start_sequence };
            let consumer = self.reader(EVENTS, filter, from).await?;
            let mut room = MOST;
            to_the_end(consumer, "read", EVENTS, |event| {
                let type_name = header(event.headers.as_ref(), headers::TYPE).unwrap_or_default();
                messages.extend(Message::decode(&type_name, &event.payload).ok());
                room -= 1;
                match room {
                    0 => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                }
            })
            .await?;
        }
        Ok(messages)
    }

    /// Reads the stage's schedules once through: what moves meanwhile, moves to the end.
    async fn put_off(&self, stage: &Stage) -> Result<Vec<Message>, Error> {
        let action = "read schedules";
        let stream = self
            .server()?
            .get_stream_no_info(stage.schedules)
            .await
            .map_err(Error::server(action, stage.schedules))?;
        let (mut messages, mut next) = (Vec::new(), 1);
        while messages.len() < MOST {
            match stream.get_first_raw_message_by_subject(">", next).await {
                Ok(copy) => {
                    next = copy.sequence + 1;
                    let type_name = header(Some(&copy.headers), headers::TYPE).unwrap_or_default();
                    messages.extend(Message::decode(&type_name, &copy.payload).ok());
                }
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => break,
                Err(error) => return Err(Error::server(action, stage.schedules)(error)),
            }
        }
        Ok(messages)
    }
}
