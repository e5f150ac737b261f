//! Snapshots of whole streams with their consumers, and their restoration, chunk by chunk.
//!
//! The client library has no call for either; the requests are those of the server's own tools.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::Info;
use base64::Engine as _;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error as ThisError;

use crate::connect::Bus;
use crate::error::Error;
use crate::handler::BoxError;
use crate::topology::{BACKUP_ORDER, STAGES};

/// The size of a chunk, as the server's own tools have it.
const CHUNK_BYTES: u64 = 128 << 10;
/// How long the next chunk, or the answer to one, may take.
const STALL: Duration = Duration::from_secs(60);
/// How long the server may take to make a stream of what it was given.
const LOAD: Duration = Duration::from_secs(600);
/// What the server says at the end of a snapshot.
const NO_CONTENT: u16 = 204;
/// What the server says where there is no such message.
const NOT_FOUND: u64 = 404;

/// What the server refused.
#[derive(Debug, ThisError)]
#[error("{0}")]
struct Refusal(String);

/// A stream as it was when its snapshot was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamSnapshot {
    /// Its name.
    pub name: String,
    /// How it is configured, as the server tells it.
    pub config: Value,
    /// What it held, as the server tells it.
    pub state: Value,
}

/// A stream that the server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSummary {
    /// Its name.
    pub name: &'static str,
    /// How many messages or entries it holds.
    pub messages: u64,
    /// When the last one was written.
    pub last_at: Option<DateTime<Utc>>,
}

impl StreamSnapshot {
    fn number(&self, name: &str) -> u64 {
        self.state.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Returns how many messages it held.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.number("messages")
    }

    /// Returns how many consumers it had.
    #[must_use]
    pub fn consumers(&self) -> u64 {
        self.number("consumer_count")
    }

    /// Returns a number of its configuration.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<u64> {
        self.config.get(name)?.as_u64()
    }
}

impl Bus {
    /// Returns the version of the server.
    ///
    /// # Errors
    /// A bus that leads to no server.
    pub fn server_version(&self) -> Result<String, Error> {
        Ok(self.server()?.client().server_info().version)
    }

    /// Returns the streams of the topology that the server has.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn streams(&self) -> Result<Vec<StreamSummary>, Error> {
        let mut found = Vec::new();
        for name in BACKUP_ORDER {
            if self.stream_config(name).await?.is_none() {
                continue;
            }
            let stream = self
                .server()?
                .get_stream(name)
                .await
                .map_err(Error::server("look up stream", name))?;
            let Info { state, .. } = stream.cached_info();
            let last = state.last_timestamp;
            found.push(StreamSummary {
                name,
                messages: state.messages,
                last_at: DateTime::from_timestamp(last.unix_timestamp(), 0)
                    .filter(|_| state.messages > 0),
            });
        }
        Ok(found)
    }

    /// Returns the stages that wait for work now, which is how a running service is seen.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn working_stages(&self) -> Result<Vec<&'static str>, Error> {
        let mut working = Vec::new();
        for (stage, stream) in consumers() {
            if self.consumer_config(stage, stream).await?.is_none() {
                continue;
            }
            let consumer: PullConsumer = self
                .server()?
                .get_consumer_from_stream(stage, stream)
                .await
                .map_err(Error::server(
                    "look up consumer",
                    format!("{stream}/{stage}"),
                ))?;
            if consumer.cached_info().num_waiting > 0 && !working.contains(&stage) {
                working.push(stage);
            }
        }
        Ok(working)
    }

    /// Has the stages take up no new work until then, or go on now; what they are at they finish.
    ///
    /// # Errors
    /// A consumer that is missing, or a server that does not answer.
    pub async fn pause_stages(&self, until: Option<DateTime<Utc>>) -> Result<(), Error> {
        let body = match until {
            Some(until) => {
                json!({ "pause_until": until.to_rfc3339_opts(SecondsFormat::Secs, true) })
            }
            None => json!({}),
        };
        for (stage, stream) in consumers() {
            let what = format!("{stream}/{stage}");
            let subject = format!("$JS.API.CONSUMER.PAUSE.{stream}.{stage}");
            self.ask(&subject, body.to_string().into(), "pause", &what)
                .await?;
        }
        Ok(())
    }

    /// Takes a snapshot of a stream with its consumers, and hands it over in chunks that are in order.
    ///
    /// # Errors
    /// A stream that is missing or damaged, a server that stops, or what `write` says.
    pub async fn snapshot_stream(
        &self,
        name: &str,
        mut write: impl FnMut(&[u8]) -> Result<(), BoxError>,
    ) -> Result<StreamSnapshot, Error> {
        const ACTION: &str = "take a snapshot of";
        let client = self.server()?.client();
        let inbox = client.new_inbox();
        let mut chunks = client
            .subscribe(inbox.clone())
            .await
            .map_err(Error::server(ACTION, name))?;
        let request = json!({ "deliver_subject": inbox, "chunk_size": CHUNK_BYTES, "jsck": true });
        let subject = format!("$JS.API.STREAM.SNAPSHOT.{name}");
        let answer = self
            .ask(&subject, request.to_string().into(), ACTION, name)
            .await?;
        loop {
            let chunk = tokio::time::timeout(STALL, chunks.next())
                .await
                .map_err(Error::server(ACTION, name))?
                .ok_or("the connection was lost")
                .map_err(Error::server(ACTION, name))?;
            if chunk.payload.is_empty() {
                // Where something went wrong on the way, the end says so in its status.
                let status = chunk.status.map(|status| status.as_u16());
                if status.is_some_and(|status| status != NO_CONTENT) {
                    let told = chunk.description.as_deref().unwrap_or("the server gave up");
                    let told = told.to_owned();
                    return Err(Error::server(ACTION, name)(Refusal(told)));
                }
                break;
            }
            write(&chunk.payload).map_err(Error::server("write the snapshot of", name))?;
            // The server sends no more than a window of chunks that nobody has acknowledged.
            if let Some(reply) = chunk.reply {
                client
                    .publish(reply, Bytes::new())
                    .await
                    .map_err(Error::server(ACTION, name))?;
            }
        }
        let part = |part: &str| answer.get(part).cloned().unwrap_or_default();
        Ok(StreamSnapshot {
            name: name.to_owned(),
            config: part("config"),
            state: part("state"),
        })
    }

    /// Makes a stream with its consumers of a snapshot; what `read` returns are its bytes, in order, until there are none.
    ///
    /// # Errors
    /// A stream that exists, bytes that are no snapshot, or a server that stops. Nothing is left of the stream then.
    pub async fn restore_stream(
        &self,
        snapshot: &StreamSnapshot,
        read: impl FnMut() -> Result<Option<Bytes>, BoxError>,
    ) -> Result<(), Error> {
        const ACTION: &str = "restore";
        let name = snapshot.name.as_str();
        let mut config = snapshot.config.clone();
        let sources = config.as_object_mut().and_then(|all| all.remove("sources"));
        let request = json!({ "config": config, "state": snapshot.state });
        let subject = format!("$JS.API.STREAM.RESTORE.{name}");
        let answer = self
            .ask(&subject, request.to_string().into(), ACTION, name)
            .await?;
        let deliver = answer.get("deliver_subject").and_then(Value::as_str);
        let deliver = deliver
            .filter(|subject| !subject.is_empty())
            .ok_or("the server says nowhere to send it to")
            .map_err(Error::server(ACTION, name))?
            .to_owned();
        let mut filled = self.fill(&deliver, snapshot, read).await;
        if let (Ok(()), Some(sources)) = (&filled, sources) {
            filled = self.go_on(snapshot, sources).await;
        }
        match filled {
            Ok(()) => Ok(()),
            Err(error) => {
                // The server keeps what it understood of a snapshot that it does not understand.
                self.delete_stream(name).await?;
                Err(error)
            }
        }
    }

    /// Has a stream go on to follow its sources, from where it was.
    ///
    /// For the server a source that was restored is another one than before, of which nothing has been taken yet; left
    /// to itself it would take everything once more.
    async fn go_on(&self, snapshot: &StreamSnapshot, mut sources: Value) -> Result<(), Error> {
        const ACTION: &str = "restore the sources of";
        let name = snapshot.name.as_str();
        for source in sources.as_array_mut().into_iter().flatten() {
            let filter = source.get("filter_subject").and_then(Value::as_str);
            let request = json!({ "last_by_subj": filter.unwrap_or(">") }).to_string();
            let request = async_nats::Request::new()
                .payload(request.into())
                .timeout(Some(STALL));
            let subject = format!("$JS.API.STREAM.MSG.GET.{name}");
            let answer = self
                .server()?
                .client()
                .send_request(subject, request)
                .await
                .map_err(Error::server(ACTION, name))?;
            let answer: Value =
                serde_json::from_slice(&answer.payload).map_err(Error::server(ACTION, name))?;
            let code = answer.pointer("/error/code").and_then(Value::as_u64);
            // There may have been nothing yet.
            if code != Some(NOT_FOUND) {
                refused(&answer).map_err(Error::server(ACTION, name))?;
                let last = taken_last(&answer)
                    .ok_or("a message does not say where it came from")
                    .map_err(Error::server(ACTION, name))?;
                if let Some(source) = source.as_object_mut() {
                    source.insert("opt_start_seq".to_owned(), json!(last.saturating_add(1)));
                }
            }
        }
        let mut config = snapshot.config.clone();
        if let Some(config) = config.as_object_mut() {
            config.insert("sources".to_owned(), sources);
        }
        let subject = format!("$JS.API.STREAM.UPDATE.{name}");
        self.ask(&subject, config.to_string().into(), ACTION, name)
            .await?;
        Ok(())
    }

    async fn fill(
        &self,
        deliver: &str,
        snapshot: &StreamSnapshot,
        mut read: impl FnMut() -> Result<Option<Bytes>, BoxError>,
    ) -> Result<(), Error> {
        const ACTION: &str = "restore";
        let name = snapshot.name.as_str();
        while let Some(chunk) = read().map_err(Error::server("read the snapshot of", name))? {
            let answer = self.send_chunk(deliver, chunk, STALL, name).await?;
            if !answer.is_empty() {
                let told: Value =
                    serde_json::from_slice(&answer).map_err(Error::server(ACTION, name))?;
                refused(&told).map_err(Error::server(ACTION, name))?;
            }
        }
        let answer = self.send_chunk(deliver, Bytes::new(), LOAD, name).await?;
        let answer: Value = serde_json::from_slice(&answer).map_err(Error::server(ACTION, name))?;
        refused(&answer).map_err(Error::server(ACTION, name))?;
        let last = |state: Option<&Value>| state?.get("last_seq")?.as_u64();
        let (now, then) = (last(answer.get("state")), last(Some(&snapshot.state)));
        if now != then {
            let told = format!("it ends at {now:?} instead of {then:?}");
            return Err(Error::server(ACTION, name)(Refusal(told)));
        }
        Ok(())
    }

    async fn send_chunk(
        &self,
        deliver: &str,
        chunk: Bytes,
        limit: Duration,
        name: &str,
    ) -> Result<Bytes, Error> {
        let request = async_nats::Request::new()
            .payload(chunk)
            .timeout(Some(limit));
        let answer = self
            .server()?
            .client()
            .send_request(deliver.to_owned(), request)
            .await
            .map_err(Error::server("restore", name))?;
        Ok(answer.payload)
    }

    /// Removes a stream with all that it holds, if there is one.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn delete_stream(&self, name: &str) -> Result<(), Error> {
        if self.stream_config(name).await?.is_some() {
            self.server()?
                .delete_stream(name)
                .await
                .map_err(Error::server("delete", name))?;
        }
        Ok(())
    }

    /// Makes a request of JetStream's own interface, and returns its answer unless that is a refusal.
    async fn ask(
        &self,
        subject: &str,
        body: Bytes,
        action: &'static str,
        what: &str,
    ) -> Result<Value, Error> {
        let request = async_nats::Request::new()
            .payload(body)
            .timeout(Some(STALL));
        let answer = self
            .server()?
            .client()
            .send_request(subject.to_owned(), request)
            .await
            .map_err(Error::server(action, what))?;
        let answer: Value =
            serde_json::from_slice(&answer.payload).map_err(Error::server(action, what))?;
        refused(&answer).map_err(Error::server(action, what))?;
        Ok(answer)
    }
}

/// Reads where a message stood in the stream that it was taken from.
fn taken_last(answer: &Value) -> Option<u64> {
    let headers = answer.pointer("/message/hdrs")?.as_str()?;
    let headers = base64::engine::general_purpose::STANDARD
        .decode(headers)
        .ok()?;
    let headers = String::from_utf8(headers).ok()?;
    let (_, told) = headers.split_once("Nats-Stream-Source: ")?;
    told.split_whitespace().nth(1)?.parse().ok()
}

fn refused(answer: &Value) -> Result<(), Refusal> {
    let Some(error) = answer.get("error") else {
        return Ok(());
    };
    let told = error.get("description").and_then(Value::as_str);
    Err(Refusal(told.unwrap_or("the server refused").to_owned()))
}

/// Returns every consumer of every stage, as stage and stream.
fn consumers() -> impl Iterator<Item = (&'static str, &'static str)> {
    STAGES.into_iter().flat_map(|stage| {
        let sources = stage.sources().into_iter();
        sources.map(|(stream, _)| (stage.name, stream))
    })
}
