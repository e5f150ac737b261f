//! What could not be done: list it, and drive it again into the stage that failed.

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Stream;
use chrono::{DateTime, Utc};
use sluice_events::headers;

use crate::cause::header;
use crate::connect::Bus;
use crate::error::Error;
use crate::topology::DEAD_LETTERS;

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

impl Bus {
    async fn dead_letter_stream(&self) -> Result<Stream, Error> {
        self.js
            .get_stream(DEAD_LETTERS)
            .await
            .map_err(Error::server("open stream", DEAD_LETTERS))
    }

    /// Lists dead letters, oldest first, at most `limit`.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        let stream = self.dead_letter_stream().await?;
        let state = &stream.cached_info().state;
        let mut letters = Vec::new();
        if state.messages == 0 {
            return Ok(letters);
        }
        for sequence in state.first_sequence..=state.last_sequence {
            if letters.len() >= limit {
                break;
            }
            // A gap is a letter that was driven again.
            let Ok(message) = stream.get_raw_message(sequence).await else {
                continue;
            };
            let read = |name: &str| header(Some(&message.headers), name).unwrap_or_default();
            letters.push(DeadLetter {
                sequence,
                stage: message
                    .subject
                    .strip_prefix("sluice.dead.")
                    .unwrap_or_default()
                    .to_owned(),
                type_name: read(headers::TYPE),
                subject: read("sluice-dead-subject"),
                reason: read("sluice-dead-reason"),
                attempts: read("sluice-dead-attempts"),
                at: DateTime::from_timestamp(message.time.unix_timestamp(), 0),
            });
        }
        Ok(letters)
    }

    /// Drives a dead letter again: only the stage that failed sees it, with its attempts counted anew.
    ///
    /// # Errors
    /// A number that does not exist, or a server that does not answer.
    pub async fn redrive(&self, sequence: u64) -> Result<(), Error> {
        let what = format!("{DEAD_LETTERS}/{sequence}");
        let stream = self.dead_letter_stream().await?;
        let message = stream
            .get_raw_message(sequence)
            .await
            .map_err(Error::server("read dead letter", &what))?;
        let stage = message
            .subject
            .strip_prefix("sluice.dead.")
            .unwrap_or_default();
        let mut map = async_nats::HeaderMap::new();
        for (name, values) in message.headers.iter() {
            let text: &str = name.as_ref();
            let text = text.to_ascii_lowercase();
            if text.starts_with("nats-")
                || text.starts_with("sluice-dead-")
                || text == crate::cause::ATTEMPTS
            {
                continue;
            }
            for value in values {
                map.append(name.clone(), value.clone());
            }
        }
        let id = format!("redrive/{sequence}/{}", message.time.unix_timestamp_nanos());
        let again = PublishMessage::build()
            .payload(message.payload.clone())
            .headers(map)
            .message_id(id);
        let pending = self
            .js
            .send_publish(format!("sluice.do.redrive.{stage}"), again)
            .await
            .map_err(Error::server("redrive", &what))?;
        pending.await.map_err(Error::server("redrive", &what))?;
        stream
            .delete_message(sequence)
            .await
            .map(drop)
            .map_err(Error::server("remove dead letter", what))
    }
}
