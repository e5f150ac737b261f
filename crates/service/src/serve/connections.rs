//! The connections of a listener, counted by client network, and the eviction of idle ones.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client_network::{ClientNetwork, ServeSettings};

/// The shortest interval between two logs of refused connections.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// All connections of a listener.
#[derive(Debug)]
pub(super) struct Connections {
    settings: ServeSettings,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    entries: HashMap<u64, Entry>,
    next: u64,
    refusal_logged_at: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    network: ClientNetwork,
    /// When its last request began or ended.
    since: Instant,
    /// The requests under way; HTTP/1.1 has one at a time, but the end of one may be recorded after the next began.
    requests: usize,
    evicted: CancellationToken,
}

/// A connection, which is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    all: Arc<Connections>,
    number: u64,
    peer: IpAddr,
    evicted: CancellationToken,
}

/// Marks a request as under way until it is dropped.
#[derive(Debug)]
pub(super) struct RequestGuard {
    all: Arc<Connections>,
    number: u64,
}

impl Connections {
    pub(super) fn new(settings: ServeSettings) -> Self {
        Self {
            settings,
            open: Mutex::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a connection, if there is room or an idle one can be evicted. Only the limit of all connections applies to a
    /// trusted proxy, which has many clients.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Connection> {
        let network = ClientNetwork::of(peer);
        let is_proxy = self.settings.is_trusted_proxy(peer);
        let mut open = self.open();
        let has_room = (is_proxy
            || open.make_room_for(network, self.settings.connections_per_source))
            && open.make_room(self.settings.connections);
        if !has_room {
            open.log_refusal(peer);
            return None;
        }
        let (number, evicted) = (open.next, CancellationToken::new());
        open.next += 1;
        open.entries.insert(
            number,
            Entry {
                network,
                since: Instant::now(),
                requests: 0,
                evicted: evicted.clone(),
            },
        );
        Some(Connection {
            all: self.clone(),
            number,
            peer,
            evicted,
        })
    }

    fn update_requests(&self, number: u64, change: impl Fn(usize) -> usize) {
        if let Some(entry) = self.open().entries.get_mut(&number) {
            entry.since = Instant::now();
            entry.requests = change(entry.requests);
        }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.open().entries.len()
    }

    #[cfg(test)]
    pub(super) fn busy_count(&self) -> usize {
        let open = self.open();
        open.entries
            .values()
            .filter(|entry| entry.is_busy())
            .count()
    }
}

impl Open {
    /// Makes room for a connection of a network, if necessary by evicting an idle one of it; says whether there is room.
    fn make_room_for(&mut self, network: ClientNetwork, most: usize) -> bool {
        let is_own = |entry: &&Entry| entry.network == network;
        self.entries.values().filter(is_own).count() < most
            || self.evict(|entry| entry.network == network)
    }

    /// Makes room for a connection, if necessary by evicting an idle one of the network with the most connections; says
    /// whether there is room.
    fn make_room(&mut self, most: usize) -> bool {
        if self.entries.len() < most {
            return true;
        }
        let mut counts: HashMap<ClientNetwork, (usize, bool)> = HashMap::new();
        for entry in self.entries.values() {
            let (count, has_idle) = counts.entry(entry.network).or_default();
            *count += 1;
            *has_idle |= !entry.is_busy();
        }
        let largest = counts
            .values()
            .filter(|(_, has_idle)| *has_idle)
            .map(|(count, _)| *count)
            .max();
        let is_largest = |network: &ClientNetwork| {
            let count = counts.get(network).map(|(count, _)| *count);
            count.is_some() && count == largest
        };
        self.evict(|entry| is_largest(&entry.network))
    }

    /// Closes the candidate that has been idle for the longest time; says whether there was one.
    fn evict(&mut self, is_candidate: impl Fn(&Entry) -> bool) -> bool {
        let idle = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.is_busy() && is_candidate(entry));
        let oldest = idle.min_by_key(|(number, entry)| (entry.since, **number));
        let Some(number) = oldest.map(|(number, _)| *number) else {
            return false;
        };
        if let Some(entry) = self.entries.remove(&number) {
            entry.evicted.cancel();
        }
        true
    }

    fn log_refusal(&mut self, peer: IpAddr) {
        let now = Instant::now();
        let is_due = |logged_at| now - logged_at >= REFUSAL_LOG_INTERVAL;
        if self.refusal_logged_at.is_none_or(is_due) {
            self.refusal_logged_at = Some(now);
            tracing::warn!(%peer, "connections are refused: all that are allowed have requests under way");
        }
    }
}

impl Entry {
    const fn is_busy(&self) -> bool {
        self.requests > 0
    }
}

impl Connection {
    /// Returns the network of the client that sends a request.
    pub(super) fn client_network(&self, headers: &HeaderMap) -> ClientNetwork {
        self.all.settings.client_network(self.peer, headers)
    }

    /// Marks a request as under way.
    pub(super) fn begin_request(&self) -> RequestGuard {
        self.all
            .update_requests(self.number, |requests| requests + 1);
        RequestGuard {
            all: self.all.clone(),
            number: self.number,
        }
    }

    /// Waits until the connection is evicted.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    #[cfg(test)]
    pub(super) fn is_evicted(&self) -> bool {
        self.evicted.is_cancelled()
    }

    /// Returns when its request has to be complete; without a request, when to check again.
    pub(super) fn deadline(&self, limit: Duration) -> Instant {
        self.busy_since().unwrap_or_else(Instant::now) + limit
    }

    /// Says whether its request has taken longer than `limit`.
    pub(super) fn is_overdue(&self, limit: Duration) -> bool {
        self.busy_since()
            .is_some_and(|since| since.elapsed() >= limit)
    }

    fn busy_since(&self) -> Option<Instant> {
        let open = self.all.open();
        let entry = open.entries.get(&self.number)?;
        entry.is_busy().then_some(entry.since)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.all.open().entries.remove(&self.number);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.all
            .update_requests(self.number, |requests| requests.saturating_sub(1));
    }
}
