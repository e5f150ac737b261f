//! Key-value buckets with compare-and-set.

mod listing;

use std::sync::Arc;

use async_nats::header::NATS_MARKER_REASON;
use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use super::entry::{Entry, Update};
use crate::connection::backend::{Backend, BackendError, KeyState};
use crate::connection::storage_health::StorageHealth;
use crate::connection::{Bus, Link, PermissionViolations};
use crate::error::{BoxError, Error};

/// The header of an entry that was deleted or purged; one that was put has none.
const KV_OPERATION: &str = "KV-Operation";

/// A bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    name: &'static str,
    violations: PermissionViolations,
    storage_health: StorageHealth,
    backend: BucketBackend,
}

#[derive(Debug, Clone)]
enum BucketBackend {
    Server {
        context: Box<Context>,
        store: Box<Store>,
    },
    Simulated(Arc<dyn Backend>),
}

/// A page of the entries of a bucket.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The entries, in the order in which they were written.
    pub entries: Vec<Entry>,
    /// The revision after which the next page begins, if there is one.
    pub next: Option<u64>,
}

impl Bus {
    /// Opens a bucket of the topology.
    ///
    /// # Errors
    /// A bucket that is not provisioned.
    pub async fn bucket(&self, name: &'static str) -> Result<Bucket, Error> {
        let backend = match &self.link {
            Link::Server(context) => {
                let open = async {
                    let store = context.get_key_value(name).await;
                    store.map_err(Error::server("open bucket", name))
                };
                BucketBackend::Server {
                    context: context.clone(),
                    store: Box::new(fail_on_violation(&self.violations, name, open).await?),
                }
            }
            Link::Simulated(backend) => BucketBackend::Simulated(backend.clone()),
        };
        Ok(Bucket {
            name,
            violations: self.violations.clone(),
            storage_health: self.storage_health.clone(),
            backend,
        })
    }
}

impl Bucket {
    /// Reads an entry.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let state = self.guarded(self.key_state(key)).await?;
        Ok(state.and_then(|state| {
            Some(Entry {
                key: key.to_owned(),
                value: state.value?,
                revision: state.revision,
            })
        }))
    }

    async fn key_state(&self, key: &str) -> Result<Option<KeyState>, Error> {
        let store = match &self.backend {
            BucketBackend::Server { store, .. } => store,
            BucketBackend::Simulated(backend) => {
                let state = backend.read(self.name, key.to_owned()).await;
                return state.map_err(self.backend_error("read", key));
            }
        };
        if store.stream.cached_info().config.num_replicas > 1 {
            return self.state_at_leader(store, key).await;
        }
        let entry = store.entry(key).await.map_err(self.failed("read", key))?;
        Ok(entry.map(|entry| KeyState {
            revision: entry.revision,
            value: (entry.operation == Operation::Put).then_some(entry.value),
        }))
    }

    /// Reads an entry from the leader of a bucket with replicas: any of them answers a direct read, even one that has not
    /// applied yet what the leader has acknowledged.
    async fn state_at_leader(&self, store: &Store, key: &str) -> Result<Option<KeyState>, Error> {
        let subject = format!("{}{key}", store.prefix);
        match store.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => {
                let headers = &message.headers;
                let is_removed = headers.get(KV_OPERATION).is_some()
                    || headers.get(NATS_MARKER_REASON).is_some();
                Ok(Some(KeyState {
                    revision: message.sequence,
                    value: (!is_removed).then_some(message.payload),
                }))
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(self.failed("read", key)(error)),
        }
    }

    /// Writes an entry if there is none (`revision` is `None`) or if it is still at this revision.
    ///
    /// # Errors
    /// [`Error::Conflict`] if another writer changed it.
    pub async fn write(
        &self,
        key: &str,
        value: Bytes,
        revision: Option<u64>,
    ) -> Result<u64, Error> {
        let write = async {
            if let Some(revision) = revision {
                return self.update(key, value, revision).await;
            }
            match self.update(key, value.clone(), 0).await {
                Err(error) if error.is_conflict() => {}
                result => return result,
            }
            // The conflict may be with the marker of a removal only.
            match self.key_state(key).await? {
                Some(state) if state.value.is_some() => Err(self.conflict(key)),
                Some(marker) => self.update(key, value, marker.revision).await,
                None => self.update(key, value, 0).await,
            }
        };
        self.guarded(write).await
    }

    async fn update(&self, key: &str, value: Bytes, revision: u64) -> Result<u64, Error> {
        let (context, store) = match &self.backend {
            BucketBackend::Server { context, store } => (context, store),
            BucketBackend::Simulated(backend) => {
                let write = backend.write(self.name, key.to_owned(), value, Some(revision));
                return write.await.map_err(self.backend_error("write", key));
            }
        };
        let update = store.update(key, value, revision);
        let updated = self.storage_health.watch(context, self.name, update).await;
        updated.map_err(|error| match error.kind() {
            UpdateErrorKind::WrongLastRevision => self.conflict(key),
            _ => self.failed("write", key)(error),
        })
    }

    /// Writes an entry at any revision.
    pub async fn put(&self, key: &str, value: Bytes) -> Result<u64, Error> {
        let (context, store) = match &self.backend {
            BucketBackend::Server { context, store } => (context, store),
            BucketBackend::Simulated(backend) => {
                let write = backend.write(self.name, key.to_owned(), value, None);
                return write.await.map_err(self.backend_error("write", key));
            }
        };
        let put = async {
            let put = store.put(key, value);
            let stored = self.storage_health.watch(context, self.name, put).await;
            stored.map_err(self.failed("write", key))
        };
        self.guarded(put).await
    }

    /// Removes an entry at any revision.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        let store = match &self.backend {
            BucketBackend::Server { store, .. } => store,
            BucketBackend::Simulated(backend) => {
                let removal = backend.remove(self.name, key.to_owned(), None);
                return removal.await.map_err(self.backend_error("delete", key));
            }
        };
        let delete = async {
            let deleted = store.delete(key).await;
            deleted.map_err(self.failed("delete", key))
        };
        self.guarded(delete).await
    }

    /// Removes an entry if it is still at this revision.
    ///
    /// # Errors
    /// [`Error::Conflict`] if another writer changed it.
    pub async fn delete_at(&self, key: &str, revision: u64) -> Result<(), Error> {
        let store = match &self.backend {
            BucketBackend::Server { store, .. } => store,
            BucketBackend::Simulated(backend) => {
                let removal = backend.remove(self.name, key.to_owned(), Some(revision));
                return removal.await.map_err(self.backend_error("delete", key));
            }
        };
        let delete = async {
            let deleted = store.delete_expect_revision(key, Some(revision)).await;
            deleted.map_err(|error| match error.kind() {
                UpdateErrorKind::WrongLastRevision => self.conflict(key),
                _ => self.failed("delete", key)(error),
            })
        };
        self.guarded(delete).await
    }

    /// Removes an entry without a marker if it is still at this revision; says whether it did.
    ///
    /// A writer that has read the entry then gets a conflict, as after any other change. Watchers see no update.
    pub async fn purge_if_unchanged(&self, key: &str, revision: u64) -> Result<bool, Error> {
        let store = match &self.backend {
            BucketBackend::Server { store, .. } => store,
            BucketBackend::Simulated(backend) => {
                let removal = backend.remove(self.name, key.to_owned(), Some(revision));
                return match removal.await {
                    Ok(()) => Ok(true),
                    Err(BackendError::Conflict) => Ok(false),
                    Err(error) => Err(self.backend_error("forget", key)(error)),
                };
            }
        };
        let purge = async {
            // The sequence itself is not purged.
            let end = revision.saturating_add(1);
            let purge = store.stream.purge().sequence(end);
            let purged = purge.filter(format!("{}{key}", store.prefix)).await;
            Ok(purged.map_err(self.failed("forget", key))?.purged > 0)
        };
        self.guarded(purge).await
    }

    /// Returns the number of entries, with the markers of removed ones.
    pub async fn count(&self) -> Result<u64, Error> {
        let store = match &self.backend {
            BucketBackend::Server { store, .. } => store,
            BucketBackend::Simulated(_) => {
                let count = self.last_changes(">").await?.len();
                return Ok(u64::try_from(count).unwrap_or(u64::MAX));
            }
        };
        let count = async {
            let info = store.stream.get_info().await;
            Ok(info.map_err(self.failed("count", ">"))?.state.messages)
        };
        self.guarded(count).await
    }

    /// Returns the revision of the last change of the bucket; every later change has a higher one.
    pub async fn last_revision(&self) -> Result<u64, Error> {
        let store = match &self.backend {
            BucketBackend::Server { store, .. } => store,
            BucketBackend::Simulated(_) => {
                let changes = self.last_changes(">").await?;
                return Ok(changes.iter().map(Update::revision).max().unwrap_or(0));
            }
        };
        let revision = async {
            let info = store.stream.get_info().await;
            Ok(info.map_err(self.failed("read", ">"))?.state.last_sequence)
        };
        self.guarded(revision).await
    }

    /// Watches every change from now on.
    ///
    /// After a reconnect the client delivers all changes that the bucket still has once more, the oldest first. A copy of
    /// the bucket has to compare the revisions of each key, beginning with those of [`Bucket::last_changes`].
    pub async fn watch(
        &self,
    ) -> Result<impl Stream<Item = Result<Update, Error>> + Send + Unpin + use<>, Error> {
        let name = self.name;
        let store = match &self.backend {
            BucketBackend::Server { store, .. } => store,
            BucketBackend::Simulated(backend) => {
                let watch = backend.watch(name).await;
                let watch = watch.map_err(self.backend_error("watch", ">"))?;
                return Ok(watch.map(Ok).boxed());
            }
        };
        let watch = async { store.watch_all().await.map_err(self.failed("watch", ">")) };
        let updates = self.guarded(watch).await?.map(move |entry| {
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

    fn failed<E: Into<BoxError>>(
        &self,
        action: &'static str,
        key: &str,
    ) -> impl FnOnce(E) -> Error {
        Error::server(action, format!("{}/{key}", self.name))
    }

    fn backend_error(&self, action: &'static str, key: &str) -> impl FnOnce(BackendError) -> Error {
        let (conflict, failed) = (self.conflict(key), self.failed(action, key));
        move |error| match error {
            BackendError::Conflict => conflict,
            BackendError::Failed(error) => failed(error),
        }
    }

    fn conflict(&self, key: &str) -> Error {
        Error::Conflict {
            bucket: self.name,
            key: key.to_owned(),
        }
    }

    /// Carries out an operation, and fails at once where a permission for the bucket is missing.
    async fn guarded<T>(
        &self,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        fail_on_violation(&self.violations, self.name, operation).await
    }
}

async fn fail_on_violation<T>(
    violations: &PermissionViolations,
    bucket: &str,
    operation: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let (entries, stream) = (format!("$KV.{bucket}."), format!("KV_{bucket}"));
    violations.fail_on(&[&entries, &stream], operation).await
}
