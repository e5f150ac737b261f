//! Asks the servers to read their configuration again; only the user `system` may.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::Value;
use sluice_service::error_chain;
use tokio::time::timeout;

use crate::admin::jetstream_api::parse_response;
use crate::connection::Bus;
use crate::error::Error;

/// The request that every server answers with its id, its name and the number of servers.
const PING: &str = "$SYS.REQ.SERVER.PING";
/// How long to wait for the answer of one more server; one that does not run reads its configuration when it starts.
const PING_LIMIT: Duration = Duration::from_secs(2);
const NATS: &str = "nats-server";
/// How long a server may take to read its configuration.
const RELOAD_LIMIT: Duration = Duration::from_secs(10);
const ACTION: &str = "reload the configuration of";

impl Bus {
    /// Makes every server that runs read its configuration again; returns their names.
    ///
    /// Each reads it twice: the first time nats-server 2.15 creates a new account, but imports nothing into it; the second
    /// time it does.
    ///
    /// # Errors
    /// No server answers, or one refuses its configuration and keeps the one that it has.
    pub async fn reload_servers(&self) -> Result<Vec<String>, Error> {
        let servers = self.running_servers().await?;
        for (id, name) in &servers {
            if let Err(error) = self.reload_server(id, name).await {
                // nats-server 2.15.1 can crash at a reload, if a client subscribes at this moment. Started again it has
                // another id, and has read its configuration.
                if self.running_servers().await?.contains_key(id) {
                    return Err(error);
                }
                let error = error_chain(&error);
                tracing::warn!(
                    server = name,
                    error,
                    "a server ended at the reload; it reads the files when it starts again"
                );
            }
        }
        Ok(servers.into_values().collect())
    }

    async fn reload_server(&self, id: &str, name: &str) -> Result<(), Error> {
        let subject = format!("$SYS.REQ.SERVER.{id}.RELOAD");
        for _ in 0..2 {
            let response = self
                .raw_request(&subject, Bytes::new(), RELOAD_LIMIT, ACTION, name)
                .await?;
            parse_response(&response).map_err(Error::server(ACTION, name))?;
        }
        Ok(())
    }

    /// Returns the names of the servers that run, by their ids.
    async fn running_servers(&self) -> Result<BTreeMap<String, String>, Error> {
        let client = self.server()?.client();
        let inbox = client.new_inbox();
        let mut answers = client
            .subscribe(inbox.clone())
            .await
            .map_err(Error::server(ACTION, NATS))?;
        client
            .publish_with_reply(PING, inbox, Bytes::new())
            .await
            .map_err(Error::server(ACTION, NATS))?;
        let mut servers = BTreeMap::new();
        while let Ok(Some(answer)) = timeout(PING_LIMIT, answers.next()).await {
            let answer: Value =
                serde_json::from_slice(&answer.payload).map_err(Error::server(ACTION, NATS))?;
            let part = |path: &str| answer.pointer(path).and_then(Value::as_str);
            if let (Some(id), Some(name)) = (part("/server/id"), part("/server/name")) {
                servers.insert(id.to_owned(), name.to_owned());
            }
            // The count includes servers that were killed, until the others notice.
            let running = answer.pointer("/statsz/active_servers");
            let running = running.and_then(Value::as_u64).unwrap_or(1);
            if u64::try_from(servers.len()).is_ok_and(|count| count >= running) {
                break;
            }
        }
        if servers.is_empty() {
            return Err(Error::server(ACTION, NATS)(
                "no server answers the user `system`",
            ));
        }
        Ok(servers)
    }
}
