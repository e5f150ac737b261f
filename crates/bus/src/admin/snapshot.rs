//! Snapshots of whole streams with their consumers, in chunks, as the server's own tools request them.

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::jetstream_api::{ApiError, REQUEST_LIMIT};
use crate::connection::Bus;
use crate::error::{BoxError, Error};

/// The size of a chunk, as in the server's own tools.
const CHUNK_BYTES: u64 = 128 << 10;
/// The status of the last message of a snapshot that is complete.
const NO_CONTENT: u16 = 204;
const ACTION: &str = "take a snapshot of";

/// The description of a stream at the time of its snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamSnapshot {
    /// Its name.
    pub name: String,
    /// Its configuration, in the server's JSON.
    pub config: Value,
    /// Its state, in the server's JSON.
    pub state: Value,
}

impl StreamSnapshot {
    fn state_number(&self, name: &str) -> u64 {
        self.state.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Returns the number of its messages.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.state_number("messages")
    }

    /// Returns the number of its consumers.
    #[must_use]
    pub fn consumers(&self) -> u64 {
        self.state_number("consumer_count")
    }

    /// Returns a number of its configuration.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<u64> {
        self.config.get(name)?.as_u64()
    }
}

impl Bus {
    /// Takes a snapshot of a stream with its consumers, and passes its chunks to `write` in order.
    ///
    /// # Errors
    /// A stream that is missing or damaged, or an error of `write`.
    pub async fn snapshot_stream(
        &self,
        name: &str,
        mut write: impl FnMut(&[u8]) -> Result<(), BoxError>,
    ) -> Result<StreamSnapshot, Error> {
        let client = self.server()?.client();
        let inbox = client.new_inbox();
        let mut chunks = client
            .subscribe(inbox.clone())
            .await
            .map_err(Error::server(ACTION, name))?;
        let request = json!({ "deliver_subject": inbox, "chunk_size": CHUNK_BYTES, "jsck": true });
        let subject = format!("$JS.API.STREAM.SNAPSHOT.{name}");
        let response = self
            .api_request(&subject, request.to_string().into(), ACTION, name)
            .await?;
        loop {
            let chunk = tokio::time::timeout(REQUEST_LIMIT, chunks.next())
                .await
                .map_err(Error::server(ACTION, name))?
                .ok_or("the connection was lost")
                .map_err(Error::server(ACTION, name))?;
            if chunk.payload.is_empty() {
                // The last message reports an error in its status.
                let status = chunk.status.map(|status| status.as_u16());
                if status.is_some_and(|status| status != NO_CONTENT) {
                    let error = chunk.description.as_deref();
                    let error = error.unwrap_or("the server cancelled the snapshot");
                    return Err(Error::server(ACTION, name)(ApiError(error.to_owned())));
                }
                break;
            }
            write(&chunk.payload).map_err(Error::server("write the snapshot of", name))?;
            // The server sends a limited number of chunks that are not acknowledged.
            if let Some(reply) = chunk.reply {
                client
                    .publish(reply, Bytes::new())
                    .await
                    .map_err(Error::server(ACTION, name))?;
            }
        }
        let part = |part: &str| response.get(part).cloned().unwrap_or_default();
        Ok(StreamSnapshot {
            name: name.to_owned(),
            config: part("config"),
            state: part("state"),
        })
    }
}
