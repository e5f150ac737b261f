//! Dead letters: messages that failed for good. They are listed, counted, and redriven into the stage that failed.

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

use super::reader::drain_pending;
use crate::connection::Bus;
use crate::connection::headers::{
    ATTEMPTS, DEAD_ATTEMPTS, DEAD_REASON, DEAD_SUBJECT, WAITS, WAITS_FOR, copy_headers, header,
};
use crate::error::Error;
use crate::topology::{DEAD_LETTER, DEAD_LETTERS, STAGES, Stage};

/// The most messages that one reading returns, so that memory does not grow with the dead letters.
const MAX_MESSAGES: usize = 10_000;

/// A message that failed for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its sequence in the stream of dead letters.
    pub sequence: u64,
    /// The stage that failed.
    pub stage: String,
    /// The full name of the message's type.
    pub type_name: String,
    /// The subject on which the message had been delivered.
    pub subject: String,
    /// The error of the last attempt.
    pub reason: String,
    /// The number of attempts.
    pub attempts: String,
    /// When it became a dead letter.
    pub at: Option<DateTime<Utc>>,
}

impl DeadLetter {
    fn new(sequence: u64, subject: &str, map: Option<&HeaderMap>, seconds: i64) -> Self {
        let read = |name: &str| header(map, name).unwrap_or_default();
        Self {
            sequence,
            stage: stage_of(subject).to_owned(),
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
    pub async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        let config = pull::OrderedConfig {
            filter_subject: format!("{DEAD_LETTER}>"),
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
        drain_pending(consumer, "list", DEAD_LETTERS, |message| {
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

    /// Returns the dead-lettered messages of a stage that can be decoded, at most the newest 10,000; none in a simulation.
    pub async fn dead_lettered(&self, stage: &Stage) -> Result<Vec<Message>, Error> {
        if self.is_simulated() {
            return Ok(Vec::new());
        }
        let filter = format!("{DEAD_LETTER}{}", stage.name);
        let consumer = self
            .ordered_consumer(DEAD_LETTERS, &filter, DeliverPolicy::All)
            .await?;
        let mut messages = VecDeque::new();
        drain_pending(consumer, "read", DEAD_LETTERS, |letter| {
            if messages.len() == MAX_MESSAGES {
                messages.pop_front();
            }
            let type_name = header(letter.headers.as_ref(), headers::TYPE).unwrap_or_default();
            messages.extend(Message::decode(&type_name, &letter.payload).ok());
            ControlFlow::Continue(())
        })
        .await?;
        Ok(messages.into())
    }

    /// Returns the number of dead letters of each stage.
    pub async fn dead_letter_counts(&self) -> Result<Vec<(&'static str, usize)>, Error> {
        let stream = self.stream_handle(DEAD_LETTERS).await?;
        let info = stream.info_builder().subjects(format!("{DEAD_LETTER}>"));
        let subjects = info
            .fetch()
            .await
            .map_err(Error::server("count", DEAD_LETTERS))?;
        let subjects: Vec<(String, usize)> = subjects
            .try_collect()
            .await
            .map_err(Error::server("count", DEAD_LETTERS))?;
        let count = |stage: &Stage| {
            let is_own = |(subject, _): &&(String, usize)| stage_of(subject) == stage.name;
            subjects.iter().find(is_own).map_or(0, |(_, count)| *count)
        };
        Ok(STAGES.map(|stage| (stage.name, count(stage))).into())
    }

    /// Reads one dead letter.
    ///
    /// # Errors
    /// [`Error::Missing`] for a sequence that does not exist.
    pub async fn dead_letter(&self, sequence: u64) -> Result<DeadLetter, Error> {
        let message = self.read_dead_letter(sequence).await?;
        Ok(DeadLetter::new(
            sequence,
            &message.subject,
            Some(&message.headers),
            message.time.unix_timestamp(),
        ))
    }

    /// Publishes a dead letter again for the stage that failed, with its attempts reset, and removes it.
    ///
    /// # Errors
    /// [`Error::Missing`] for a sequence that does not exist.
    pub async fn redrive(&self, sequence: u64) -> Result<(), Error> {
        let what = format!("{DEAD_LETTERS}/{sequence}");
        let message = self.read_dead_letter(sequence).await?;
        let stage = stage_of(&message.subject);
        let map = copy_headers(Some(&message.headers), |name| {
            ![ATTEMPTS, WAITS, WAITS_FOR].contains(&name) && !name.starts_with("sluice-dead-")
        });
        // The id is that of the dead letter, so that a redrive that died before the removal publishes nothing twice.
        let id = format!("redrive/{sequence}/{}", message.time.unix_timestamp_nanos());
        let redriven = PublishMessage::build()
            .payload(message.payload.clone())
            .headers(map)
            .message_id(id);
        let confirmation = self
            .server()?
            .send_publish(format!("sluice.do.redrive.{stage}"), redriven)
            .await
            .map_err(Error::server("redrive", &what))?;
        confirmation
            .await
            .map_err(Error::server("redrive", &what))?;
        crash::point("dead-letters.redriven");
        let removed = self
            .stream_handle(DEAD_LETTERS)
            .await?
            .delete_message(sequence)
            .await;
        removed
            .map(drop)
            .map_err(Error::server("remove dead letter", what))
    }

    async fn read_dead_letter(&self, sequence: u64) -> Result<StreamMessage, Error> {
        let what = format!("{DEAD_LETTERS}/{sequence}");
        let stream = self.stream_handle(DEAD_LETTERS).await?;
        stream
            .get_raw_message(sequence)
            .await
            .map_err(|error| match error.kind() {
                RawMessageErrorKind::NoMessageFound => Error::Missing { what },
                _ => Error::server("read dead letter", what)(error),
            })
    }
}

/// Returns the stage of a dead letter by its subject.
fn stage_of(subject: &str) -> &str {
    subject.strip_prefix(DEAD_LETTER).unwrap_or_default()
}
