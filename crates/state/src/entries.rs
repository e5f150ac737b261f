//! A typed bucket: protobuf entries with a schema number.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::ops::ControlFlow;

use futures_util::{Stream, StreamExt as _};
use prost::Message;
use sluice_bus::{Bucket, Update};
use sluice_events::wire::state as wire;

use crate::error::Error;

/// The largest entry, in bytes.
const MAX_BYTES: usize = 256 << 10;
/// How often [`Entries::modify`] reads an entry anew after a conflict.
const MAX_CONFLICTS: usize = 100;

/// A message that is stored in a bucket.
pub trait Stored: Message + Default + Clone + PartialEq {
    /// The schema that this version writes.
    const SCHEMA: u32 = 1;

    /// Returns the schema that the message was written with.
    fn schema(&self) -> u32;

    /// Sets the schema of this version.
    fn stamp(&mut self);
}

macro_rules! stored {
    ($($name:ident),*) => { $(
        impl Stored for wire::$name {
            fn schema(&self) -> u32 {
                self.schema
            }

            fn stamp(&mut self) {
                self.schema = Self::SCHEMA;
            }
        }
    )* };
}
stored!(
    Budget,
    Control,
    Decision,
    Delivery,
    Endpoint,
    ImageEntry,
    LastPull,
    PromotionTarget,
    TargetImage,
    Reconciliation,
    Resource,
    TagEntry,
    Tombstone,
    Unauthorised,
    UpstreamPoll,
    UpstreamTag,
    Verdict
);

/// An entry with the revision it was read at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<R> {
    /// The key in the bucket.
    pub key: String,
    /// The decoded message.
    pub value: R,
    /// The revision to compare with at a write.
    pub revision: u64,
}

/// A page of a bucket.
#[derive(Debug, Clone)]
pub struct Page<R> {
    /// The entries, in the order in which they were written.
    pub entries: Vec<Entry<R>>,
    /// The position after which the next page begins, if there is one.
    pub next: Option<u64>,
}

/// A bucket of one kind of entry.
#[derive(Debug, Clone)]
pub struct Entries<R> {
    bucket: Bucket,
    kind: PhantomData<fn() -> R>,
}

impl<R: Stored> Entries<R> {
    pub(crate) fn new(bucket: Bucket) -> Self {
        Self {
            bucket,
            kind: PhantomData,
        }
    }

    pub(crate) const fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    pub(crate) fn decode(entry: sluice_bus::Entry) -> Result<Entry<R>, Error> {
        let sluice_bus::Entry {
            key,
            value,
            revision,
        } = entry;
        let decoded = R::decode(value).map_err(|source| Error::Unreadable {
            key: key.clone(),
            source,
        })?;
        if decoded.schema() > R::SCHEMA {
            return Err(Error::Newer {
                key,
                schema: decoded.schema(),
            });
        }
        Ok(Entry {
            key,
            value: decoded,
            revision,
        })
    }

    fn encode(key: &str, value: &R) -> Result<Vec<u8>, Error> {
        let mut value = value.clone();
        value.stamp();
        let bytes = value.encode_to_vec();
        if bytes.len() > MAX_BYTES {
            return Err(Error::TooLarge {
                key: key.to_owned(),
                size_bytes: bytes.len(),
            });
        }
        Ok(bytes)
    }

    /// Reads an entry.
    pub async fn get(&self, key: &str) -> Result<Option<Entry<R>>, Error> {
        self.bucket.get(key).await?.map(Self::decode).transpose()
    }

    /// Reads the value of an entry, or the default one, with the revision for [`Entries::write`].
    pub async fn get_or_default(&self, key: &str) -> Result<(R, Option<u64>), Error> {
        let entry = self.get(key).await?;
        Ok(entry.map_or_else(Default::default, |entry| {
            (entry.value, Some(entry.revision))
        }))
    }

    /// Writes an entry if it is still at this revision, or if there is none for `None`.
    ///
    /// # Errors
    /// A conflict ([`Error::is_conflict`]), or a failing bus.
    pub async fn write(&self, key: &str, value: &R, revision: Option<u64>) -> Result<u64, Error> {
        Ok(self
            .bucket
            .write(key, Self::encode(key, value)?.into(), revision)
            .await?)
    }

    /// Writes an entry as [`Entries::write`] does; `false` after a conflict.
    pub async fn try_write(
        &self,
        key: &str,
        value: &R,
        revision: Option<u64>,
    ) -> Result<bool, Error> {
        match self.write(key, value, revision).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Changes an entry, or the default one, by compare-and-set: after a conflict `change` is called with the new
    /// value.
    ///
    /// A value that `change` leaves as it is is not written. `change` also gets the revision, 0 where there is no
    /// entry.
    ///
    /// # Errors
    /// [`Error::TooManyConflicts`] if others kept changing the entry.
    pub async fn modify<T>(
        &self,
        key: &str,
        mut change: impl FnMut(&mut R, u64) -> T,
    ) -> Result<T, Error> {
        for _ in 0..MAX_CONFLICTS {
            let (before, revision) = self.get_or_default(key).await?;
            let mut value = before.clone();
            let result = change(&mut value, revision.unwrap_or(0));
            if value == before || self.try_write(key, &value, revision).await? {
                return Ok(result);
            }
        }
        Err(Error::TooManyConflicts {
            what: format!("entry `{key}`"),
        })
    }

    /// Returns the entries that are written from now on; with history 1, an entry that is overwritten at once may be
    /// missing.
    pub async fn watch_writes(
        &self,
    ) -> Result<impl Stream<Item = Result<Entry<R>, Error>> + Send + Unpin + use<R>, Error> {
        let updates = self.bucket.watch().await?;
        let entries = updates.filter_map(|update| async {
            match update {
                Ok(Update::Put(entry)) => Some(Self::decode(entry)),
                Ok(Update::Removed { .. }) => None,
                Err(error) => Some(Err(error.into())),
            }
        });
        Ok(entries.boxed())
    }

    /// Writes an entry whatever its revision is.
    pub async fn put(&self, key: &str, value: &R) -> Result<u64, Error> {
        Ok(self
            .bucket
            .put(key, Self::encode(key, value)?.into())
            .await?)
    }

    /// Removes an entry.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        Ok(self.bucket.delete(key).await?)
    }

    /// Removes an entry if it is still at this revision.
    pub async fn delete_at(&self, key: &str, revision: u64) -> Result<(), Error> {
        Ok(self.bucket.delete_at(key, revision).await?)
    }

    /// Removes an entry without a trace if it is still at this revision; says whether it did.
    pub async fn purge_if_unchanged(&self, entry: &Entry<R>) -> Result<bool, Error> {
        Ok(self
            .bucket
            .purge_if_unchanged(&entry.key, entry.revision)
            .await?)
    }

    /// Returns how many entries the bucket has, the marks of removed ones among them.
    pub async fn count(&self) -> Result<u64, Error> {
        Ok(self.bucket.count().await?)
    }

    /// Returns the revision of the last change of the bucket; what is written later has a higher one.
    pub async fn last_revision(&self) -> Result<u64, Error> {
        Ok(self.bucket.last_revision().await?)
    }

    /// Returns at most `limit` entries in the order in which they were written; in a bucket with history 1 a walk over
    /// all pages misses none. An entry that this version cannot read is left out, with an error in the log.
    pub async fn page(&self, filter: &str, after: u64, limit: usize) -> Result<Page<R>, Error> {
        let page = self.bucket.page(filter, after, limit).await?;
        let mut entries = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            match Self::decode(entry) {
                Ok(entry) => entries.push(entry),
                // A damaged entry must not hide the entries behind it from a reconciliation.
                Err(error) => tracing::error!(%error, "skipping an entry that cannot be read"),
            }
        }
        Ok(Page {
            entries,
            next: page.next,
        })
    }

    /// Lists the entries whose keys match a filter, in the order of the keys.
    pub async fn list(&self, filter: &str) -> Result<Vec<Entry<R>>, Error> {
        let listed = self.collect(filter, Some).await?;
        Ok(listed.into_values().collect())
    }

    /// Lists what `map` takes of the entries whose keys match a filter, by key; the entries are not kept in memory.
    pub async fn collect<T>(
        &self,
        filter: &str,
        mut map: impl FnMut(Entry<R>) -> Option<T>,
    ) -> Result<BTreeMap<String, T>, Error> {
        let mut mapped = BTreeMap::new();
        self.each(filter, |key, entry| {
            match entry.and_then(&mut map) {
                Some(value) => drop(mapped.insert(key, value)),
                None => drop(mapped.remove(&key)),
            }
            ControlFlow::Continue(())
        })
        .await?;
        Ok(mapped)
    }

    /// Lists at most `limit` entries whose keys match a filter and come after a key, in the order of the keys.
    pub async fn list_after(
        &self,
        filter: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Entry<R>>, Error> {
        let mut listed = BTreeMap::new();
        self.each(filter, |key, entry| {
            match entry.filter(|_| key.as_str() > after) {
                Some(entry) => drop(listed.insert(key, entry)),
                None => drop(listed.remove(&key)),
            }
            if listed.len() > limit {
                listed.pop_last();
            }
            ControlFlow::Continue(())
        })
        .await?;
        Ok(listed.into_values().collect())
    }

    /// Says whether a predicate holds for more than `count` entries whose keys match a filter; reads no further than
    /// that.
    pub async fn has_more_than(
        &self,
        count: usize,
        filter: &str,
        predicate: impl Fn(&Entry<R>) -> bool,
    ) -> Result<bool, Error> {
        let mut matching = BTreeSet::new();
        self.each(filter, |key, entry| {
            match entry.filter(&predicate) {
                Some(_) => drop(matching.insert(key)),
                None => drop(matching.remove(&key)),
            }
            if matching.len() > count {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .await?;
        Ok(matching.len() > count)
    }

    /// Calls `visit` with the last entry of each key that matches a filter, and with `None` for a removed key, until it
    /// breaks; a key that is changed meanwhile comes a second time. No entry is kept in memory.
    pub async fn each(
        &self,
        filter: &str,
        mut visit: impl FnMut(String, Option<Entry<R>>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut unreadable = None;
        self.bucket
            .for_each(filter, |change| match change {
                Update::Put(entry) => match Self::decode(entry) {
                    Ok(entry) => visit(entry.key.clone(), Some(entry)),
                    Err(error) => {
                        unreadable = Some(error);
                        ControlFlow::Break(())
                    }
                },
                Update::Removed { key, .. } => visit(key, None),
            })
            .await?;
        unreadable.map_or(Ok(()), Err)
    }
}
