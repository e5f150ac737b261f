//! Listing a bucket while it is written to.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use async_nats::HeaderMap;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::kv::Store;

use super::{Bucket, BucketBackend, Page};
use crate::error::Error;
use crate::storage::entry::{Entry, Update};
use crate::streams::reader::drain_pending;

/// The most rounds of a listing; each reads only what was overwritten during the one before it.
const MAX_ROUNDS: usize = 100;

impl Bucket {
    /// Lists the entries whose keys match a filter, in the order of their keys.
    pub async fn list(&self, filter: &str) -> Result<Vec<Entry>, Error> {
        let changes = self.last_changes(filter).await?;
        Ok(changes.into_iter().filter_map(Update::into_entry).collect())
    }

    /// Lists the last change of each key that matches a filter, removals included, in the order of the keys.
    pub async fn last_changes(&self, filter: &str) -> Result<Vec<Update>, Error> {
        let mut changes = BTreeMap::new();
        self.for_each(filter, |change| {
            changes.insert(change.key().to_owned(), change);
            ControlFlow::Continue(())
        })
        .await?;
        Ok(changes.into_values().collect())
    }

    /// Passes on the last change of each key that matches a filter, as in `*.hub/alpine.>`, until `visit` breaks; none is
    /// kept. A key that is changed meanwhile comes a second time, the newer change later.
    pub async fn for_each(
        &self,
        filter: &str,
        mut visit: impl FnMut(Update) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let list = async {
            let store = match &self.backend {
                BucketBackend::Server { store, .. } => store,
                BucketBackend::Simulated(_) => {
                    for change in self.simulated_changes(filter).await? {
                        if visit(change).is_break() {
                            break;
                        }
                    }
                    return Ok(());
                }
            };
            let from = DeliverPolicy::LastPerSubject;
            self.walk(store, filter, from, |message| {
                match read_change(store, message) {
                    Some(change) => visit(change),
                    None => ControlFlow::Continue(()),
                }
            })
            .await
        };
        self.guarded(list).await
    }

    /// Returns entries in the order in which they were written, at most `limit`, and where the next page begins.
    ///
    /// Only for buckets with history 1. An entry that is written meanwhile moves to the end, so no page misses it; the last
    /// page may be empty.
    pub async fn page(&self, filter: &str, after: u64, limit: usize) -> Result<Page, Error> {
        let list = async {
            let store = match &self.backend {
                BucketBackend::Server { store, .. } => store,
                BucketBackend::Simulated(_) => {
                    let changes = self.simulated_changes(filter).await?;
                    let entries = changes.into_iter().filter_map(Update::into_entry);
                    return Ok(page_of(entries.collect(), after, limit));
                }
            };
            let mut page = Page::default();
            let from = DeliverPolicy::ByStartSequence {
                start_sequence: after.saturating_add(1),
            };
            self.walk(store, filter, from, |message| {
                if let Some(Update::Put(entry)) = read_change(store, message) {
                    page.entries.push(entry);
                }
                if page.entries.len() >= limit {
                    // It is not known whether more entries follow, so the next page may be empty.
                    page.next = page.entries.last().map(|entry| entry.revision);
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })
            .await?;
            Ok(page)
        };
        self.guarded(list).await
    }

    /// Lists the last changes in a simulation; nothing on a server.
    async fn simulated_changes(&self, filter: &str) -> Result<Vec<Update>, Error> {
        let BucketBackend::Simulated(backend) = &self.backend else {
            return Ok(Vec::new());
        };
        let changes = backend.last_changes(self.name, filter.to_owned()).await;
        changes.map_err(self.backend_error("list", filter))
    }

    /// Passes on the messages of a bucket until every entry that it held at the beginning was among them.
    ///
    /// An entry that is overwritten before it is delivered no longer counts at its old sequence at once, and counts at its
    /// new one a little later. In between the stream seems to end. So the end counts only if every message that was
    /// pending came at its old sequence; otherwise another round reads from after the last message.
    async fn walk(
        &self,
        store: &Store,
        filter: &str,
        mut from: DeliverPolicy,
        mut visit: impl FnMut(&Message) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let what = format!("{}/{filter}", self.name);
        for _ in 0..MAX_ROUNDS {
            let info = store.stream.get_info().await;
            let newest = info
                .map_err(self.failed("list", filter))?
                .state
                .last_sequence;
            let config = pull::OrderedConfig {
                filter_subject: format!("{}{filter}", store.prefix),
                deliver_policy: from,
                ..Default::default()
            };
            let consumer = store
                .stream
                .create_consumer(config)
                .await
                .map_err(self.failed("list", filter))?;
            let (name, pending) = {
                let info = consumer.cached_info();
                (info.name.clone(), info.num_pending)
            };
            let (mut in_place, mut last, mut enough) = (0, 0, false);
            let walked = drain_pending(consumer, "list", &what, |message| {
                last = message.info().map_or(last, |info| info.stream_sequence);
                in_place += u64::from(last <= newest);
                let flow = visit(message);
                enough = flow.is_break();
                flow
            })
            .await;
            // It would expire after half a minute, but the server limits the number of consumers.
            if let Err(error) = store.stream.delete_consumer(&name).await {
                tracing::debug!(%error, what, "failed to delete the consumer of a listing; it expires");
            }
            walked?;
            if enough || in_place >= pending {
                return Ok(());
            }
            from = DeliverPolicy::ByStartSequence {
                start_sequence: last.saturating_add(1),
            };
        }
        let reason = "it is overwritten faster than it can be listed";
        Err(self.failed("list", filter)(reason))
    }
}

fn read_change(store: &Store, message: &Message) -> Option<Update> {
    let subject = message.subject.as_str();
    let key = subject.strip_prefix(store.prefix.as_str())?.to_owned();
    let revision = message.info().map_or(0, |info| info.stream_sequence);
    if is_removal(message.headers.as_ref()) {
        return Some(Update::Removed { key, revision });
    }
    Some(Update::Put(Entry {
        key,
        value: message.payload.clone(),
        revision,
    }))
}

/// Says whether a message is the marker of a removal or expiry.
fn is_removal(headers: Option<&HeaderMap>) -> bool {
    headers.is_some_and(|headers| {
        headers.get("KV-Operation").is_some() || headers.get("Nats-Marker-Reason").is_some()
    })
}

fn page_of(mut entries: Vec<Entry>, after: u64, limit: usize) -> Page {
    entries.retain(|entry| entry.revision > after);
    entries.sort_by_key(|entry| entry.revision);
    let next = (entries.len() > limit).then_some(limit);
    entries.truncate(limit);
    Page {
        next: next.and(entries.last().map(|entry| entry.revision)),
        entries,
    }
}
