//! Reading facts: those that the streams hold, and new ones.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::DirectGetErrorKind;
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::stream::select_all;
use futures_util::{Stream, StreamExt as _};
use serde_json::{Value, json};
use sluice_events::{Event, headers};
use sluice_telemetry::context::{TRACEPARENT, trace_id};

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
    /// The trace in which it was published, as in `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`.
    pub traceparent: Option<String>,
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

    /// Follows the facts of a subject filter.
    pub async fn follow(
        &self,
        filter: &str,
        from: &FollowFrom,
    ) -> Result<impl Stream<Item = Result<Fact, Error>> + Send + Unpin + use<>, Error> {
        let mut all = Vec::new();
        for stream in streams_of(filter) {
            let policy = from.deliver_policy(stream);
            let consumer = self.ordered_consumer(stream, filter, policy).await?;
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

    /// Returns the end of each stream that may hold facts of a subject filter.
    ///
    /// # Errors
    /// A stream that is not provisioned.
    pub async fn log_position(&self, filter: &str) -> Result<LogPosition, Error> {
        let mut position = LogPosition::default();
        for stream in streams_of(filter) {
            let info = self.stream_info(stream).await?;
            let info = info.ok_or_else(|| Error::Missing {
                what: stream.to_owned(),
            })?;
            position.advance(stream, info.state.last_sequence);
        }
        Ok(position)
    }
}

/// Where a reader of the log begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowFrom {
    /// With the next fact.
    Now,
    /// With the oldest fact that the streams hold.
    Start,
    /// After a position; with the next fact in a stream that it does not have.
    After(LogPosition),
}

impl FollowFrom {
    fn deliver_policy(&self, stream: &str) -> DeliverPolicy {
        match self {
            Self::Now => DeliverPolicy::New,
            Self::Start => DeliverPolicy::All,
            Self::After(position) => match position.0.get(stream) {
                Some(sequence) => DeliverPolicy::ByStartSequence {
                    start_sequence: sequence.saturating_add(1),
                },
                None => DeliverPolicy::New,
            },
        }
    }
}

/// The sequence of the last fact that a reader has of each stream, as in `EVENTS=1207,PULLS=88`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPosition(BTreeMap<&'static str, u64>);

impl LogPosition {
    /// Moves the position to a fact.
    pub fn advance(&mut self, stream: &'static str, sequence: u64) {
        self.0.insert(stream, sequence);
    }

    /// Says whether it is after the end of the log in some stream, as after the restore of an older log.
    #[must_use]
    pub fn is_after(&self, end: &Self) -> bool {
        let mut ends = end.0.iter();
        ends.any(|(stream, last)| self.0.get(stream).is_some_and(|sequence| sequence > last))
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (stream, sequence) in &self.0 {
            write!(f, "{separator}{stream}={sequence}")?;
            separator = ",";
        }
        Ok(())
    }
}

/// A text that is no position in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no position in the log, as in `EVENTS=1207,PULLS=88`")]
pub struct InvalidLogPosition(String);

impl FromStr for LogPosition {
    type Err = InvalidLogPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut position = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let parsed = part.split_once('=').and_then(|(name, sequence)| {
                let stream = [EVENTS, PULLS].into_iter().find(|stream| *stream == name)?;
                Some((stream, sequence.parse().ok()?))
            });
            let (stream, sequence) = parsed.ok_or_else(|| InvalidLogPosition(text.to_owned()))?;
            position.advance(stream, sequence);
        }
        Ok(position)
    }
}

/// Returns the streams that may hold facts of a subject filter.
pub(crate) fn streams_of(filter: &str) -> impl Iterator<Item = &'static str> + use<> {
    let holds = |subjects: &[&str]| subjects.iter().any(|one| overlaps(one, filter));
    let events = holds(&EVENT_SUBJECTS).then_some(EVENTS);
    events
        .into_iter()
        .chain(holds(&PULL_SUBJECTS).then_some(PULLS))
}

impl Fact {
    /// Returns the fact as a JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let at = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
        json!({
            "stream": self.stream,
            "sequence": self.sequence,
            "at": self.at.map(at),
            "id": self.id,
            "causationId": self.causation,
            "correlationId": self.correlation,
            "traceparent": self.traceparent,
            "subject": self.subject,
            "event": self.event.as_ref().map(Event::name),
            "data": self.event.as_ref().map(Event::to_json),
        })
    }

    /// Returns the id of its trace: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        trace_id(self.traceparent.as_deref()?)
    }

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
            traceparent: read(TRACEPARENT),
            event: Event::decode(&type_name, &message.payload).and_then(Result::ok),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_written() {
        for text in ["", "EVENTS=1207", "EVENTS=1207,PULLS=88"] {
            let position: LogPosition = text.parse().unwrap();
            assert_eq!(position.to_string(), text);
        }
        for text in [
            "1207",
            "EVENTS",
            "EVENTS=",
            "EVENTS=-1",
            "WORK=1",
            "EVENTS=1;PULLS=2",
        ] {
            assert!(text.parse::<LogPosition>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_position_that_the_log_has_not_reached_is_after_it() {
        let end: LogPosition = "EVENTS=7,PULLS=2".parse().unwrap();
        for (text, expected) in [
            ("", false),
            ("EVENTS=7", false),
            ("EVENTS=8", true),
            ("EVENTS=1,PULLS=3", true),
        ] {
            let position: LogPosition = text.parse().unwrap();
            assert_eq!(position.is_after(&end), expected, "{text}");
        }
    }

    #[test]
    fn a_reader_continues_after_its_position_and_with_new_facts_elsewhere() {
        let from = FollowFrom::After("EVENTS=7".parse().unwrap());
        let after = DeliverPolicy::ByStartSequence { start_sequence: 8 };
        assert_eq!(from.deliver_policy(EVENTS), after);
        assert_eq!(from.deliver_policy(PULLS), DeliverPolicy::New);
    }
}
