//! Server-side schedules: a command that the server gives at its time.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::TryStreamExt as _;
use sluice_events::{Command, EventId};

use crate::connect::Bus;
use crate::envelope::{WAITS_FOR, header};
use crate::error::Error;
use crate::topology::SCHEDULES;

/// When it fires.
pub(crate) const SPEC: &str = "Nats-Schedule";
/// Where it fires to.
pub(crate) const TARGET: &str = "Nats-Schedule-Target";
/// Whether a tick replaces the one before it.
const ROLLUP: &str = "Nats-Schedule-Rollup";

/// When a schedule fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Again and again.
    Every(Duration),
    /// By cron with six fields, seconds first, in UTC.
    Cron(String),
    /// Once.
    At(DateTime<Utc>),
}

/// A command with its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Its name: tokens joined by dots, as in `poll.alpine`.
    pub name: String,
    /// When it fires.
    pub when: When,
    /// What is asked for then.
    pub command: Command,
}

impl Schedule {
    /// Returns the headers that make a message a schedule.
    fn specification(&self) -> Vec<(&'static str, String)> {
        let topic = self.command.topic();
        let when = match &self.when {
            When::Every(interval) => format!("@every {}s", interval.as_secs().max(1)),
            When::Cron(fields) => fields.clone(),
            When::At(time) => at(*time),
        };
        let mut headers = vec![(SPEC, when), (TARGET, format!("sluice.due.{topic}"))];
        // At most one tick waits for a busy stage. Only where the subject is the schedule's own: elsewhere a tick
        // would replace that of another schedule.
        if !matches!(self.when, When::At(_)) && topic.contains('.') {
            headers.push((ROLLUP, "sub".to_owned()));
        }
        headers
    }
}

impl Bus {
    /// Puts a schedule where there is none or another one; says whether it did.
    ///
    /// An equal schedule is left alone: publishing it again would start its interval anew.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn put_schedule(&self, schedule: &Schedule) -> Result<bool, Error> {
        let subject = format!("sluice.schedule.{}", schedule.name);
        let specification = schedule.specification();
        let payload = Bytes::from(schedule.command.encode());
        let stream = self.schedule_stream().await?;
        loop {
            let stored = match stream.get_last_raw_message_by_subject(&subject).await {
                Ok(stored) => Some(stored),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => None,
                Err(error) => return Err(Error::server("read schedule", subject)(error)),
            };
            let same = stored.as_ref().is_some_and(|stored| {
                stored.payload == payload && specified(&stored.headers) == specification
            });
            if same {
                return Ok(false);
            }
            let mut map = self.headers(schedule.command.type_name(), &EventId::random(), None);
            for (name, value) in &specification {
                map.insert(*name, value.as_str());
            }
            let message = PublishMessage::build()
                .payload(payload.clone())
                .headers(map)
                .expected_last_subject_sequence(stored.map_or(0, |stored| stored.sequence));
            let pending = self
                .js
                .send_publish(subject.clone(), message)
                .await
                .map_err(Error::server("put schedule", &subject))?;
            match pending.await {
                Ok(_) => return Ok(true),
                // Another replica put it in between, and perhaps the same.
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {}
                Err(error) => return Err(Error::server("put schedule", subject)(error)),
            }
        }
    }

    /// Removes a schedule, if there is one.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn remove_schedule(&self, name: &str) -> Result<(), Error> {
        let subject = format!("sluice.schedule.{name}");
        self.schedule_stream()
            .await?
            .purge()
            .filter(&subject)
            .await
            .map(drop)
            .map_err(Error::server("remove schedule", subject))
    }

    /// Returns the names of the schedules below a prefix, as in `poll`.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn schedules(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let filter = format!("sluice.schedule.{prefix}.>");
        let info = self
            .schedule_stream()
            .await?
            .info_builder()
            .subjects(filter.as_str())
            .fetch()
            .await
            .map_err(Error::server("list schedules", &filter))?;
        let subjects: Vec<(String, usize)> = info
            .try_collect()
            .await
            .map_err(Error::server("list schedules", filter))?;
        Ok(subjects
            .into_iter()
            .filter_map(|(subject, _)| Some(subject.strip_prefix("sluice.schedule.")?.to_owned()))
            .collect())
    }

    /// Returns what the newest waiting copy below a prefix waits for; nothing once it has fired.
    pub(crate) async fn waits_for(&self, prefix: &str) -> Result<String, Error> {
        let filter = format!("sluice.schedule.{prefix}.>");
        let stream = self.schedule_stream().await?;
        match stream.get_last_raw_message_by_subject(&filter).await {
            Ok(copy) => Ok(header(Some(&copy.headers), WAITS_FOR).unwrap_or_default()),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                Ok(String::new())
            }
            Err(error) => Err(Error::server("read schedule", filter)(error)),
        }
    }

    async fn schedule_stream(&self) -> Result<Stream<()>, Error> {
        self.js
            .get_stream_no_info(SCHEDULES)
            .await
            .map_err(Error::server("open stream", SCHEDULES))
    }
}

/// Writes a time at which a schedule fires once.
pub(crate) fn at(time: DateTime<Utc>) -> String {
    format!("@at {}", time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

fn specified(map: &HeaderMap) -> Vec<(&'static str, String)> {
    [SPEC, TARGET, ROLLUP]
        .into_iter()
        .filter_map(|name| Some((name, map.get(name)?.as_str().to_owned())))
        .collect()
}
