//! The cache of which repository has a blob, and whether the registry mounts blobs; both are hints that a request confirms.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_domain::{Digest, Repository};
use tokio::time::Instant;

/// How many locations are cached in each of two generations.
const MAX_LOCATIONS: usize = 32_768;
/// How many locations of one blob are cached: a layer of a base image is in most repositories.
const MAX_LOCATIONS_OF_BLOB: usize = 64;
/// For how long a location counts without another check.
const FRESH: Duration = Duration::from_secs(300);
/// After this many refused mounts in a row a registry counts as one that mounts nothing.
const MAX_REFUSALS: u32 = 3;
/// After this many uploads a test mount is worth its request: it may save one for each further upload.
const UPLOADS_BEFORE_TEST: u32 = 8;

#[derive(Debug)]
struct BlobLocation {
    /// The account that saw it: another one may not be able to read that repository.
    account: Option<String>,
    repository: Repository,
    seen: Instant,
}

/// The cache; the older generation is dropped when the younger one is full.
#[derive(Debug, Default)]
struct Memory {
    young: HashMap<Digest, Vec<BlobLocation>>,
    old: HashMap<Digest, Vec<BlobLocation>>,
    /// How many locations the younger generation has.
    young_count: usize,
    refusals: u32,
    uploads: u32,
    mounts_own: bool,
}

/// The cache of which repositories of one registry have a blob, as far as this process has seen.
#[derive(Debug, Default)]
pub(crate) struct BlobLocationCache(Mutex<Memory>);

impl BlobLocationCache {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a repository has a blob.
    pub(crate) fn insert(&self, account: Option<&str>, repository: &Repository, digest: &Digest) {
        let mut memory = self.memory();
        if memory.young_count >= MAX_LOCATIONS {
            memory.old = std::mem::take(&mut memory.young);
            memory.young_count = 0;
        }
        let Memory {
            young,
            old,
            young_count,
            ..
        } = &mut *memory;
        let locations = young.entry(digest.clone()).or_default();
        *young_count = young_count.saturating_sub(locations.len());
        locations.extend(old.remove(digest).unwrap_or_default());
        locations.retain(|location| !location.is(account, repository));
        locations.insert(
            0,
            BlobLocation {
                account: account.map(str::to_owned),
                repository: repository.clone(),
                seen: Instant::now(),
            },
        );
        locations.truncate(MAX_LOCATIONS_OF_BLOB);
        *young_count += locations.len();
    }

    /// Removes the record that a repository has a blob.
    pub(crate) fn remove(&self, account: Option<&str>, repository: &Repository, digest: &Digest) {
        let mut memory = self.memory();
        let Memory {
            young,
            old,
            young_count,
            ..
        } = &mut *memory;
        let there = |location: &BlobLocation| !location.is(account, repository);
        if let Some(locations) = young.get_mut(digest) {
            let had = locations.len();
            locations.retain(there);
            *young_count = young_count.saturating_sub(had - locations.len());
        }
        if let Some(locations) = old.get_mut(digest) {
            locations.retain(there);
        }
    }

    /// Returns whether a repository was seen to have a blob so recently that no check is needed.
    pub(crate) fn is_fresh(
        &self,
        account: Option<&str>,
        repository: &Repository,
        digest: &Digest,
    ) -> bool {
        let memory = self.memory();
        memory
            .locations(digest)
            .any(|location| location.is(account, repository) && location.seen.elapsed() < FRESH)
    }

    /// Returns the repositories that have a blob, the latest first, except the target.
    pub(crate) fn holders(
        &self,
        account: Option<&str>,
        other_than: &Repository,
        digest: &Digest,
    ) -> Vec<Repository> {
        let memory = self.memory();
        let holders = memory.locations(digest).filter(|location| {
            location.account.as_deref() == account && location.repository != *other_than
        });
        holders
            .map(|location| location.repository.clone())
            .collect()
    }

    /// Records whether the registry mounted from a repository that has the blob.
    pub(crate) fn record_mount(&self, is_mounted: bool) {
        let mut memory = self.memory();
        memory.refusals = if is_mounted {
            0
        } else {
            memory.refusals.saturating_add(1)
        };
    }

    /// Counts an upload, and returns once, after some of them, that a test mount within a repository is due.
    pub(crate) fn record_upload(&self) -> bool {
        let mut memory = self.memory();
        memory.uploads = memory.uploads.saturating_add(1);
        memory.uploads == UPLOADS_BEFORE_TEST && memory.mounts()
    }

    /// Records whether the registry mounted a blob within one repository.
    pub(crate) fn record_own_mount(&self, is_mounted: bool) {
        self.memory().mounts_own = is_mounted;
    }

    /// Records that the test mount failed; it is due again after some more uploads.
    pub(crate) fn record_own_mount_failure(&self) {
        let mut memory = self.memory();
        memory.mounts_own = false;
        memory.uploads = 0;
    }

    /// Returns whether a mount within a repository finds a blob that is there, or else starts its upload.
    pub(crate) fn mounts_own(&self) -> bool {
        let memory = self.memory();
        memory.mounts_own && memory.mounts()
    }

    /// Returns whether the registry mounts blobs, so that one transfer serves all its repositories.
    pub(crate) fn mounts(&self) -> bool {
        self.memory().mounts()
    }
}

impl Memory {
    fn mounts(&self) -> bool {
        self.refusals < MAX_REFUSALS
    }

    fn locations(&self, digest: &Digest) -> impl Iterator<Item = &BlobLocation> {
        let maps = [&self.young, &self.old];
        maps.into_iter().filter_map(|map| map.get(digest)).flatten()
    }
}

impl BlobLocation {
    fn is(&self, account: Option<&str>, repository: &Repository) -> bool {
        self.account.as_deref() == account && self.repository == *repository
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::manifest::descriptor::digest_of;

    fn name(text: &str) -> Repository {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_account_saw_is_known_to_it_until_the_registry_says_no() {
        let (cache, digest) = (BlobLocationCache::default(), digest_of(b"x"));
        let (one, two) = (name("hub/one"), name("hub/two"));
        cache.insert(Some("a"), &one, &digest);
        cache.insert(Some("a"), &two, &digest);
        assert_eq!(
            cache.holders(Some("a"), &name("hub/three"), &digest),
            [two.clone(), one.clone()]
        );
        assert_eq!(
            cache.holders(Some("a"), &two, &digest),
            std::slice::from_ref(&one)
        );
        assert!(cache.holders(None, &two, &digest).is_empty());
        assert!(cache.is_fresh(Some("a"), &one, &digest) && !cache.is_fresh(None, &one, &digest));
        tokio::time::advance(FRESH).await;
        assert!(!cache.is_fresh(Some("a"), &one, &digest));
        cache.remove(Some("a"), &one, &digest);
        assert_eq!(cache.holders(Some("a"), &name("hub/three"), &digest), [two]);
    }

    #[tokio::test]
    async fn not_more_is_remembered_than_fits() {
        let (cache, repository) = (BlobLocationCache::default(), name("hub/one"));
        for number in 0..3 * MAX_LOCATIONS {
            cache.insert(None, &repository, &digest_of(&number.to_be_bytes()));
        }
        // The same blobs in many repositories.
        for location in 0..8 {
            let repository = name(&format!("hub/s{location}"));
            for number in 0..MAX_LOCATIONS / 2 {
                cache.insert(None, &repository, &digest_of(&number.to_be_bytes()));
            }
        }
        // A layer that is everywhere is cache in many locations, and takes no more than fits either.
        let digest = digest_of(b"base");
        for number in 0..3 * MAX_LOCATIONS_OF_BLOB {
            cache.insert(None, &name(&format!("hub/r{number}")), &digest);
        }
        let last = name(&format!("hub/r{}", 3 * MAX_LOCATIONS_OF_BLOB - 40));
        assert!(cache.is_fresh(None, &last, &digest));
        let memory = cache.memory();
        for generation in [&memory.young, &memory.old] {
            let young_count: usize = generation.values().map(Vec::len).sum();
            assert!(
                young_count <= MAX_LOCATIONS + MAX_LOCATIONS_OF_BLOB,
                "{young_count}"
            );
        }
        let young_count: usize = memory.young.values().map(Vec::len).sum();
        assert_eq!(memory.young_count, young_count);
    }

    #[test]
    fn a_registry_that_mounts_nothing_is_told_from_one_that_does() {
        let cache = BlobLocationCache::default();
        for _ in 0..MAX_REFUSALS {
            assert!(cache.mounts());
            cache.record_mount(false);
        }
        assert!(!cache.mounts());
        cache.record_mount(true);
        assert!(cache.mounts());
    }
}
