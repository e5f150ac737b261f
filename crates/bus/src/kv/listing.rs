//! Listing a bucket that others write to meanwhile.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::kv::Store;

use super::{Bucket, Entry, KvBackend, Page, Update, fail_on_permission_violation, is_removal};
use crate::error::Error;
use crate::read::to_the_end;

/// How often a listing goes on after what was overwritten under it; each time only that is left.
const ROUNDS: usize = 100;

impl Bucket {
    /// Lists the entries whose keys match a filter, in the order of their keys.
    ///
    /// # Errors
    /// As [`Bucket::each`].
    pub async fn list(&self, filter: &str) -> Result<Vec<Entry>, Error> {
        let changes = self.newest(filter).await?;
        Ok(changes.into_iter().filter_map(Update::into_entry).collect())
    }

    /// Lists the last change of each key that matches a filter, removals among them, in the order of the keys.
    ///
    /// # Errors
    /// As [`Bucket::each`].
    pub async fn newest(&self, filter: &str) -> Result<Vec<Update>, Error> {
        let mut changes = BTreeMap::new();
        self.each(filter, |change| {
            changes.insert(change.key().to_owned(), change);
            ControlFlow::Continue(())
        })
        .await?;
        Ok(changes.into_values().collect())
    }

    /// Hands over the last change of each key that matches a filter, as in `*.hub/alpine.>`, until `take` has enough; none
    /// is kept. A key that is changed meanwhile comes a second time, the newer change later.
    ///
    /// # Errors
    /// A server that does not answer, or that ends the listing early.
    pub async fn each(
        &self,
        filter: &str,
        mut take: impl FnMut(Update) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let listed = async {
            let store = match &self.place {
                KvBackend::Server { store, .. } => store,
                KvBackend::Simulated(backend) => {
                    let changes = backend.newest(self.name, filter.to_owned()).await;
                    let changes = changes.map_err(self.refused("list", filter))?;
                    for change in changes {
                        if take(change).is_break() {
                            break;
                        }
                    }
                    return Ok(());
                }
            };
            let from = DeliverPolicy::LastPerSubject;
            self.walk(store, filter, from, |message| {
                match change(store, message) {
                    Some(change) => take(change),
                    None => ControlFlow::Continue(()),
                }
            })
            .await
        };
        fail_on_permission_violation(&self.denials, self.name, listed).await
    }

    /// Returns entries in the order in which they were written, at most `limit`, and where to go on.
    ///
    /// Only for buckets with history 1. An entry that is written meanwhile moves to the end, so a walk misses none; the
    /// last part may be empty.
    ///
    /// # Errors
    /// As [`Bucket::each`].
    pub async fn page(&self, filter: &str, after: u64, limit: usize) -> Result<Page, Error> {
        fail_on_permission_violation(&self.denials, self.name, self.paged(filter, after, limit))
            .await
    }

    async fn paged(&self, filter: &str, after: u64, limit: usize) -> Result<Page, Error> {
        let store = match &self.place {
            KvBackend::Server { store, .. } => store,
            KvBackend::Simulated(backend) => {
                let changes = backend.newest(self.name, filter.to_owned()).await;
                let changes = changes.map_err(self.refused("list", filter))?;
                let entries = changes.into_iter().filter_map(Update::into_entry);
                return Ok(page_of(entries.collect(), after, limit));
            }
        };
        let mut page = Page::default();
        let from = DeliverPolicy::ByStartSequence {
            start_sequence: after.saturating_add(1),
        };
        self.walk(store, filter, from, |message| {
            if let Some(Update::Put(entry)) = change(store, message) {
                page.entries.push(entry);
            }
            if page.entries.len() >= limit {
                // Whether anything comes after it is not known for sure; the next part may be empty.
                page.next = page.entries.last().map(|entry| entry.revision);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .await?;
        Ok(page)
    }

    /// Hands over what a bucket holds, until nothing that it held at the beginning can have been left out.
    ///
    /// An entry that is overwritten before its turn is counted out at its old place at once and in at its new one a
    /// little later. The end may be seen in between, so it is believed only if all that was counted came from where it
    /// was; otherwise the walk goes on behind what came last.
    async fn walk(
        &self,
        store: &Store,
        filter: &str,
        mut from: DeliverPolicy,
        mut take: impl FnMut(&Message) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let what = format!("{}/{filter}", self.name);
        for _ in 0..ROUNDS {
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
            let (name, counted) = {
                let info = consumer.cached_info();
                (info.name.clone(), info.num_pending)
            };
            let (mut in_place, mut last, mut enough) = (0, 0, false);
            let walked = to_the_end(consumer, "list", &what, |message| {
                last = message.info().map_or(last, |info| info.stream_sequence);
                in_place += u64::from(last <= newest);
                let taken = take(message);
                enough = taken.is_break();
                taken
            })
            .await;
            // By itself it would go half a minute later, and the server has a limit for all of them.
            if let Err(error) = store.stream.delete_consumer(&name).await {
                tracing::debug!(%error, what, "the consumer of a listing was left to expire");
            }
            walked?;
            if enough || in_place >= counted {
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

/// Reads a change.
fn change(store: &Store, message: &Message) -> Option<Update> {
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
