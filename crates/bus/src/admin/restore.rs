//! Restoration of one stream from its snapshot; `sluice restore` checks a backup and restores its streams in order.

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::jetstream_api::{ApiError, REQUEST_LIMIT, check_response, parse_response};
use super::snapshot::StreamSnapshot;
use crate::connection::Bus;
use crate::error::{BoxError, Error};

/// How long the server may take to restore a stream once it has all chunks.
const RESTORE_LIMIT: Duration = Duration::from_secs(600);
/// The error code for a message that does not exist.
const NOT_FOUND: u64 = 404;
const ACTION: &str = "restore";
/// The delays before a chunk that nobody received is sent again, over the whole snapshot.
const CHUNK_DELAYS: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(3),
    Duration::from_secs(5),
];
const SOURCES_ACTION: &str = "restore the sources of";

impl Bus {
    /// Creates a stream with its consumers from a snapshot, whose chunks `read` returns in order until there are none.
    ///
    /// # Errors
    /// A stream that exists, chunks that are not valid, or an error of `read`. The stream is then removed.
    pub async fn restore_stream(
        &self,
        snapshot: &StreamSnapshot,
        read: impl FnMut() -> Result<Option<Bytes>, BoxError>,
    ) -> Result<(), Error> {
        let name = snapshot.name.as_str();
        let mut config = snapshot.config.clone();
        let sources = config.as_object_mut().and_then(|all| all.remove("sources"));
        let request = json!({ "config": config, "state": snapshot.state });
        let subject = format!("$JS.API.STREAM.RESTORE.{name}");
        let response = self
            .api_request(&subject, request.to_string().into(), ACTION, name)
            .await?;
        let deliver = response.get("deliver_subject").and_then(Value::as_str);
        let deliver = deliver
            .filter(|subject| !subject.is_empty())
            .ok_or("the server names no subject to send the snapshot to")
            .map_err(Error::server(ACTION, name))?;
        let mut restored = self.send_snapshot(deliver, snapshot, read).await;
        if let (Ok(()), Some(sources)) = (&restored, sources) {
            restored = self.resume_sources(snapshot, sources).await;
        }
        if restored.is_err() {
            // The server keeps what it could restore of a snapshot that is not valid. In a cluster it may not show that yet.
            if let Err(error) = self.server()?.delete_stream(name).await {
                tracing::debug!(stream = name, %error, "nothing of a failed restore was deleted");
            }
        }
        restored
    }

    /// Makes a restored stream copy its sources from the position that the snapshot had reached.
    ///
    /// A restored source is a new one for the server, from which nothing was copied, so it would copy everything again.
    async fn resume_sources(
        &self,
        snapshot: &StreamSnapshot,
        mut sources: Value,
    ) -> Result<(), Error> {
        let name = snapshot.name.as_str();
        for source in sources.as_array_mut().into_iter().flatten() {
            let filter = source.get("filter_subject").and_then(Value::as_str);
            let last = self.last_copied(name, filter.unwrap_or(">")).await?;
            if let (Some(last), Some(source)) = (last, source.as_object_mut()) {
                source.insert("opt_start_seq".to_owned(), json!(last.saturating_add(1)));
            }
        }
        let mut config = snapshot.config.clone();
        if let Some(config) = config.as_object_mut() {
            config.insert("sources".to_owned(), sources);
        }
        let subject = format!("$JS.API.STREAM.UPDATE.{name}");
        self.api_request(&subject, config.to_string().into(), SOURCES_ACTION, name)
            .await?;
        Ok(())
    }

    /// Returns the sequence that the last copied message of a subject filter had in its source; nothing if there is none.
    async fn last_copied(&self, name: &str, filter: &str) -> Result<Option<u64>, Error> {
        let request = json!({ "last_by_subj": filter }).to_string();
        let subject = format!("$JS.API.STREAM.MSG.GET.{name}");
        let response = self
            .raw_request(
                &subject,
                request.into(),
                REQUEST_LIMIT,
                SOURCES_ACTION,
                name,
            )
            .await?;
        let response: Value =
            serde_json::from_slice(&response).map_err(Error::server(SOURCES_ACTION, name))?;
        if response.pointer("/error/code").and_then(Value::as_u64) == Some(NOT_FOUND) {
            return Ok(None);
        }
        check_response(&response).map_err(Error::server(SOURCES_ACTION, name))?;
        source_sequence(&response)
            .ok_or("a message does not name its source")
            .map_err(Error::server(SOURCES_ACTION, name))
            .map(Some)
    }

    async fn send_snapshot(
        &self,
        deliver: &str,
        snapshot: &StreamSnapshot,
        mut read: impl FnMut() -> Result<Option<Bytes>, BoxError>,
    ) -> Result<(), Error> {
        let name = snapshot.name.as_str();
        // In a cluster the node of this connection may learn a moment later who receives the chunks.
        let mut delays = CHUNK_DELAYS.into_iter();
        while let Some(chunk) = read().map_err(Error::server("read the snapshot of", name))? {
            let response = loop {
                let request = self.raw_request(deliver, chunk.clone(), REQUEST_LIMIT, ACTION, name);
                match request.await {
                    Err(error) if error.has_no_responders() => match delays.next() {
                        Some(delay) => sleep(delay).await,
                        None => return Err(error),
                    },
                    response => break response?,
                }
            };
            if !response.is_empty() {
                parse_response(&response).map_err(Error::server(ACTION, name))?;
            }
        }
        let response = self
            .raw_request(deliver, Bytes::new(), RESTORE_LIMIT, ACTION, name)
            .await?;
        let response = parse_response(&response).map_err(Error::server(ACTION, name))?;
        let last = |state: Option<&Value>| state?.get("last_seq")?.as_u64();
        let restored = last(response.get("state"));
        let expected = last(Some(&snapshot.state));
        if restored != expected {
            let error = format!("it ends at {restored:?} instead of {expected:?}");
            return Err(Error::server(ACTION, name)(ApiError(error)));
        }
        Ok(())
    }

    /// Removes a stream with its messages, if there is one.
    pub async fn delete_stream(&self, name: &str) -> Result<(), Error> {
        if self.stream_config(name).await?.is_some() {
            self.server()?
                .delete_stream(name)
                .await
                .map_err(Error::server("delete", name))?;
        }
        Ok(())
    }
}

/// Reads the sequence that a message had in the stream from which it was copied.
fn source_sequence(response: &Value) -> Option<u64> {
    let headers = response.pointer("/message/hdrs")?.as_str()?;
    let headers = base64::engine::general_purpose::STANDARD
        .decode(headers)
        .ok()?;
    let headers = String::from_utf8(headers).ok()?;
    let (_, source) = headers.split_once("Nats-Stream-Source: ")?;
    source.split_whitespace().nth(1)?.parse().ok()
}
