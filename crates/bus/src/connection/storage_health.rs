//! Whether streams store: a server with a full disk stays connected, serves reads, and confirms no message.
//!
//! It reports no error, and goes on confirming nothing after room was made, until it is restarted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::connection::State;
use async_nats::jetstream::Context;
use sluice_service::{Host, Latch, error_chain};

/// The beginning of what a service that cannot store waits for, and of the warning of `sluice status`.
pub const NOT_STORING: &str = "nats-server stores nothing";
/// What to do about a stream that confirms nothing.
pub(crate) const ADVICE: &str =
    "if the disk of nats-server is full, free some room and then restart nats-server";

/// The streams that confirm nothing; while there is one, the service is not ready. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct StorageHealth {
    host: Option<Host>,
    failing: Arc<Mutex<BTreeMap<String, Option<Latch>>>>,
    /// How many times the client has connected.
    connections: Arc<AtomicU64>,
}

/// Counts connections, so that a result is attributed to the connection on which the message was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ConnectionEpoch(u64);

impl StorageHealth {
    /// Keeps this host from being ready while a stream confirms nothing.
    pub(crate) fn of_host(host: Host) -> Self {
        Self {
            host: Some(host),
            ..Self::default()
        }
    }

    /// Awaits the confirmation of a message by a stream, and records whether the stream stores.
    pub(crate) async fn watch<T, E>(
        &self,
        context: &Context,
        stream: &str,
        confirmation: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E>
    where
        E: std::error::Error + 'static,
    {
        let sent_in = self.epoch();
        let result = confirmation.await;
        match &result {
            Err(error) if is_timeout(error) => {
                // A confirmation that was lost with its connection says nothing about the server of the next one.
                let is_connected = context.client().connection_state() == State::Connected;
                if is_connected && sent_in == self.epoch() {
                    self.record_failing(stream);
                }
            }
            // The server refuses a message before it stores anything, so a refusal proves nothing.
            Err(_) => {}
            Ok(_) => self.record_storing(stream),
        }
        result
    }

    fn epoch(&self) -> ConnectionEpoch {
        ConnectionEpoch(self.connections.load(Ordering::Relaxed))
    }

    fn record_failing(&self, stream: &str) {
        let mut failing = self.failing();
        if failing.contains_key(stream) {
            return;
        }
        tracing::error!(stream, "nats-server confirms nothing; {ADVICE}");
        let latch = self
            .host
            .as_ref()
            .map(|host| host.latch(&format!("bus: {NOT_STORING} in `{stream}`; {ADVICE}")));
        failing.insert(stream.to_owned(), latch);
    }

    fn record_storing(&self, stream: &str) {
        if self.failing().remove(stream).is_some() {
            tracing::info!(stream, "nats-server stores again");
        }
    }

    /// Forgets all failures after a reconnect: the server may have been restarted.
    pub(crate) fn reset(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.failing().clear();
    }

    fn failing(&self) -> MutexGuard<'_, BTreeMap<String, Option<Latch>>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    error_chain(error).contains("timed out")
}
