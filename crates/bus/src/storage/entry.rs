//! Entries of buckets and their changes.

use bytes::Bytes;

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

/// A change of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// An entry was written.
    Put(Entry),
    /// An entry was removed or expired.
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

    /// Returns the entry that was written; nothing for a removal.
    pub(crate) fn into_entry(self) -> Option<Entry> {
        match self {
            Self::Put(entry) => Some(entry),
            Self::Removed { .. } => None,
        }
    }
}
