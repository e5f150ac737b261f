//! Key-value buckets with compare-and-set.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use crate::backend::{Backend, Link, Mark, Refusal};
use crate::connect::Bus;
use crate::error::Error;
use crate::permission_violations::Denials;
use crate::storage_health::StorageHealth;

mod listing;

/// A bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    name: &'static str,
    denials: Denials,
    place: KvBackend,
    storing: StorageHealth,
}

/// Where it is.
#[derive(Debug, Clone)]
enum KvBackend {
    Server { js: Box<Context>, store: Box<Store> },
    Simulated(Arc<dyn Backend>),
}

/// An entry as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// Its revision, for compare-and-set.
    pub revision: u64,
}

/// A change that was watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// An entry was written.
    Put(Entry),
    /// An entry was removed, or its time was over.
    Removed {
        /// Its key.
        key: String,
        /// The revision of the removal.
        revision: u64,
    },
}

impl Update {
    /// Returns the key that was changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Removed { key, .. } => key,
        }
    }

    /// Returns the revision of the change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Removed { revision, .. } => *revision,
        }
    }

    /// Returns the entry that was written.
    pub(crate) fn into_entry(self) -> Option<Entry> {
        match self {
            Self::Put(entry) => Some(entry),
            Self::Removed { .. } => None,
        }
    }
}

/// A part of a bucket.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Its entries, in the order in which they were written.
    pub entries: Vec<Entry>,
    /// After which place the next part begins, if there is one.
    pub next: Option<u64>,
}

impl Bus {
    /// Opens a bucket of the topology.
    ///
    /// # Errors
    /// A bucket that was not provisioned.
    pub async fn bucket(&self, name: &'static str) -> Result<Bucket, Error> {
        let place = match &self.link {
            Link::Server(js) => {
                let open = async {
                    js.get_key_value(name)
                        .await
                        .map_err(Error::server("open bucket", name))
                };
                KvBackend::Server {
                    js: js.clone(),
                    store: Box::new(fail_on_permission_violation(&self.denials, name, open).await?),
                }
            }
            Link::Simulated(backend) => KvBackend::Simulated(backend.clone()),
        };
        Ok(Bucket {
            name,
            denials: self.denials.clone(),
            place,
            storing: self.storing.clone(),
        })
    }
}

impl Bucket {
    fn failed<E>(&self, action: &'static str, key: &str) -> impl FnOnce(E) -> Error
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Error::server(action, format!("{}/{key}", self.name))
    }

    /// Takes note of whether the bucket's stream stores.
    async fn noted<T, E: std::error::Error + 'static>(
        &self,
        js: &Context,
        sent: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let moment = self.storing.moment();
        let sent = sent.await;
        self.storing.note(&js.client(), moment, self.name, sent)
    }

    fn refused(&self, action: &'static str, key: &str) -> impl FnOnce(Refusal) -> Error {
        let (conflict, failed) = (self.conflict(key), self.failed(action, key));
        move |refusal| match refusal {
            Refusal::Conflict => conflict,
            Refusal::Failed(error) => failed(error),
        }
    }

    /// Reads an entry, or the mark that it was removed.
    async fn mark(&self, key: &str) -> Result<Option<Mark>, Error> {
        let store = match &self.place {
            KvBackend::Server { store, .. } => store,
            KvBackend::Simulated(backend) => {
                let mark = backend.read(self.name, key.to_owned()).await;
                return mark.map_err(self.refused("read", key));
            }
        };
        let entry = store.entry(key).await.map_err(self.failed("read", key))?;
        Ok(entry.map(|entry| Mark {
            revision: entry.revision,
            value: (entry.operation == Operation::Put).then_some(entry.value),
        }))
    }

    fn conflict(&self, key: &str) -> Error {
        Error::Conflict {
            bucket: self.name,
            key: key.to_owned(),
        }
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let mark = fail_on_permission_violation(&self.denials, self.name, self.mark(key)).await?;
        Ok(mark.and_then(|mark| {
            Some(Entry {
                key: key.to_owned(),
                value: mark.value?,
                revision: mark.revision,
            })
        }))
    }

    /// Writes an entry if there is none (`revision` is `None`) or if it is still at this revision.
    ///
    /// # Errors
    /// [`Error::Conflict`] if somebody else wrote it, or a server that does not answer.
    pub async fn write(
        &self,
        key: &str,
        value: Bytes,
        revision: Option<u64>,
    ) -> Result<u64, Error> {
        let written = self.compare_and_set(key, value, revision, None);
        fail_on_permission_violation(&self.denials, self.name, written).await
    }

    /// Writes an entry as [`Bucket::write`] does, for a time of one second or more; only in buckets with history 1.
    ///
    /// # Errors
    /// As [`Bucket::write`].
    pub async fn write_with_ttl(
        &self,
        key: &str,
        value: Bytes,
        revision: Option<u64>,
        ttl: Duration,
    ) -> Result<u64, Error> {
        let written = self.compare_and_set(key, value, revision, Some(ttl));
        fail_on_permission_violation(&self.denials, self.name, written).await
    }

    async fn compare_and_set(
        &self,
        key: &str,
        value: Bytes,
        revision: Option<u64>,
        ttl: Option<Duration>,
    ) -> Result<u64, Error> {
        if let Some(revision) = revision {
            return self.update(key, value, revision, ttl).await;
        }
        match self.update(key, value.clone(), 0, ttl).await {
            Err(error) if error.is_conflict() => {}
            settled => return settled,
        }
        // What is there may be no more than the mark that an entry was removed.
        match self.mark(key).await? {
            Some(entry) if entry.value.is_some() => Err(self.conflict(key)),
            Some(mark) => self.update(key, value, mark.revision, ttl).await,
            None => self.update(key, value, 0, ttl).await,
        }
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        revision: u64,
        ttl: Option<Duration>,
    ) -> Result<u64, Error> {
        let (js, store) = match &self.place {
            KvBackend::Server { js, store } => (js, store),
            KvBackend::Simulated(backend) => {
                let write = backend.write(self.name, key.to_owned(), value, Some(revision));
                return write.await.map_err(self.refused("write", key));
            }
        };
        let Some(ttl) = ttl else {
            let sent = self.noted(js, store.update(key, value, revision)).await;
            return sent.map_err(|error| match error.kind() {
                UpdateErrorKind::WrongLastRevision => self.conflict(key),
                _ => self.failed("write", key)(error),
            });
        };
        // The client has no update with a time to live, and its create forgets the time where a removal left a mark.
        let message = PublishMessage::build()
            .payload(value)
            .ttl(ttl)
            .expected_last_subject_sequence(revision);
        let pending = js
            .send_publish(format!("{}{key}", store.prefix), message)
            .await
            .map_err(self.failed("write", key))?;
        match self.noted(js, pending.into_future()).await {
            Ok(ack) => Ok(ack.sequence),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Err(self.conflict(key))
            }
            Err(error) => Err(self.failed("write", key)(error)),
        }
    }

    /// Writes an entry whatever it was.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn put(&self, key: &str, value: Bytes) -> Result<u64, Error> {
        let (js, store) = match &self.place {
            KvBackend::Server { js, store } => (js, store),
            KvBackend::Simulated(backend) => {
                let write = backend.write(self.name, key.to_owned(), value, None);
                return write.await.map_err(self.refused("write", key));
            }
        };
        let put = async {
            let put = self.noted(js, store.put(key, value)).await;
            put.map_err(self.failed("write", key))
        };
        fail_on_permission_violation(&self.denials, self.name, put).await
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        let store = match &self.place {
            KvBackend::Server { store, .. } => store,
            KvBackend::Simulated(backend) => {
                let removal = backend.remove(self.name, key.to_owned(), None);
                return removal.await.map_err(self.refused("delete", key));
            }
        };
        let delete = async {
            let deleted = store.delete(key).await;
            deleted.map_err(self.failed("delete", key))
        };
        fail_on_permission_violation(&self.denials, self.name, delete).await
    }

    /// Removes an entry if it is still at this revision.
    ///
    /// # Errors
    /// As [`Bucket::write`].
    pub async fn delete_at(&self, key: &str, revision: u64) -> Result<(), Error> {
        fail_on_permission_violation(&self.denials, self.name, self.remove_at(key, revision)).await
    }

    async fn remove_at(&self, key: &str, revision: u64) -> Result<(), Error> {
        let store = match &self.place {
            KvBackend::Server { store, .. } => store,
            KvBackend::Simulated(backend) => {
                let removal = backend.remove(self.name, key.to_owned(), Some(revision));
                return removal.await.map_err(self.refused("delete", key));
            }
        };
        store
            .delete_expect_revision(key, Some(revision))
            .await
            .map_err(|error| match error.kind() {
                UpdateErrorKind::WrongLastRevision => self.conflict(key),
                _ => self.failed("delete", key)(error),
            })
    }

    /// Removes an entry if it is still at this revision, and leaves no mark of it; says whether it did.
    ///
    /// Whoever has read the entry and writes it at its revision then has a conflict, as after any other change. Nobody who
    /// watches the bucket is told.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn forget(&self, key: &str, revision: u64) -> Result<bool, Error> {
        let store = match &self.place {
            KvBackend::Server { store, .. } => store,
            KvBackend::Simulated(backend) => {
                let removal = backend.remove(self.name, key.to_owned(), Some(revision));
                return match removal.await {
                    Ok(()) => Ok(true),
                    Err(Refusal::Conflict) => Ok(false),
                    Err(error) => Err(self.refused("forget", key)(error)),
                };
            }
        };
        let purge = async {
            // Up to this number, and without it.
            let until = revision.saturating_add(1);
            let purge = store.stream.purge().sequence(until);
            let purged = purge.filter(format!("{}{key}", store.prefix)).await;
            Ok(purged.map_err(self.failed("forget", key))?.purged > 0)
        };
        fail_on_permission_violation(&self.denials, self.name, purge).await
    }

    /// Returns how many entries the bucket has, the marks of removed ones among them.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn count(&self) -> Result<u64, Error> {
        let store = match &self.place {
            KvBackend::Server { store, .. } => store,
            KvBackend::Simulated(_) => {
                let count = self.newest(">").await?.len();
                return Ok(u64::try_from(count).unwrap_or(u64::MAX));
            }
        };
        let info = async {
            let info = store.stream.get_info().await;
            Ok(info.map_err(self.failed("count", ">"))?.state.messages)
        };
        fail_on_permission_violation(&self.denials, self.name, info).await
    }

    /// Returns the revision of the last change of the bucket; what is written later has a higher one.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn last_revision(&self) -> Result<u64, Error> {
        let store = match &self.place {
            KvBackend::Server { store, .. } => store,
            KvBackend::Simulated(_) => {
                let newest = self.newest(">").await?;
                return Ok(newest.iter().map(Update::revision).max().unwrap_or(0));
            }
        };
        let info = async {
            let info = store.stream.get_info().await;
            Ok(info.map_err(self.failed("read", ">"))?.state.last_sequence)
        };
        fail_on_permission_violation(&self.denials, self.name, info).await
    }

    /// Watches every change from now on.
    ///
    /// After a reconnect the client delivers old changes again, all that the bucket still has, the oldest first. Whoever
    /// keeps a copy of the bucket compares the revisions of each key, with those of [`Bucket::newest`] to begin with.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn watch(
        &self,
    ) -> Result<impl Stream<Item = Result<Update, Error>> + Send + Unpin + use<>, Error> {
        let name = self.name;
        let store = match &self.place {
            KvBackend::Server { store, .. } => store,
            KvBackend::Simulated(backend) => {
                let watch = backend.watch(name).await;
                let watch = watch.map_err(self.refused("watch", ">"))?;
                return Ok(watch.map(Ok).boxed());
            }
        };
        let watch = async { store.watch_all().await.map_err(self.failed("watch", ">")) };
        let watch = fail_on_permission_violation(&self.denials, name, watch).await?;
        let updates = watch.map(move |entry| {
            let entry = entry.map_err(Error::server("watch", name))?;
            Ok(match entry.operation {
                Operation::Put => Update::Put(Entry {
                    key: entry.key,
                    value: entry.value,
                    revision: entry.revision,
                }),
                Operation::Delete | Operation::Purge => Update::Removed {
                    key: entry.key,
                    revision: entry.revision,
                },
            })
        });
        Ok(updates.boxed())
    }
}

/// Says whether a message only marks that an entry is gone.
fn is_removal(headers: Option<&HeaderMap>) -> bool {
    headers.is_some_and(|headers| {
        headers.get("KV-Operation").is_some() || headers.get("Nats-Marker-Reason").is_some()
    })
}

/// Fails at once where a permission for the bucket is missing.
async fn fail_on_permission_violation<T>(
    denials: &Denials,
    bucket: &str,
    operation: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let (entries, stream) = (format!("$KV.{bucket}."), format!("KV_{bucket}"));
    denials
        .fail_on_permission_violation(&[&entries, &stream], operation)
        .await
}
