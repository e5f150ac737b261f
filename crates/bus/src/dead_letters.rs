//! What could not be done: list it, and drive it again into the stage that failed.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::RawMessageErrorKind;
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use sluice_events::{Message, headers};
use sluice_service::crash;

use crate::backend::Link;
use crate::connect::Bus;
use crate::envelope::{
    ATTEMPTS, DEAD_ATTEMPTS, DEAD_REASON, DEAD_SUBJECT, WAITS, WAITS_FOR, copied, header,
};
use crate::error::Error;
use crate::read::to_the_end;
use crate::topology::{DEAD_LETTERS, STAGES, Stage};

/// What stands before the stage in the subject of a dead letter.
const SUBJECT: &str = "sluice.dead.";

/// The most messages that one reading returns; memory does not grow with what was given up.
const MOST_GIVEN_UP: usize = 10_000;

/// A message that could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number.
    pub sequence: u64,
    /// The stage that failed.
    pub stage: String,
    /// The full name of the message's type.
    pub type_name: String,
    /// The subject it came on.
    pub subject: String,
    /// Why it could not be done.
    pub reason: String,
    /// How often it was tried.
    pub attempts: String,
    /// When it was given up.
    pub at: Option<DateTime<Utc>>,
}

impl DeadLetter {
    fn new(sequence: u64, subject: &str, map: Option<&HeaderMap>, seconds: i64) -> Self {
        let read = |name: &str| header(map, name).unwrap_or_default();
        Self {
            sequence,
            stage: subject.strip_prefix(SUBJECT).unwrap_or_default().to_owned(),
            type_name: read(headers::TYPE),
            subject: read(DEAD_SUBJECT),
            reason: read(DEAD_REASON),
            attempts: read(DEAD_ATTEMPTS),
            at: DateTime::from_timestamp(seconds, 0),
        }
    }
}

impl Bus {
    /// Lists dead letters, oldest first, at most `limit`.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        let config = pull::OrderedConfig {
            filter_subject: format!("{SUBJECT}>"),
            deliver_policy: DeliverPolicy::All,
            headers_only: true,
            ..Default::default()
        };
        let consumer = self
            .server()?
            .create_consumer_on_stream(config, DEAD_LETTERS)
            .await
            .map_err(Error::server("list", DEAD_LETTERS))?;
        let mut letters = Vec::new();
        to_the_end(consumer, "list", DEAD_LETTERS, |message| {
            if letters.len() >= limit {
                return ControlFlow::Break(());
            }
            if let Ok(info) = message.info() {
                letters.push(DeadLetter::new(
                    info.stream_sequence,
                    &message.subject,
                    message.headers.as_ref(),
                    info.published.unix_timestamp(),
                ));
            }
            ControlFlow::Continue(())
        })
        .await?;
        Ok(letters)
    }

    /// Returns the messages that a stage gave up, as far as they can be read; only the newest 10,000. A bus that leads to
    /// no server keeps none.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn dead_lettered(&self, stage: &Stage) -> Result<Vec<Message>, Error> {
        if matches!(self.link, Link::Simulated(_)) {
            return Ok(Vec::new());
        }
        let filter = format!("{SUBJECT}{}", stage.name);
        let consumer = self
            .reader(DEAD_LETTERS, &filter, DeliverPolicy::All)
            .await?;
        let mut messages = VecDeque::new();
        to_the_end(consumer, "read", DEAD_LETTERS, |letter| {
            if messages.len() == MOST_GIVEN_UP {
                messages.pop_front();
            }
            let type_name = header(letter.headers.as_ref(), headers::TYPE).unwrap_or_default();
            messages.extend(Message::decode(&type_name, &letter.payload).ok());
            ControlFlow::Continue(())
        })
        .await?;
        Ok(messages.into())
    }

    /// Returns how many dead letters each stage has.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn dead_letter_counts(&self) -> Result<Vec<(&'static str, usize)>, Error> {
        let info = self
            .server()?
            .get_stream_no_info(DEAD_LETTERS)
            .await
            .map_err(Error::server("open stream", DEAD_LETTERS))?
            .info_builder()
            .subjects(format!("{SUBJECT}>"))
            .fetch()
            .await
            .map_err(Error::server("count", DEAD_LETTERS))?;
        let subjects: Vec<(String, usize)> = info
            .try_collect()
            .await
            .map_err(Error::server("count", DEAD_LETTERS))?;
        let count = |stage: &Stage| {
            let own =
                |(subject, _): &&(String, usize)| subject.strip_prefix(SUBJECT) == Some(stage.name);
            subjects.iter().find(own).map_or(0, |(_, count)| *count)
        };
        Ok(STAGES.map(|stage| (stage.name, count(stage))).into())
    }

    /// Reads one dead letter.
    ///
    /// # Errors
    /// [`Error::Missing`] for a number that does not exist, or a server that does not answer.
    pub async fn dead_letter(&self, sequence: u64) -> Result<DeadLetter, Error> {
        let message = self.letter(sequence).await?;
        Ok(DeadLetter::new(
            sequence,
            &message.subject,
            Some(&message.headers),
            message.time.unix_timestamp(),
        ))
    }

    /// Drives a dead letter again: only the stage that failed sees it, with its attempts counted anew.
    ///
    /// # Errors
    /// [`Error::Missing`] for a number that does not exist, or a server that does not answer.
    pub async fn redrive(&self, sequence: u64) -> Result<(), Error> {
        let what = format!("{DEAD_LETTERS}/{sequence}");
        let message = self.letter(sequence).await?;
        let stage = message.subject.strip_prefix(SUBJECT).unwrap_or_default();
        let map = copied(Some(&message.headers), |name| {
            ![ATTEMPTS, WAITS, WAITS_FOR].contains(&name) && !name.starts_with("sluice-dead-")
        });
        // The time is that of the letter, so that a redrive whose second half failed is not one more.
        let id = format!("redrive/{sequence}/{}", message.time.unix_timestamp_nanos());
        let again = PublishMessage::build()
            .payload(message.payload.clone())
            .headers(map)
            .message_id(id);
        let pending = self
            .server()?
            .send_publish(format!("sluice.do.redrive.{stage}"), again)
            .await
            .map_err(Error::server("redrive", &what))?;
        pending.await.map_err(Error::server("redrive", &what))?;
        crash::point("dead-letters.redriven");
        self.server()?
            .get_stream_no_info(DEAD_LETTERS)
            .await
            .map_err(Error::server("open stream", DEAD_LETTERS))?
            .delete_message(sequence)
            .await
            .map(drop)
            .map_err(Error::server("remove dead letter", what))
    }

    async fn letter(&self, sequence: u64) -> Result<StreamMessage, Error> {
        let what = format!("{DEAD_LETTERS}/{sequence}");
        self.server()?
            .get_stream_no_info(DEAD_LETTERS)
            .await
            .map_err(Error::server("open stream", DEAD_LETTERS))?
            .get_raw_message(sequence)
            .await
            .map_err(|error| match error.kind() {
                RawMessageErrorKind::NoMessageFound => Error::Missing { what },
                _ => Error::server("read dead letter", what)(error),
            })
    }
}
