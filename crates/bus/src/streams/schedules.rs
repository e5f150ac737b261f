//! Server-side schedules: a command that the server publishes at its time.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::TryStreamExt as _;
use sluice_domain::stages;
use sluice_events::{Command, EventId};

use super::publish::outgoing;
use crate::connection::backend::{BackendError, LastMessage};
use crate::connection::headers::{WAITS_FOR, from_map, header, to_map};
use crate::connection::{Bus, Link};
use crate::error::{BoxError, Error};
use crate::topology::{DUE, SCHEDULE, Stage};

/// The header that says when a schedule fires.
pub(crate) const SPEC: &str = "Nats-Schedule";
/// The header that says at which subject it fires.
pub(crate) const TARGET: &str = "Nats-Schedule-Target";
/// The header that says that a tick replaces the one before it.
const ROLLUP: &str = "Nats-Schedule-Rollup";

/// When a schedule fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Timing {
    /// At an interval.
    Every(Duration),
    /// By cron with six fields, seconds first, in UTC.
    Cron(String),
    /// Once.
    At(DateTime<Utc>),
}

/// A command and when it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Its name: tokens joined by dots, as in `poll.alpine`.
    pub name: String,
    /// When it fires.
    pub timing: Timing,
    /// The command that it fires.
    pub command: Command,
}

/// The delayed copies of the messages of a stage: those that wait for a retry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DelayedCopies {
    /// Copies that the scheduler still keeps.
    pub(crate) scheduled: u64,
    /// Copies that were fired and are not acknowledged.
    pub(crate) fired: u64,
}

impl Schedule {
    fn subject(&self) -> String {
        format!("{SCHEDULE}{}", self.name)
    }

    /// Returns the headers that make a message a schedule.
    fn specification(&self) -> Vec<(&'static str, String)> {
        let topic = self.command.topic();
        let spec = match &self.timing {
            Timing::Every(interval) => format!("@every {}s", interval.as_secs().max(1)),
            Timing::Cron(fields) => fields.clone(),
            Timing::At(time) => at(*time),
        };
        let mut headers = vec![(SPEC, spec), (TARGET, format!("{DUE}{topic}"))];
        // At most one tick is pending for a busy stage. Only where no other schedule fires at the subject: there a tick
        // would replace that of the other schedule.
        if !matches!(self.timing, Timing::At(_)) && topic.contains('.') {
            headers.push((ROLLUP, "sub".to_owned()));
        }
        headers
    }

    fn is_stored_as(&self, stored: &LastMessage) -> bool {
        stored.payload == self.command.encode()
            && specification_of(&to_map(&stored.headers)) == self.specification()
    }
}

impl Bus {
    /// Says whether exactly this schedule is stored.
    pub async fn has_schedule(&self, schedule: &Schedule) -> Result<bool, Error> {
        let stored = self.stored_schedule(schedule).await?;
        Ok(stored.is_some_and(|stored| schedule.is_stored_as(&stored)))
    }

    /// Stores a schedule unless it is stored already; says whether it did.
    ///
    /// An equal schedule is left alone, because publishing it again would restart its interval.
    pub async fn put_schedule(&self, schedule: &Schedule) -> Result<bool, Error> {
        let put = async {
            let subject = schedule.subject();
            let payload = Bytes::from(schedule.command.encode());
            loop {
                let stored = self.stored_schedule(schedule).await?;
                if let Some(stored) = &stored
                    && schedule.is_stored_as(stored)
                {
                    return Ok(false);
                }
                let type_name = schedule.command.type_name();
                let mut map = self.event_headers(type_name, &EventId::random(), None);
                for (name, value) in schedule.specification() {
                    map.insert(name, value.as_str());
                }
                let mut message = outgoing(subject.clone(), payload.clone(), &map);
                message.expected_sequence = Some(stored.map_or(0, |stored| stored.sequence));
                match self.store(message).await {
                    Ok(_) => return Ok(true),
                    // Another replica stored a schedule in between, perhaps the same.
                    Err(BackendError::Conflict) => {}
                    Err(error) => return Err(Error::server("put schedule", subject)(error)),
                }
            }
        };
        self.with_schedule_permission(&schedule.name, put).await
    }

    /// Removes a schedule, if there is one.
    pub async fn remove_schedule(&self, name: &str) -> Result<(), Error> {
        let remove = async {
            let subject = format!("{SCHEDULE}{name}");
            if let Link::Simulated(backend) = &self.link {
                let purged = backend.purge(subject.clone()).await;
                return purged.map_err(Error::server("remove schedule", subject));
            }
            let stream = self.schedule_stream(name).await?;
            let purged = stream.purge().filter(&subject).await;
            purged
                .map(drop)
                .map_err(Error::server("remove schedule", subject))
        };
        self.with_schedule_permission(name, remove).await
    }

    /// Returns the names of the schedules below a prefix, as in `poll`.
    pub async fn schedules(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let list = async {
            let filter = format!("{SCHEDULE}{prefix}.>");
            let subjects = self
                .list_schedule_subjects(prefix, &filter)
                .await
                .map_err(Error::server("list schedules", filter))?;
            Ok(subjects
                .into_iter()
                .filter_map(|subject| Some(subject.strip_prefix(SCHEDULE)?.to_owned()))
                .collect())
        };
        self.with_schedule_permission(prefix, list).await
    }

    /// Returns why the message was delayed whose copy is the newest below a prefix; empty once that copy has fired.
    pub(crate) async fn last_delay_reason(&self, prefix: &str) -> Result<String, Error> {
        let read = async {
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
        self.with_schedule_permission(prefix, read).await
    }

    /// Counts the delayed copies of a stage in one snapshot of their stream, so that a copy that fires meanwhile is
    /// counted once.
    pub(crate) async fn count_delayed_copies(&self, stage: &Stage) -> Result<DelayedCopies, Error> {
        let prefix = format!("retry.{}", stage.name);
        let count = async {
            let stream = self.schedule_stream(&prefix).await?;
            let info = stream.info_builder().subjects("sluice.*.retry.>").fetch();
            let failed = Error::server("list schedules", stage.schedules);
            let subjects: Vec<(String, usize)> = match info.await {
                Ok(info) => info.try_collect().await.map_err(failed)?,
                Err(error) => return Err(failed(error)),
            };
            let (scheduled, fired): (Vec<_>, Vec<_>) = subjects
                .into_iter()
                .partition(|(subject, _)| subject.starts_with(SCHEDULE));
            let sum = |all: Vec<(String, usize)>| all.into_iter().map(|(_, n)| n as u64).sum();
            Ok(DelayedCopies {
                scheduled: sum(scheduled),
                fired: sum(fired),
            })
        };
        self.with_schedule_permission(&prefix, count).await
    }

    async fn list_schedule_subjects(
        &self,
        prefix: &str,
        filter: &str,
    ) -> Result<Vec<String>, BoxError> {
        if let Link::Simulated(backend) = &self.link {
            return Ok(backend.subjects(filter.to_owned()).await?);
        }
        let stream = self.schedule_stream(prefix).await?;
        let info = stream.info_builder().subjects(filter).fetch().await?;
        let subjects: Vec<(String, usize)> = info.try_collect().await?;
        Ok(subjects.into_iter().map(|(subject, _)| subject).collect())
    }

    async fn stored_schedule(&self, schedule: &Schedule) -> Result<Option<LastMessage>, Error> {
        let subject = schedule.subject();
        if let Link::Simulated(backend) = &self.link {
            let last = backend.last(subject.clone()).await;
            return last.map_err(Error::server("read schedule", subject));
        }
        let stream = self.schedule_stream(&schedule.name).await?;
        match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(stored) => Ok(Some(LastMessage {
                sequence: stored.sequence,
                headers: from_map(&stored.headers),
                payload: stored.payload,
            })),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(Error::server("read schedule", subject)(error)),
        }
    }

    /// Fails at once where the permission for the schedules of a stage is missing.
    async fn with_schedule_permission<T>(
        &self,
        name: &str,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let subject = format!("{SCHEDULE}{name}");
        let stream = stages::of_schedule(name).map_or(subject.as_str(), |stage| stage.schedules);
        self.violations
            .fail_on(&[&subject, stream], operation)
            .await
    }

    async fn schedule_stream(&self, name: &str) -> Result<Stream<()>, Error> {
        let stage = stages::of_schedule(name).ok_or_else(|| Error::Missing {
            what: format!("a stage with schedules `{name}`"),
        })?;
        self.stream_handle(stage.schedules).await
    }
}

/// Writes the time at which a schedule fires once.
pub(crate) fn at(time: DateTime<Utc>) -> String {
    format!("@at {}", time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// Reads the headers that make a message a schedule.
fn specification_of(map: &HeaderMap) -> Vec<(&'static str, String)> {
    [SPEC, TARGET, ROLLUP]
        .into_iter()
        .filter_map(|name| Some((name, map.get(name)?.as_str().to_owned())))
        .collect()
}
