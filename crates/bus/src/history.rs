//! Reading facts: what the streams hold, and what comes.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::stream::DirectGetErrorKind;
use chrono::{DateTime, Utc};
use futures_util::stream::select_all;
use futures_util::{Stream, StreamExt as _};
use sluice_events::{Event, headers};

use crate::backend::Link;
use crate::connect::Bus;
use crate::envelope::header;
use crate::error::Error;
use crate::publish::stream_of;
use crate::read::to_the_end;
use crate::subject_patterns::overlaps;
use crate::topology::{EVENT_SUBJECTS, EVENTS, PULL_SUBJECTS, PULLS};

/// The most facts that one reading returns; memory does not grow with the log.
const MAX_FACTS: usize = 10_000;

/// A fact as the log holds it.
#[derive(Debug, Clone)]
pub struct Fact {
    /// The stream that holds it.
    pub stream: &'static str,
    /// Its place in that.
    pub sequence: u64,
    /// When it was published.
    pub at: Option<DateTime<Utc>>,
    /// Its subject.
    pub subject: String,
    /// Its id.
    pub id: String,
    /// The process that published it, as in `/sluice/poller`.
    pub source: String,
    /// The id of what caused it.
    pub causation: Option<String>,
    /// The id of what everything began with.
    pub correlation: Option<String>,
    /// What happened, unless a newer version published it.
    pub event: Option<Event>,
}

impl Bus {
    /// Returns the facts of a subject filter that the streams hold now, oldest first; only the newest 10,000 of each
    /// stream.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn facts(&self, filter: &str) -> Result<Vec<Fact>, Error> {
        let mut all = Vec::new();
        for stream in streams_of(filter) {
            all.extend(self.facts_in(stream, filter).await?);
        }
        all.sort_by_key(|fact| (fact.at, fact.sequence));
        Ok(all)
    }

    /// Returns the facts of a subject filter, pulls left out.
    ///
    /// # Errors
    /// As [`Bus::facts`].
    pub async fn facts_but_pulls(&self, filter: &str) -> Result<Vec<Fact>, Error> {
        self.facts_in(EVENTS, filter).await
    }

    async fn facts_in(&self, stream: &'static str, filter: &str) -> Result<Vec<Fact>, Error> {
        let consumer = self.reader(stream, filter, DeliverPolicy::All).await?;
        let mut facts = VecDeque::new();
        to_the_end(consumer, "read facts", filter, |message| {
            if facts.len() == MAX_FACTS {
                facts.pop_front();
            }
            facts.push_back(fact(stream, message));
            ControlFlow::Continue(())
        })
        .await?;
        Ok(facts.into())
    }

    /// Returns the last fact of one subject, if the log holds one; wildcards are not for this. A bus that leads to no
    /// server has no log to read.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn last_fact(&self, subject: &str) -> Result<Option<Event>, Error> {
        if matches!(self.link, Link::Simulated(_)) {
            return Ok(None);
        }
        let stream = self
            .server()?
            .get_stream_no_info(stream_of(subject))
            .await
            .map_err(Error::server("open stream", stream_of(subject)))?;
        let message = match stream.direct_get_last_for_subject(subject).await {
            Ok(message) => message,
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::server("read the last fact of", subject)(error)),
        };
        let type_name = header(Some(&message.headers), headers::TYPE).unwrap_or_default();
        Ok(Event::decode(&type_name, &message.payload).and_then(Result::ok))
    }

    /// Returns the facts of a subject filter from now on, or first those that the log holds.
    ///
    /// # Errors
    /// A server that does not answer.
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
            let consumer = self.reader(stream, filter, from).await?;
            let messages = consumer
                .messages()
                .await
                .map_err(Error::server("follow facts", filter))?;
            all.push(messages.map(move |message| {
                message
                    .map(|message| fact(stream, &message))
                    .map_err(Error::server("follow facts", stream))
            }));
        }
        Ok(select_all(all))
    }

    pub(crate) async fn reader(
        &self,
        stream: &str,
        filter: &str,
        deliver_policy: DeliverPolicy,
    ) -> Result<async_nats::jetstream::consumer::Consumer<pull::OrderedConfig>, Error> {
        let config = pull::OrderedConfig {
            // With a name the request says in its subject what is read, which is what permissions are about.
            name: Some(format!("reader-{}", uuid::Uuid::new_v4().simple())),
            filter_subject: filter.to_owned(),
            deliver_policy,
            ..Default::default()
        };
        self.server()?
            .create_consumer_on_stream(config, stream)
            .await
            .map_err(Error::server("read", filter))
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

fn fact(stream: &'static str, message: &Message) -> Fact {
    let read = |name: &str| header(message.headers.as_ref(), name);
    let type_name = read(headers::TYPE).unwrap_or_default();
    let (sequence, at) = message.info().map_or((0, None), |info| {
        (
            info.stream_sequence,
            DateTime::from_timestamp(info.published.unix_timestamp(), info.published.nanosecond()),
        )
    });
    Fact {
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
