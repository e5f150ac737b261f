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

/// A message that is stored in a bucket.
pub trait Stored: Message + Default + Clone {
    /// The schema that this version writes.
    const SCHEMA: u32 = 1;

    /// Returns the schema it was written with.
    fn schema(&self) -> u32;

    /// Stamps it with this version's schema.
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
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: R,
    /// Its revision.
    pub revision: u64,
}

/// A part of a bucket.
#[derive(Debug, Clone)]
pub struct Page<R> {
    /// Its entries, in the order in which they were written.
    pub entries: Vec<Entry<R>>,
    /// After which place the next part begins, if there is one.
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
    ///
    /// # Errors
    /// A failing bus, or an entry that this version cannot read.
    pub async fn get(&self, key: &str) -> Result<Option<Entry<R>>, Error> {
        self.bucket.get(key).await?.map(Self::decode).transpose()
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

    /// Returns the entries that are written from now on; with history 1, one that is written over at once may be left out.
    ///
    /// # Errors
    /// A failing bus.
    pub async fn written(
        &self,
    ) -> Result<impl Stream<Item = Result<Entry<R>, Error>> + Send + Unpin + use<R>, Error> {
        let updates = self.bucket.watch().await?;
        let written = updates.filter_map(|update| async {
            match update {
                Ok(Update::Put(entry)) => Some(Self::decode(entry)),
                Ok(Update::Removed { .. }) => None,
                Err(error) => Some(Err(error.into())),
            }
        });
        Ok(written.boxed())
    }

    /// Writes an entry whatever it was.
    ///
    /// # Errors
    /// A failing bus.
    pub async fn put(&self, key: &str, value: &R) -> Result<u64, Error> {
        Ok(self
            .bucket
            .put(key, Self::encode(key, value)?.into())
            .await?)
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// A failing bus.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        Ok(self.bucket.delete(key).await?)
    }

    /// Removes an entry if it is still at this revision.
    ///
    /// # Errors
    /// A failing bus, or an entry that was written meanwhile.
    pub async fn delete_at(&self, key: &str, revision: u64) -> Result<(), Error> {
        Ok(self.bucket.delete_at(key, revision).await?)
    }

    /// Removes an entry for good if it is still at this revision; says whether it did.
    ///
    /// # Errors
    /// A failing bus.
    pub async fn forget(&self, entry: &Entry<R>) -> Result<bool, Error> {
        Ok(self.bucket.forget(&entry.key, entry.revision).await?)
    }

    /// Returns how many entries the bucket has, the marks of removed ones among them.
    ///
    /// # Errors
    /// A failing bus.
    pub async fn count(&self) -> Result<u64, Error> {
        Ok(self.bucket.count().await?)
    }

    /// Returns the revision of the last change of the bucket; what is written later has a higher one.
    ///
    /// # Errors
    /// A failing bus.
    pub async fn last_revision(&self) -> Result<u64, Error> {
        Ok(self.bucket.last_revision().await?)
    }

    /// Returns entries in the order in which they were written, at most `limit`, and where to go on; in a bucket with
    /// history 1 a walk over all pages misses none. What this version cannot read is left out, with an error in the log.
    ///
    /// # Errors
    /// A failing bus.
    pub async fn page(&self, filter: &str, after: u64, limit: usize) -> Result<Page<R>, Error> {
        let page = self.bucket.page(filter, after, limit).await?;
        let mut entries = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            match Self::decode(entry) {
                Ok(entry) => entries.push(entry),
                // One entry that is damaged must not hide what is missing behind it.
                Err(error) => tracing::error!(%error, "an entry is left out"),
            }
        }
        Ok(Page {
            entries,
            next: page.next,
        })
    }

    /// Lists the entries whose keys match a filter, in the order of the keys.
    ///
    /// # Errors
    /// A failing bus, or an entry that this version cannot read.
    pub async fn list(&self, filter: &str) -> Result<Vec<Entry<R>>, Error> {
        let listed = self.collect(filter, Some).await?;
        Ok(listed.into_values().collect())
    }

    /// Lists what is wanted of the entries whose keys match a filter, by key; the rest of them is not kept in memory.
    ///
    /// # Errors
    /// As [`Entries::list`].
    pub async fn collect<T>(
        &self,
        filter: &str,
        mut want: impl FnMut(Entry<R>) -> Option<T>,
    ) -> Result<BTreeMap<String, T>, Error> {
        let mut wanted = BTreeMap::new();
        self.each(filter, |key, entry| {
            match entry.and_then(&mut want) {
                Some(value) => drop(wanted.insert(key, value)),
                None => drop(wanted.remove(&key)),
            }
            ControlFlow::Continue(())
        })
        .await?;
        Ok(wanted)
    }

    /// Lists at most so many entries whose keys match a filter and come after a key, in the order of the keys; none only
    /// where there are no more.
    ///
    /// # Errors
    /// As [`Entries::list`].
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

    /// Says whether more than so many entries whose keys match a filter are as wanted; reads no further than that.
    ///
    /// # Errors
    /// As [`Entries::list`].
    pub async fn has_more_than(
        &self,
        count: usize,
        filter: &str,
        is_wanted: impl Fn(&Entry<R>) -> bool,
    ) -> Result<bool, Error> {
        let mut wanted = BTreeSet::new();
        self.each(filter, |key, entry| {
            match entry.filter(&is_wanted) {
                Some(_) => drop(wanted.insert(key)),
                None => drop(wanted.remove(&key)),
            }
            if wanted.len() > count {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .await?;
        Ok(wanted.len() > count)
    }

    /// Hands over the last entry of each key that matches a filter, and nothing for a key that was removed, until `take` has
    /// enough; one that is changed meanwhile comes a second time. None is kept in memory.
    ///
    /// # Errors
    /// As [`Entries::list`].
    pub async fn each(
        &self,
        filter: &str,
        mut take: impl FnMut(String, Option<Entry<R>>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut unreadable = None;
        self.bucket
            .for_each(filter, |change| match change {
                Update::Put(entry) => match Self::decode(entry) {
                    Ok(entry) => take(entry.key.clone(), Some(entry)),
                    Err(error) => {
                        unreadable = Some(error);
                        ControlFlow::Break(())
                    }
                },
                Update::Removed { key, .. } => take(key, None),
            })
            .await?;
        unreadable.map_or(Ok(()), Err)
    }
}
