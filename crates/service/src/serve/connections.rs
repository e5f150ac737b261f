//! The connections of a listener: how many there are, from whom, and which of them waits for its next request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ServeSettings, Source};

/// How often it is told at most that connections are refused.
const TOLD_EVERY: Duration = Duration::from_secs(60);

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
    told: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    source: Source,
    /// Since when it is at a request, or has waited for one.
    since: Instant,
    /// The requests that are under way; HTTP/1.1 has one at a time, and the end of one may be noted after the next began.
    requests: usize,
    evicted: CancellationToken,
}

/// One connection; it is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    all: Arc<Connections>,
    number: u64,
    peer: IpAddr,
    evicted: CancellationToken,
}

/// A request is under way until this is dropped.
#[derive(Debug)]
pub(super) struct Busy {
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

    /// Takes a connection in, if there is room or can be made some. A trusted proxy speaks for many, so that only the
    /// number of all connections limits it.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Connection> {
        let source = Source::of(peer);
        let is_proxy = self.settings.trusted_proxies.contains(&peer.to_canonical());
        let mut open = self.open();
        let has_room = (is_proxy
            || open.makes_room_for(source, self.settings.connections_per_source))
            && open.makes_room(self.settings.connections);
        if !has_room {
            open.tell_refusal(peer);
            return None;
        }
        let (number, evicted) = (open.next, CancellationToken::new());
        open.next += 1;
        open.entries.insert(
            number,
            Entry {
                source,
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

    fn note(&self, number: u64, change: impl Fn(usize) -> usize) {
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
    pub(super) fn at_work(&self) -> usize {
        let open = self.open();
        open.entries
            .values()
            .filter(|entry| entry.is_busy())
            .count()
    }
}

impl Open {
    /// Says whether a source may have another connection, if need be instead of one of its own that waits.
    fn makes_room_for(&mut self, source: Source, most: usize) -> bool {
        let own = |entry: &&Entry| entry.source == source;
        self.entries.values().filter(own).count() < most
            || self.evict(|entry| entry.source == source)
    }

    /// Says whether there may be another connection, if need be instead of one that waits; whoever has most gives way.
    fn makes_room(&mut self, most: usize) -> bool {
        if self.entries.len() < most {
            return true;
        }
        let mut counts: HashMap<Source, (usize, bool)> = HashMap::new();
        for entry in self.entries.values() {
            let (count, waits) = counts.entry(entry.source).or_default();
            *count += 1;
            *waits |= !entry.is_busy();
        }
        let largest = counts
            .values()
            .filter(|(_, waits)| *waits)
            .map(|(count, _)| *count)
            .max();
        let is_largest = |source: &Source| {
            let count = counts.get(source).map(|(count, _)| *count);
            count.is_some() && count == largest
        };
        self.evict(|entry| is_largest(&entry.source))
    }

    /// Closes the one of these connections that has waited longest; says whether there was one.
    fn evict(&mut self, is_candidate: impl Fn(&Entry) -> bool) -> bool {
        let waiting = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.is_busy() && is_candidate(entry));
        let oldest = waiting.min_by_key(|(number, entry)| (entry.since, **number));
        let Some(number) = oldest.map(|(number, _)| *number) else {
            return false;
        };
        if let Some(entry) = self.entries.remove(&number) {
            entry.evicted.cancel();
        }
        true
    }

    fn tell_refusal(&mut self, peer: IpAddr) {
        let now = Instant::now();
        if self.told.is_none_or(|told| now - told >= TOLD_EVERY) {
            self.told = Some(now);
            tracing::warn!(%peer, "connections are refused: there are as many requests under way as are allowed");
        }
    }
}

impl Entry {
    const fn is_busy(&self) -> bool {
        self.requests > 0
    }
}

impl Connection {
    /// Returns who sends a request on it.
    pub(super) fn source(&self, headers: &HeaderMap) -> Source {
        self.all.settings.source(self.peer, headers)
    }

    /// Says that a request is under way.
    pub(super) fn busy(&self) -> Busy {
        self.all.note(self.number, |requests| requests + 1);
        Busy {
            all: self.all.clone(),
            number: self.number,
        }
    }

    /// Waits until it has to make room for another.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    #[cfg(test)]
    pub(super) fn is_evicted(&self) -> bool {
        self.evicted.is_cancelled()
    }

    /// Returns when its request has to be done; without one, when it is worth looking again.
    pub(super) fn deadline(&self, limit: Duration) -> Instant {
        self.busy_since().unwrap_or_else(Instant::now) + limit
    }

    /// Says whether its request has taken longer than it may.
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

impl Drop for Busy {
    fn drop(&mut self) {
        self.all
            .note(self.number, |requests| requests.saturating_sub(1));
    }
}
