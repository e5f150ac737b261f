//! Subscribers: programs of others with a user at NATS and durable consumers of their own, which read some events and
//! nothing else.
//!
//! `permissions` has what the user of a subscriber may do, and the folder of keys has its name, subjects and password.

use std::collections::BTreeMap;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures_util::TryStreamExt as _;
use sluice_events::Event;
use thiserror::Error as ThisError;

use super::lookup::filters;
use super::stream_configs::MAX_IN_FLIGHT;
use crate::connection::Bus;
use crate::error::Error;
use crate::streams::facts::streams_of;
use crate::streams::subject_patterns::overlaps;
use crate::topology::{EVENTS, PULLS};

/// The beginning of the names of users and consumers; no stage has such a name.
const PREFIX: &str = "subscriber-";
/// The beginning of the subject of every event.
const ROOT: &str = "sluice.v1.";
const LIST: &str = "list the consumers of";
const MAX_NAME_LENGTH: usize = 48;

/// A program that reads the events of some subjects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriber {
    name: String,
    subjects: Vec<String>,
}

/// A subscriber that cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum InvalidSubscriber {
    /// The name has other characters than those that are allowed, or is too long.
    #[error(
        "`{0}` is not a name of a subscriber; use at most {MAX_NAME_LENGTH} lower-case letters, digits and `-` in between"
    )]
    Name(String),
    /// There is no subject.
    #[error("subscriber `{0}` has no subject; name what it may read, as in `sluice.v1.image.>`")]
    NoSubject(String),
    /// The subject does not follow the rules of NATS, or is not one of events.
    #[error(
        "`{0}` is not a subject of events; write for example `sluice.v1.image.promoted.>`, with `*` for one part or `>` for the rest"
    )]
    Subject(String),
    /// No event has a subject that matches.
    #[error(
        "no event matches the subject `{0}`; a subject is `sluice.v1.<event>.<organisation>.<name>` or ends in `.>`, and events are {list}",
        list = Event::TYPES.iter().map(|event| event.name).collect::<Vec<_>>().join(", ")
    )]
    NoEvent(String),
    /// The server does not deliver an event by two filters.
    #[error("subjects `{0}` and `{1}` match the same events; leave one out")]
    Overlap(String, String),
}

impl Subscriber {
    /// Checks a name.
    pub fn check_name(name: &str) -> Result<String, InvalidSubscriber> {
        let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let is_name = (1..=MAX_NAME_LENGTH).contains(&name.len())
            && name.bytes().all(is_allowed)
            && !name.starts_with('-')
            && !name.ends_with('-');
        let name = name.to_owned();
        if is_name {
            Ok(name)
        } else {
            Err(InvalidSubscriber::Name(name))
        }
    }

    /// Checks the name and the subjects.
    pub fn new(name: &str, mut subjects: Vec<String>) -> Result<Self, InvalidSubscriber> {
        let name = Self::check_name(name)?;
        if subjects.is_empty() {
            return Err(InvalidSubscriber::NoSubject(name));
        }
        let mut rest = subjects.as_slice();
        while let [subject, others @ ..] = rest {
            check_subject(subject)?;
            if let Some(other) = others.iter().find(|other| overlaps(subject, other)) {
                return Err(InvalidSubscriber::Overlap(subject.clone(), other.clone()));
            }
            rest = others;
        }
        subjects.sort_unstable();
        Ok(Self { name, subjects })
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the subjects that it reads.
    #[must_use]
    pub fn subjects(&self) -> &[String] {
        &self.subjects
    }

    /// Returns the name of its user at NATS, which is also that of its consumers.
    #[must_use]
    pub fn user(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// Returns the streams that hold events of its subjects, each with the subjects to filter by.
    pub(crate) fn sources(&self) -> Vec<(&'static str, Vec<String>)> {
        let of = |stream: &'static str| {
            let subjects = self.subjects.iter();
            let held = subjects.filter(|subject| streams_of(subject).any(|one| one == stream));
            (stream, held.cloned().collect::<Vec<_>>())
        };
        let all = [EVENTS, PULLS].map(of).into_iter();
        all.filter(|(_, subjects)| !subjects.is_empty()).collect()
    }
}

fn check_subject(subject: &str) -> Result<(), InvalidSubscriber> {
    let is_token = |token: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-/=".contains(&byte);
        token == "*" || (!token.is_empty() && token.bytes().all(is_allowed))
    };
    let parts = subject.strip_suffix(".>").unwrap_or(subject);
    if !subject.starts_with(ROOT) || !parts.split('.').all(is_token) {
        return Err(InvalidSubscriber::Subject(subject.to_owned()));
    }
    let is_published = |name: &str| overlaps(subject, &format!("{ROOT}{name}.*.*"));
    if Event::TYPES.iter().any(|event| is_published(event.name)) {
        return Ok(());
    }
    Err(InvalidSubscriber::NoEvent(subject.to_owned()))
}

/// The consumers of a subscriber.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriberStatus {
    /// The streams that it consumes.
    pub streams: Vec<&'static str>,
    /// The subjects that it reads.
    pub subjects: Vec<String>,
    /// The events that wait for it.
    pub pending: u64,
    /// The events that it has received and not acknowledged.
    pub unacknowledged: u64,
}

impl Bus {
    /// Creates the consumers of a subscriber, or updates their subjects; returns the streams.
    ///
    /// The consumers begin with the oldest event that the streams hold.
    pub async fn add_subscriber(
        &self,
        subscriber: &Subscriber,
    ) -> Result<Vec<&'static str>, Error> {
        let mut streams = Vec::new();
        for (stream, filter_subjects) in subscriber.sources() {
            let name = subscriber.user();
            let what = format!("{stream}/{name}");
            let config = pull::Config {
                durable_name: Some(name),
                filter_subjects,
                ack_policy: AckPolicy::Explicit,
                max_ack_pending: MAX_IN_FLIGHT,
                ..Default::default()
            };
            self.server()?
                .create_consumer_on_stream(config, stream)
                .await
                .map_err(Error::server("create consumer", what))?;
            streams.push(stream);
        }
        Ok(streams)
    }

    /// Deletes the consumers of a subscriber; returns whether there were any.
    pub async fn delete_subscriber(&self, name: &str) -> Result<bool, Error> {
        let mut is_deleted = false;
        for stream in [EVENTS, PULLS] {
            let consumer = format!("{PREFIX}{name}");
            if self.consumer_info(&consumer, stream).await?.is_some() {
                self.server()?
                    .delete_consumer_from_stream(&consumer, stream)
                    .await
                    .map_err(Error::server(
                        "delete consumer",
                        format!("{stream}/{consumer}"),
                    ))?;
                is_deleted = true;
            }
        }
        Ok(is_deleted)
    }

    /// Returns the consumers of all subscribers, by name.
    pub async fn subscribers(&self) -> Result<BTreeMap<String, SubscriberStatus>, Error> {
        let mut all: BTreeMap<String, SubscriberStatus> = BTreeMap::new();
        for stream in [EVENTS, PULLS] {
            let server = self.server()?;
            let found = server
                .get_stream(stream)
                .await
                .map_err(Error::server(LIST, stream))?;
            let mut consumers = found.consumers();
            while let Some(info) = consumers
                .try_next()
                .await
                .map_err(Error::server(LIST, stream))?
            {
                let durable = info.config.durable_name.as_deref();
                let Some(name) = durable.and_then(|name| name.strip_prefix(PREFIX)) else {
                    continue;
                };
                let status = all.entry(name.to_owned()).or_default();
                status.streams.push(stream);
                for subject in filters(&info.config) {
                    if !status.subjects.iter().any(|known| known == subject) {
                        status.subjects.push(subject.to_owned());
                    }
                }
                status.pending = status.pending.saturating_add(info.num_pending);
                let unacknowledged = u64::try_from(info.num_ack_pending).unwrap_or(0);
                status.unacknowledged = status.unacknowledged.saturating_add(unacknowledged);
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscriber(name: &str, subjects: &[&str]) -> Result<Subscriber, InvalidSubscriber> {
        let subjects = subjects.iter().map(ToString::to_string).collect();
        Subscriber::new(name, subjects)
    }

    #[test]
    fn a_name_can_be_part_of_the_name_of_a_user_and_of_a_file() {
        for name in ["deploys", "team-7", "0", &"a".repeat(48)] {
            assert!(subscriber(name, &["sluice.v1.>"]).is_ok(), "{name}");
        }
        for name in [
            "",
            "-a",
            "a-",
            "A",
            "a_b",
            "a.b",
            "a/b",
            "*",
            &"a".repeat(49),
        ] {
            let error = subscriber(name, &["sluice.v1.>"]).unwrap_err();
            assert_eq!(error, InvalidSubscriber::Name(name.to_owned()));
        }
    }

    #[test]
    fn a_subject_is_one_of_events_and_another_is_refused_with_the_events_that_exist() {
        for subject in [
            "sluice.v1.>",
            "sluice.v1.image.>",
            "sluice.v1.image.promoted.>",
            "sluice.v1.*.*.hub.node=2Ejs",
            "sluice.v1.image.promoted.official.a/b",
            "sluice.v1.tag.pulled.*.alpine",
        ] {
            assert!(subscriber("a", &[subject]).is_ok(), "{subject}");
        }
        for subject in [
            "",
            ">",
            "sluice.>",
            "sluice.v1",
            "sluice.v1.",
            "sluice.v1..>",
            "sluice.v1.image.>.a.b",
            "sluice.v1.im*.>",
            "sluice.v1.image. .>",
            "sluice.do.>",
            "$KV.decisions.>",
            "sluice.v1.image.\".>",
        ] {
            let error = subscriber("a", &[subject]).unwrap_err();
            assert_eq!(error, InvalidSubscriber::Subject(subject.to_owned()));
        }
        for subject in [
            "sluice.v1.images.>",
            "sluice.v1.image.promoted",
            "sluice.v1.image.promoted.official",
            "sluice.v1.image.promoted.official.alpine.3",
        ] {
            let error = subscriber("a", &[subject]).unwrap_err();
            assert_eq!(error, InvalidSubscriber::NoEvent(subject.to_owned()));
            assert!(error.to_string().contains("image.promoted, "), "{error}");
        }
        assert!(subscriber("a", &[]).is_err());
    }

    #[test]
    fn no_event_is_named_twice() {
        assert!(subscriber("a", &["sluice.v1.image.>", "sluice.v1.scan.>"]).is_ok());
        for [one, other] in [
            ["sluice.v1.image.>", "sluice.v1.image.promoted.>"],
            ["sluice.v1.image.>", "sluice.v1.image.>"],
            ["sluice.v1.*.promoted.>", "sluice.v1.image.*.>"],
        ] {
            let error = subscriber("a", &[one, other]).unwrap_err();
            let expected = InvalidSubscriber::Overlap(one.to_owned(), other.to_owned());
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn a_consumer_is_made_where_the_events_are() {
        let sources = |subjects: &[&str]| subscriber("a", subjects).unwrap().sources();
        let of = |stream, subjects: &[&str]| {
            let subjects: Vec<_> = subjects.iter().map(ToString::to_string).collect();
            (stream, subjects)
        };
        let images = "sluice.v1.image.>";
        assert_eq!(sources(&[images]), [of(EVENTS, &[images])]);
        let pulls = "sluice.v1.tag.pulled.>";
        assert_eq!(sources(&[pulls]), [of(PULLS, &[pulls])]);
        let all = [of(EVENTS, &["sluice.v1.>"]), of(PULLS, &["sluice.v1.>"])];
        assert_eq!(sources(&["sluice.v1.>"]), all);
        let both = [of(EVENTS, &[images]), of(PULLS, &[pulls])];
        assert_eq!(sources(&[images, pulls]), both);
    }
}
