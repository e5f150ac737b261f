//! Key-value buckets with compare-and-set.

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::kv::{CreateErrorKind, Operation, Store, UpdateErrorKind};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use crate::connect::Bus;
use crate::error::Error;

/// A bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    name: &'static str,
    store: Store,
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
    /// An entry was removed.
    Removed {
        /// Its key.
        key: String,
        /// The revision of the removal.
        revision: u64,
    },
}

impl Bus {
    /// Opens a bucket of the topology.
    ///
    /// # Errors
    /// A bucket that was not provisioned.
    pub async fn bucket(&self, name: &'static str) -> Result<Bucket, Error> {
        let store = self
            .js
            .get_key_value(name)
            .await
            .map_err(Error::server("open bucket", name))?;
        Ok(Bucket { name, store })
    }
}

impl Bucket {
    fn failed<E>(&self, action: &'static str, key: &str) -> impl FnOnce(E) -> Error
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Error::server(action, format!("{}/{key}", self.name))
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let entry = self
            .store
            .entry(key)
            .await
            .map_err(self.failed("read", key))?;
        Ok(entry
            .filter(|entry| entry.operation == Operation::Put)
            .map(|entry| Entry {
                key: entry.key,
                value: entry.value,
                revision: entry.revision,
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
        let conflict = || Error::Conflict {
            bucket: self.name,
            key: key.to_owned(),
        };
        match revision {
            None => self
                .store
                .create(key, value)
                .await
                .map_err(|error| match error.kind() {
                    CreateErrorKind::AlreadyExists => conflict(),
                    _ => self.failed("create", key)(error),
                }),
            Some(revision) => self
                .store
                .update(key, value, revision)
                .await
                .map_err(|error| match error.kind() {
                    UpdateErrorKind::WrongLastRevision => conflict(),
                    _ => self.failed("update", key)(error),
                }),
        }
    }

    /// Writes an entry whatever it was.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn put(&self, key: &str, value: Bytes) -> Result<u64, Error> {
        self.store
            .put(key, value)
            .await
            .map_err(self.failed("write", key))
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        self.store
            .delete(key)
            .await
            .map_err(self.failed("delete", key))
    }

    /// Lists the entries whose keys match a filter, as in `*.hub/alpine.>`.
    ///
    /// # Errors
    /// A server that does not answer, or that ends the listing early.
    pub async fn list(&self, filter: &str) -> Result<Vec<Entry>, Error> {
        let config = pull::OrderedConfig {
            filter_subject: format!("{}{filter}", self.store.prefix),
            deliver_policy: DeliverPolicy::LastPerSubject,
            ..Default::default()
        };
        let consumer = self
            .store
            .stream
            .create_consumer(config)
            .await
            .map_err(self.failed("list", filter))?;
        let mut entries = Vec::new();
        if consumer.cached_info().num_pending == 0 {
            return Ok(entries);
        }
        let mut messages = consumer
            .messages()
            .await
            .map_err(self.failed("list", filter))?;
        while let Some(message) = messages.next().await {
            let message = message.map_err(self.failed("list", filter))?;
            let info = message.info().map_err(self.failed("list", filter))?;
            let removed = message.headers.as_ref().is_some_and(|headers| {
                headers.get("KV-Operation").is_some() || headers.get("Nats-Marker-Reason").is_some()
            });
            if !removed {
                let key = message
                    .subject
                    .strip_prefix(self.store.prefix.as_str())
                    .unwrap_or_default()
                    .to_owned();
                entries.push(Entry {
                    key,
                    value: message.payload.clone(),
                    revision: info.stream_sequence,
                });
            }
            if info.pending == 0 {
                break;
            }
        }
        Ok(entries)
    }

    /// Watches every change from now on.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn watch(
        &self,
    ) -> Result<impl Stream<Item = Result<Update, Error>> + Send + Unpin + use<>, Error> {
        let name = self.name;
        let watch = self
            .store
            .watch_all()
            .await
            .map_err(self.failed("watch", ">"))?;
        Ok(watch.map(move |entry| {
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
        }))
    }
}
