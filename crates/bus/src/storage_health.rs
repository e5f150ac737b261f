//! Whether the streams take what is sent to them: a server with a full disk is connected, reads, and confirms nothing.
//!
//! It does not say why it stays silent, and stays so when there is room again, until it is started anew.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use bytes::Bytes;
use sluice_service::{Host, Latch};
use tokio_util::sync::CancellationToken;

use crate::connect::Bus;
use crate::error::Error;

/// A bucket whose entries go by themselves.
const PROBED: &str = "tombstones";
/// More than a page, so that it does not fit into what is left of the last one.
const PROBE: Bytes = Bytes::from_static(&[0; 6 << 10]);
const PROBE_LIMIT: Duration = Duration::from_secs(3);
const PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// How it begins what a process waits for that cannot store anything.
pub const STORES_NOTHING: &str = "nats-server stores nothing";
/// What to do about a stream that confirms nothing.
const ADVICE: &str =
    "if the disk of nats-server is full, free some room and then start nats-server anew";

/// Remembers the streams that confirm nothing; while there is one, the service is not ready. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct StorageHealth {
    host: Option<Host>,
    silent: Arc<Mutex<BTreeMap<String, Option<Latch>>>>,
    /// How often the server was connected to.
    connections: Arc<AtomicU64>,
}

/// Counts the connections, so that an answer is matched with the one over which it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionEpoch(u64);

impl StorageHealth {
    /// Keeps this host from being ready where a stream is silent.
    pub(crate) fn of(host: Host) -> Self {
        Self {
            host: Some(host),
            ..Self::default()
        }
    }

    /// Returns what [`StorageHealth::note`] has to know of the moment in which something is sent.
    pub(crate) fn moment(&self) -> ConnectionEpoch {
        ConnectionEpoch(self.connections.load(Ordering::Relaxed))
    }

    /// Takes note of how something was sent to a stream, and hands the result on.
    pub(crate) fn note<T, E>(
        &self,
        client: &Client,
        sent_in: ConnectionEpoch,
        stream: &str,
        sent: Result<T, E>,
    ) -> Result<T, E>
    where
        E: std::error::Error + 'static,
    {
        match &sent {
            Err(error) if timed_out(error) => {
                // What was lost together with a connection says nothing of the server behind the next.
                if client.connection_state() == State::Connected && sent_in == self.moment() {
                    self.is_silent(stream);
                }
            }
            // Whoever refuses does answer, but a refusal comes before anything is stored.
            Err(_) => {}
            Ok(_) => self.stores(stream),
        }
        sent
    }

    fn is_silent(&self, stream: &str) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if silent.contains_key(stream) {
            return;
        }
        tracing::error!(stream, "nats-server confirms nothing; {ADVICE}");
        let latch = self
            .host
            .as_ref()
            .map(|host| host.latch(&format!("bus: {STORES_NOTHING} in `{stream}`; {ADVICE}")));
        silent.insert(stream.to_owned(), latch);
    }

    fn stores(&self, stream: &str) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if silent.remove(stream).is_some() {
            tracing::info!(stream, "nats-server stores again");
        }
    }

    /// Forgets everything: a server that was connected to anew may store again.
    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.clear();
    }
}

fn timed_out(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.to_string().contains("timed out") {
            return true;
        }
        next = error.source();
    }
    false
}

impl Bus {
    /// Tries to store something, and says what to do where nothing is stored.
    ///
    /// A stream that failed while the disk was full stays silent when there is room again; this tries one only.
    ///
    /// # Errors
    /// A bucket that was not provisioned.
    pub async fn storing(&self) -> Result<Option<String>, Error> {
        let bucket = self.bucket(PROBED).await?;
        let key = self.probe();
        let probe = bucket.put(&key, PROBE);
        let stored = tokio::time::timeout(PROBE_LIMIT, probe).await;
        Ok(match stored {
            Ok(Ok(_)) => None,
            Ok(Err(_)) | Err(_) => Some(format!("{STORES_NOTHING}; {ADVICE}")),
        })
    }

    /// Stores something now and then, until it is told to stop.
    ///
    /// Where nothing is stored, no schedule fires either, and nobody would notice. Only for services that may write the
    /// bucket.
    ///
    /// # Errors
    /// A bucket that was not provisioned.
    pub async fn keep_probing(&self, stopping: CancellationToken) -> Result<(), Error> {
        let bucket = self.bucket(PROBED).await?;
        loop {
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                () = tokio::time::sleep(PROBE_INTERVAL) => {}
            }
            if let Err(error) = bucket.put(&self.probe(), PROBE).await {
                tracing::warn!(%error, "a probe was not stored");
            }
        }
    }

    fn probe(&self) -> String {
        format!("probe.{}", self.service)
    }
}
