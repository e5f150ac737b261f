//! The configurations of images that passed through a copy, for whoever would otherwise fetch them again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use sluice_domain::Digest;

use crate::manifest::{Content, Descriptor, Manifest, digest_of};

/// The largest configuration that is kept.
const MAX_BYTES: u64 = 64 << 10;
/// How many are kept of one copy.
const MOST: usize = 64;

/// What has come in of a blob so far.
pub(crate) type Kept = Arc<Mutex<BytesMut>>;

/// Configurations by their digest, which was checked.
#[derive(Debug, Default)]
pub(crate) struct Configs(Mutex<HashMap<Digest, Option<Bytes>>>);

impl Configs {
    /// Makes places for the small configurations of images.
    pub(crate) fn want<'a>(&self, manifests: impl Iterator<Item = &'a Manifest>) {
        let wanted = manifests.filter_map(|manifest| match &manifest.content {
            Content::Image { config, .. } if config.size <= MAX_BYTES => {
                Some((config.digest.clone(), None))
            }
            _ => None,
        });
        let mut configs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        configs.extend(wanted.take(MOST));
    }

    pub(crate) fn is_wanted(&self, blob: &Descriptor) -> bool {
        let configs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        configs.contains_key(&blob.digest)
    }

    /// Keeps what was transferred, unless a transfer that broke off left other bytes.
    pub(crate) fn insert(&self, digest: &Digest, kept: &Kept) {
        let bytes = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if digest_of(&bytes) == *digest {
            let bytes = bytes.clone().freeze();
            let mut configs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            configs.insert(digest.clone(), Some(bytes));
        }
    }

    pub(crate) fn into_bytes(self) -> HashMap<Digest, Bytes> {
        let configs = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let transferred = |(digest, bytes): (Digest, Option<Bytes>)| Some((digest, bytes?));
        configs.into_iter().filter_map(transferred).collect()
    }
}
