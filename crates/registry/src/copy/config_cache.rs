//! The cache of image configurations that a copy has transferred, so that its caller need not fetch them again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use sluice_domain::Digest;

use crate::content::manifest::descriptor::{Descriptor, digest_of};
use crate::content::manifest::{Content, Manifest};

/// The largest configuration that is cached.
const MAX_BYTES: u64 = 64 << 10;
/// How many configurations of one copy are cached.
const MAX_CONFIGS: usize = 64;

/// The bytes of a configuration that have arrived.
pub(crate) type ConfigBytes = Arc<Mutex<BytesMut>>;

/// Configurations by their digest, which was checked.
#[derive(Debug, Default)]
pub(crate) struct ConfigCache(Mutex<HashMap<Digest, Option<Bytes>>>);

impl ConfigCache {
    /// Adds the small configurations of images, without their bytes.
    pub(crate) fn expect<'a>(&self, manifests: impl Iterator<Item = &'a Manifest>) {
        let expected = manifests.filter_map(|manifest| match &manifest.content {
            Content::Image { config, .. } if config.size <= MAX_BYTES => {
                Some((config.digest.clone(), None))
            }
            _ => None,
        });
        let mut configs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        configs.extend(expected.take(MAX_CONFIGS));
    }

    /// Returns whether a blob is one of them.
    pub(crate) fn is_expected(&self, blob: &Descriptor) -> bool {
        let configs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        configs.contains_key(&blob.digest)
    }

    /// Stores the bytes of a configuration, unless a transfer that was cut left other bytes.
    pub(crate) fn insert(&self, digest: &Digest, received: &ConfigBytes) {
        let bytes = received.lock().unwrap_or_else(PoisonError::into_inner);
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
