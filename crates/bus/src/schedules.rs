//! Server-side schedules: a command that the server gives at its time.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use chrono::{DateTime, SecondsFormat, Utc};
use sluice_events::{Command, EventId};

use crate::connect::Bus;
use crate::error::Error;
use crate::topology::SCHEDULES;

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

impl Bus {
    /// Puts a schedule where there is none or another one; says whether it did.
    ///
    /// An equal schedule is left alone: publishing it again would start its interval anew.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn put_schedule(&self, schedule: &Schedule) -> Result<bool, Error> {
        let subject = format!("sluice.schedule.{}", schedule.name);
        let stream = self
            .js
            .get_stream_no_info(SCHEDULES)
            .await
            .map_err(Error::server("open stream", SCHEDULES))?;
        let spec = spec(&schedule.when);
        let payload = schedule.command.encode();
        // A missing schedule is an error of its own kind to the client; either way there is nothing to keep.
        if let Ok(stored) = stream.get_last_raw_message_by_subject(&subject).await {
            let same = stored
                .headers
                .get("Nats-Schedule")
                .is_some_and(|value| value.as_str() == spec);
            if same && stored.payload == payload {
                return Ok(false);
            }
        }
        let mut map = self.headers(schedule.command.type_name(), &EventId::random(), None);
        map.insert("Nats-Schedule", spec.as_str());
        map.insert(
            "Nats-Schedule-Target",
            format!("sluice.due.{}", schedule.command.topic()).as_str(),
        );
        if matches!(schedule.when, When::Every(_) | When::Cron(_))
            && schedule.command.topic().contains('.')
        {
            // At most one tick waits for a busy stage.
            map.insert("Nats-Schedule-Rollup", "sub");
        }
        let message = PublishMessage::build().payload(payload.into()).headers(map);
        let pending = self
            .js
            .send_publish(subject.clone(), message)
            .await
            .map_err(Error::server("put schedule", &subject))?;
        pending
            .await
            .map_err(Error::server("put schedule", subject))?;
        Ok(true)
    }

    /// Removes a schedule, if there is one.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn remove_schedule(&self, name: &str) -> Result<(), Error> {
        let subject = format!("sluice.schedule.{name}");
        let stream = self
            .js
            .get_stream_no_info(SCHEDULES)
            .await
            .map_err(Error::server("open stream", SCHEDULES))?;
        stream
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
        let stream = self
            .js
            .get_stream_no_info(SCHEDULES)
            .await
            .map_err(Error::server("open stream", SCHEDULES))?;
        let info = stream
            .info_builder()
            .subjects(filter.as_str())
            .fetch()
            .await
            .map_err(Error::server("list schedules", &filter))?;
        use futures_util::TryStreamExt as _;
        let subjects: Vec<(String, usize)> = info
            .try_collect()
            .await
            .map_err(Error::server("list schedules", filter))?;
        Ok(subjects
            .into_iter()
            .filter_map(|(subject, _)| Some(subject.strip_prefix("sluice.schedule.")?.to_owned()))
            .collect())
    }
}

fn spec(when: &When) -> String {
    match when {
        When::Every(interval) => format!("@every {}s", interval.as_secs().max(1)),
        When::Cron(fields) => fields.clone(),
        When::At(time) => format!("@at {}", time.to_rfc3339_opts(SecondsFormat::Secs, true)),
    }
}
