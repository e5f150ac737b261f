//! Server-side schedules: a command that the server gives at its time.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::TryStreamExt as _;
use sluice_events::{Command, EventId};

use crate::backend::{Last, Link, Refusal, from_map, to_map};
use crate::connect::Bus;
use crate::envelope::{WAITS_FOR, header};
use crate::error::Error;
use crate::handler::BoxError;
use crate::publish::outgoing;
use crate::topology::{SCHEDULE, Stage};

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

/// The copies of messages that a stage put off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PutOff {
    /// Those that the scheduler still keeps.
    pub(crate) later: u64,
    /// Those that it fired and that are not done.
    pub(crate) due: u64,
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
    /// Says whether there is exactly this schedule.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn has_schedule(&self, schedule: &Schedule) -> Result<bool, Error> {
        let stored = self.stored_schedule(schedule).await?;
        Ok(stored.is_some_and(|stored| is_same(&stored, schedule)))
    }

    /// Puts a schedule where there is none or another one; says whether it did.
    ///
    /// An equal schedule is left alone: publishing it again would start its interval anew.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn put_schedule(&self, schedule: &Schedule) -> Result<bool, Error> {
        let put = self.put(schedule);
        self.heed_schedules(&schedule.name, put).await
    }

    async fn put(&self, schedule: &Schedule) -> Result<bool, Error> {
        let subject = format!("{SCHEDULE}{}", schedule.name);
        let specification = schedule.specification();
        let payload = Bytes::from(schedule.command.encode());
        loop {
            let stored = self.stored_schedule(schedule).await?;
            if stored
                .as_ref()
                .is_some_and(|stored| is_same(stored, schedule))
            {
                return Ok(false);
            }
            let mut map = self.headers(schedule.command.type_name(), &EventId::random(), None);
            for (name, value) in &specification {
                map.insert(*name, value.as_str());
            }
            let mut message = outgoing(subject.clone(), payload.clone(), &map);
            message.expected_sequence = Some(stored.map_or(0, |stored| stored.sequence));
            match self.store(message).await {
                Ok(_) => return Ok(true),
                // Another replica put it in between, and perhaps the same.
                Err(Refusal::Conflict) => {}
                Err(error) => return Err(Error::server("put schedule", subject)(error)),
            }
        }
    }

    /// Removes a schedule, if there is one.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn remove_schedule(&self, name: &str) -> Result<(), Error> {
        self.heed_schedules(name, self.purge(name)).await
    }

    async fn purge(&self, name: &str) -> Result<(), Error> {
        let subject = format!("{SCHEDULE}{name}");
        if let Link::Simulated(backend) = &self.link {
            let purged = backend.purge(subject.clone()).await;
            return purged.map_err(Error::server("remove schedule", subject));
        }
        self.schedule_stream(name)
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
        self.heed_schedules(prefix, self.names(prefix)).await
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let filter = format!("{SCHEDULE}{prefix}.>");
        let subjects = self
            .schedule_subjects(prefix, &filter)
            .await
            .map_err(Error::server("list schedules", filter))?;
        Ok(subjects
            .into_iter()
            .filter_map(|subject| Some(subject.strip_prefix(SCHEDULE)?.to_owned()))
            .collect())
    }

    /// Returns what the newest waiting copy below a prefix waits for; nothing once it has fired.
    pub(crate) async fn waits_for(&self, prefix: &str) -> Result<String, Error> {
        let waits_for = async {
            let filter = format!("{SCHEDULE}{prefix}.>");
            let stream = self.schedule_stream(prefix).await?;
            match stream.get_last_raw_message_by_subject(&filter).await {
                Ok(copy) => Ok(header(Some(&copy.headers), WAITS_FOR).unwrap_or_default()),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                    Ok(String::new())
                }
                Err(error) => Err(Error::server("read schedule", filter)(error)),
            }
        };
        self.heed_schedules(prefix, waits_for).await
    }

    /// Counts the copies of messages that a stage put off, in one snapshot of their stream: what fires meanwhile is seen
    /// as the one or as the other.
    pub(crate) async fn put_off_copies(&self, stage: &Stage) -> Result<PutOff, Error> {
        let prefix = format!("retry.{}", stage.name);
        let count = async {
            let stream = self.schedule_stream(&prefix).await?;
            let info = stream.info_builder().subjects("sluice.*.retry.>").fetch();
            let action = Error::server("list schedules", stage.schedules);
            let subjects: Vec<(String, usize)> = match info.await {
                Ok(info) => info.try_collect().await.map_err(action)?,
                Err(error) => return Err(action(error)),
            };
            let (later, due): (Vec<_>, Vec<_>) = subjects
                .into_iter()
                .partition(|(subject, _)| subject.starts_with(SCHEDULE));
            let sum = |all: Vec<(String, usize)>| all.into_iter().map(|(_, n)| n as u64).sum();
            Ok(PutOff {
                later: sum(later),
                due: sum(due),
            })
        };
        self.heed_schedules(&prefix, count).await
    }

    async fn schedule_subjects(&self, prefix: &str, filter: &str) -> Result<Vec<String>, BoxError> {
        if let Link::Simulated(backend) = &self.link {
            return Ok(backend.subjects(filter.to_owned()).await?);
        }
        let stream = self.schedule_stream(prefix).await?;
        let info = stream.info_builder().subjects(filter).fetch().await?;
        let subjects: Vec<(String, usize)> = info.try_collect().await?;
        Ok(subjects.into_iter().map(|(subject, _)| subject).collect())
    }

    async fn stored_schedule(&self, schedule: &Schedule) -> Result<Option<Last>, Error> {
        let subject = format!("{SCHEDULE}{}", schedule.name);
        if let Link::Simulated(backend) = &self.link {
            let last = backend.last(subject.clone()).await;
            return last.map_err(Error::server("read schedule", subject));
        }
        let stream = self.schedule_stream(&schedule.name).await?;
        match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(stored) => Ok(Some(Last {
                sequence: stored.sequence,
                headers: from_map(&stored.headers),
                payload: stored.payload,
            })),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(Error::server("read schedule", subject)(error)),
        }
    }

    async fn heed_schedules<T>(
        &self,
        name: &str,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let subject = format!("{SCHEDULE}{name}");
        let stream = Stage::of_schedule(name).map_or(subject.as_str(), |stage| stage.schedules);
        self.denials
            .fail_on_permission_violation(&[&subject, stream], operation)
            .await
    }

    async fn schedule_stream(&self, name: &str) -> Result<Stream<()>, Error> {
        let stage = Stage::of_schedule(name).ok_or_else(|| Error::Missing {
            what: format!("a stage with schedules `{name}`"),
        })?;
        self.server()?
            .get_stream_no_info(stage.schedules)
            .await
            .map_err(Error::server("open stream", stage.schedules))
    }
}

/// Writes a time at which a schedule fires once.
pub(crate) fn at(time: DateTime<Utc>) -> String {
    format!("@at {}", time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

fn is_same(stored: &Last, schedule: &Schedule) -> bool {
    stored.payload == schedule.command.encode()
        && specified(&to_map(&stored.headers)) == schedule.specification()
}

fn specified(map: &HeaderMap) -> Vec<(&'static str, String)> {
    [SPEC, TARGET, ROLLUP]
        .into_iter()
        .filter_map(|name| Some((name, map.get(name)?.as_str().to_owned())))
        .collect()
}
