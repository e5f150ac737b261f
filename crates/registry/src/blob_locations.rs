//! Where blobs of a registry were seen or brought to by this process; the registry's own answer has the last word.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_domain::{Digest, Repository};
use tokio::time::Instant;

/// How many places of blobs are remembered at most, in each of two generations.
const MOST: usize = 32_768;
/// How many places of one blob are remembered: a layer of a base image is in most repositories.
const PLACES: usize = 64;
/// For how long a blob that was seen in a repository needs no further look.
const FRESH: Duration = Duration::from_secs(300);
/// After this many mounts in a row that a registry would not do, it is taken for one that mounts nothing.
const REFUSALS: u32 = 3;
/// After this many uploads it is worth a request to learn whether each of the next ones can be spared one.
const UPLOADS: u32 = 8;

#[derive(Debug)]
struct BlobLocation {
    /// Who saw it there: another account may not be able to read that repository.
    account: Option<String>,
    repository: Repository,
    seen: Instant,
}

/// What is remembered; the older generation is given up when the younger one is full.
#[derive(Debug, Default)]
struct Memory {
    young: HashMap<Digest, Vec<BlobLocation>>,
    old: HashMap<Digest, Vec<BlobLocation>>,
    /// How many places the younger generation has.
    held: usize,
    refusals: u32,
    uploads: u32,
    mounts_own: bool,
}

/// Which repositories of one registry hold a blob, as far as this process has seen.
#[derive(Debug, Default)]
pub(crate) struct BlobLocationCache(Mutex<Memory>);

impl BlobLocationCache {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that a repository has a blob.
    pub(crate) fn note(&self, account: Option<&str>, repository: &Repository, digest: &Digest) {
        let mut memory = self.memory();
        if memory.held >= MOST {
            memory.old = std::mem::take(&mut memory.young);
            memory.held = 0;
        }
        let Memory {
            young, old, held, ..
        } = &mut *memory;
        let places = young.entry(digest.clone()).or_default();
        *held = held.saturating_sub(places.len());
        places.extend(old.remove(digest).unwrap_or_default());
        places.retain(|place| !place.is(account, repository));
        places.insert(
            0,
            BlobLocation {
                account: account.map(str::to_owned),
                repository: repository.clone(),
                seen: Instant::now(),
            },
        );
        places.truncate(PLACES);
        *held += places.len();
    }

    /// Forgets that a repository has a blob.
    pub(crate) fn forget(&self, account: Option<&str>, repository: &Repository, digest: &Digest) {
        let mut memory = self.memory();
        let Memory {
            young, old, held, ..
        } = &mut *memory;
        let there = |place: &BlobLocation| !place.is(account, repository);
        if let Some(places) = young.get_mut(digest) {
            let had = places.len();
            places.retain(there);
            *held = held.saturating_sub(had - places.len());
        }
        if let Some(places) = old.get_mut(digest) {
            places.retain(there);
        }
    }

    /// Says whether a repository was seen to have a blob so lately that nobody needs to look again.
    pub(crate) fn is_fresh(
        &self,
        account: Option<&str>,
        repository: &Repository,
        digest: &Digest,
    ) -> bool {
        let memory = self.memory();
        memory
            .places(digest)
            .any(|place| place.is(account, repository) && place.seen.elapsed() < FRESH)
    }

    /// Returns the repositories that have a blob, the latest first, but for the one that it is for.
    pub(crate) fn holders(
        &self,
        account: Option<&str>,
        other_than: &Repository,
        digest: &Digest,
    ) -> Vec<Repository> {
        let memory = self.memory();
        let holders = memory
            .places(digest)
            .filter(|place| place.account.as_deref() == account && place.repository != *other_than);
        holders.map(|place| place.repository.clone()).collect()
    }

    /// Takes note of whether the registry mounted from a repository that has the blob.
    pub(crate) fn mounted(&self, did: bool) {
        let mut memory = self.memory();
        memory.refusals = if did {
            0
        } else {
            memory.refusals.saturating_add(1)
        };
    }

    /// Counts an upload; says once, when there were some, that it is time to mount a blob from where it is, unless the
    /// registry mounts nothing.
    pub(crate) fn uploaded(&self) -> bool {
        let mut memory = self.memory();
        memory.uploads = memory.uploads.saturating_add(1);
        memory.uploads == UPLOADS && memory.mounts()
    }

    /// Takes note of whether the registry mounted a blob from the repository that it was mounted into.
    pub(crate) fn mounted_own(&self, did: bool) {
        self.memory().mounts_own = did;
    }

    /// Takes note that it could not be told; after some more uploads it is tried again.
    pub(crate) fn not_mounted_own(&self) {
        let mut memory = self.memory();
        memory.mounts_own = false;
        memory.uploads = 0;
    }

    /// Says whether one request tells that a repository has a blob, or else where that can be sent.
    pub(crate) fn mounts_own(&self) -> bool {
        let memory = self.memory();
        memory.mounts_own && memory.mounts()
    }

    /// Says whether it is worth waiting for a blob that is on its way to another repository of the registry.
    pub(crate) fn mounts(&self) -> bool {
        self.memory().mounts()
    }
}

impl Memory {
    fn mounts(&self) -> bool {
        self.refusals < REFUSALS
    }

    fn places(&self, digest: &Digest) -> impl Iterator<Item = &BlobLocation> {
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
    use crate::manifest::digest_of;

    fn name(text: &str) -> Repository {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_account_saw_is_known_to_it_until_the_registry_says_no() {
        let (known, digest) = (BlobLocationCache::default(), digest_of(b"x"));
        let (one, two) = (name("hub/one"), name("hub/two"));
        known.note(Some("a"), &one, &digest);
        known.note(Some("a"), &two, &digest);
        assert_eq!(
            known.holders(Some("a"), &name("hub/three"), &digest),
            [two.clone(), one.clone()]
        );
        assert_eq!(
            known.holders(Some("a"), &two, &digest),
            std::slice::from_ref(&one)
        );
        assert!(known.holders(None, &two, &digest).is_empty());
        assert!(known.is_fresh(Some("a"), &one, &digest) && !known.is_fresh(None, &one, &digest));
        tokio::time::advance(FRESH).await;
        assert!(!known.is_fresh(Some("a"), &one, &digest));
        known.forget(Some("a"), &one, &digest);
        assert_eq!(known.holders(Some("a"), &name("hub/three"), &digest), [two]);
    }

    #[tokio::test]
    async fn not_more_is_remembered_than_fits() {
        let (known, repository) = (BlobLocationCache::default(), name("hub/one"));
        for number in 0..3 * MOST {
            known.note(None, &repository, &digest_of(&number.to_be_bytes()));
        }
        // The same blobs in many repositories.
        for place in 0..8 {
            let repository = name(&format!("hub/s{place}"));
            for number in 0..MOST / 2 {
                known.note(None, &repository, &digest_of(&number.to_be_bytes()));
            }
        }
        // A layer that is everywhere is known in many places, and takes no more than fits either.
        let digest = digest_of(b"base");
        for number in 0..3 * PLACES {
            known.note(None, &name(&format!("hub/r{number}")), &digest);
        }
        let last = name(&format!("hub/r{}", 3 * PLACES - 40));
        assert!(known.is_fresh(None, &last, &digest));
        let memory = known.memory();
        for generation in [&memory.young, &memory.old] {
            let held: usize = generation.values().map(Vec::len).sum();
            assert!(held <= MOST + PLACES, "{held}");
        }
        let held: usize = memory.young.values().map(Vec::len).sum();
        assert_eq!(memory.held, held);
    }

    #[test]
    fn a_registry_that_mounts_nothing_is_told_from_one_that_does() {
        let known = BlobLocationCache::default();
        for _ in 0..REFUSALS {
            assert!(known.mounts());
            known.mounted(false);
        }
        assert!(!known.mounts());
        known.mounted(true);
        assert!(known.mounts());
    }
}
