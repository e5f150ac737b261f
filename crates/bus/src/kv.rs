//! Key-value buckets with compare-and-set.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use crate::connect::Bus;
use crate::error::Error;
use crate::read::to_the_end;
use crate::storing::Storing;

/// A bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    name: &'static str,
    js: Context,
    store: Store,
    storing: Storing,
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
        Ok(Bucket {
            name,
            js: self.js.clone(),
            store,
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
        sent: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let moment = self.storing.moment();
        let sent = sent.await;
        self.storing
            .note(&self.js.client(), moment, self.name, sent)
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
        self.compare_and_set(key, value, revision, None).await
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
        self.compare_and_set(key, value, revision, Some(ttl)).await
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
        let found = self
            .store
            .entry(key)
            .await
            .map_err(self.failed("read", key))?;
        match found {
            Some(entry) if entry.operation == Operation::Put => Err(self.conflict(key)),
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
        let Some(ttl) = ttl else {
            let sent = self.store.update(key, value, revision);
            return self.noted(sent).await.map_err(|error| match error.kind() {
                UpdateErrorKind::WrongLastRevision => self.conflict(key),
                _ => self.failed("write", key)(error),
            });
        };
        // The client has no update with a time to live, and its create forgets the time where a removal left a mark.
        let message = PublishMessage::build()
            .payload(value)
            .ttl(ttl)
            .expected_last_subject_sequence(revision);
        let pending = self
            .js
            .send_publish(format!("{}{key}", self.store.prefix), message)
            .await
            .map_err(self.failed("write", key))?;
        match self.noted(pending.into_future()).await {
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
        let sent = self.store.put(key, value);
        self.noted(sent).await.map_err(self.failed("write", key))
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

    /// Removes an entry if it is still at this revision.
    ///
    /// # Errors
    /// As [`Bucket::write`].
    pub async fn delete_at(&self, key: &str, revision: u64) -> Result<(), Error> {
        self.store
            .delete_expect_revision(key, Some(revision))
            .await
            .map_err(|error| match error.kind() {
                UpdateErrorKind::WrongLastRevision => self.conflict(key),
                _ => self.failed("delete", key)(error),
            })
    }

    /// Lists the entries whose keys match a filter, as in `*.hub/alpine.>`, in the order of their keys.
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
        // A key that is written or removed meanwhile comes a second time; the newer one counts.
        let mut entries = BTreeMap::new();
        let what = format!("{}/{filter}", self.name);
        to_the_end(consumer, "list", &what, |message| {
            let subject = message.subject.as_str();
            let Some(key) = subject.strip_prefix(self.store.prefix.as_str()) else {
                return ControlFlow::Continue(());
            };
            let removed = message.headers.as_ref().is_some_and(|headers| {
                headers.get("KV-Operation").is_some() || headers.get("Nats-Marker-Reason").is_some()
            });
            if removed {
                entries.remove(key);
            } else {
                let entry = Entry {
                    key: key.to_owned(),
                    value: message.payload.clone(),
                    revision: message.info().map_or(0, |info| info.stream_sequence),
                };
                entries.insert(key.to_owned(), entry);
            }
            ControlFlow::Continue(())
        })
        .await?;
        Ok(entries.into_values().collect())
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
