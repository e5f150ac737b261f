//! Reading facts: those that the streams hold, and new ones.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::DirectGetErrorKind;
use chrono::{DateTime, Utc};
use futures_util::stream::select_all;
use futures_util::{Stream, StreamExt as _};
use sluice_events::{Event, headers};

use super::reader::drain_pending;
use super::subject_patterns::overlaps;
use crate::connection::Bus;
use crate::connection::headers::header;
use crate::error::Error;
use crate::topology::{EVENT_SUBJECTS, EVENTS, PULL_SUBJECTS, PULLS, stream_of};

/// The most facts that one reading returns, so that memory does not grow with the log.
const MAX_FACTS: usize = 10_000;

/// A fact as its stream holds it.
#[derive(Debug, Clone)]
pub struct Fact {
    /// The stream.
    pub stream: &'static str,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When it was published.
    pub at: Option<DateTime<Utc>>,
    /// Its subject.
    pub subject: String,
    /// Its id.
    pub id: String,
    /// The process that published it, as in `/sluice/poller`.
    pub source: String,
    /// The id of its cause.
    pub causation: Option<String>,
    /// The id of the first event of the chain.
    pub correlation: Option<String>,
    /// The decoded event; nothing where a newer version published it.
    pub event: Option<Event>,
}

impl Bus {
    /// Returns the facts of a subject filter that the streams hold now, oldest first: the newest 10,000 of each stream.
    pub async fn facts(&self, filter: &str) -> Result<Vec<Fact>, Error> {
        let mut all = Vec::new();
        for stream in streams_of(filter) {
            all.extend(self.facts_in(stream, filter).await?);
        }
        all.sort_by_key(|fact| (fact.at, fact.sequence));
        Ok(all)
    }

    /// Returns the facts of a subject filter as [`Bus::facts`] does, without pulls.
    pub async fn facts_without_pulls(&self, filter: &str) -> Result<Vec<Fact>, Error> {
        self.facts_in(EVENTS, filter).await
    }

    async fn facts_in(&self, stream: &'static str, filter: &str) -> Result<Vec<Fact>, Error> {
        let consumer = self
            .ordered_consumer(stream, filter, DeliverPolicy::All)
            .await?;
        let mut facts = VecDeque::new();
        drain_pending(consumer, "read facts", filter, |message| {
            if facts.len() == MAX_FACTS {
                facts.pop_front();
            }
            facts.push_back(Fact::read(stream, message));
            ControlFlow::Continue(())
        })
        .await?;
        Ok(facts.into())
    }

    /// Returns the last fact of one subject without wildcards; nothing in a simulation.
    pub async fn last_fact(&self, subject: &str) -> Result<Option<Event>, Error> {
        if self.is_simulated() {
            return Ok(None);
        }
        let stream = self.stream_handle(stream_of(subject)).await?;
        let message = match stream.direct_get_last_for_subject(subject).await {
            Ok(message) => message,
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::server("read the last fact of", subject)(error)),
        };
        let type_name = header(Some(&message.headers), headers::TYPE).unwrap_or_default();
        Ok(Event::decode(&type_name, &message.payload).and_then(Result::ok))
    }

    /// Follows the facts of a subject filter from now on, or from the oldest that the streams hold.
    pub async fn follow(
        &self,
        filter: &str,
        from_start: bool,
    ) -> Result<impl Stream<Item = Result<Fact, Error>> + Send + Unpin + use<>, Error> {
        let from = if from_start {
            DeliverPolicy::All
        } else {
            DeliverPolicy::New
        };
        let mut all = Vec::new();
        for stream in streams_of(filter) {
            let consumer = self.ordered_consumer(stream, filter, from).await?;
            let messages = consumer
                .messages()
                .await
                .map_err(Error::server("follow facts", filter))?;
            all.push(messages.map(move |message| {
                message
                    .map(|message| Fact::read(stream, &message))
                    .map_err(Error::server("follow facts", stream))
            }));
        }
        Ok(select_all(all))
    }
}

/// Returns the streams that may hold facts of a subject filter.
fn streams_of(filter: &str) -> impl Iterator<Item = &'static str> + use<> {
    let holds = |subjects: &[&str]| subjects.iter().any(|one| overlaps(one, filter));
    let events = holds(&EVENT_SUBJECTS).then_some(EVENTS);
    events
        .into_iter()
        .chain(holds(&PULL_SUBJECTS).then_some(PULLS))
}

impl Fact {
    fn read(stream: &'static str, message: &Message) -> Self {
        let read = |name: &str| header(message.headers.as_ref(), name);
        let type_name = read(headers::TYPE).unwrap_or_default();
        let (sequence, at) = message.info().map_or((0, None), |info| {
            let published = info.published;
            (
                info.stream_sequence,
                DateTime::from_timestamp(published.unix_timestamp(), published.nanosecond()),
            )
        });
        Self {
            stream,
            sequence,
            at,
            subject: message.subject.to_string(),
            id: read(headers::ID).unwrap_or_default(),
            source: read(headers::SOURCE).unwrap_or_default(),
            causation: read(headers::CAUSATION_ID),
            correlation: read(headers::CORRELATION_ID),
            event: Event::decode(&type_name, &message.payload).and_then(Result::ok),
        }
    }
}
