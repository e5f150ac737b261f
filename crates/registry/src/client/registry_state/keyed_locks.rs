//! Locks by blob: one transfer of a blob to a registry at a time within the process; the next one finds it there.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use sluice_domain::{Digest, Repository};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// A blob in a registry, or in one repository if the registry mounts nothing.
type Key = (Option<Repository>, Digest);

/// One lock for each blob that is being copied to a registry; services in one process have their own accounts but write to
/// the same registry.
#[derive(Debug, Default)]
pub(crate) struct KeyedLocks(Mutex<HashMap<Key, Weak<Mutex<()>>>>);

impl KeyedLocks {
    /// Waits until no other task of this process transfers the blob.
    pub(crate) async fn lock(
        &self,
        repository: Option<&Repository>,
        digest: &Digest,
    ) -> OwnedMutexGuard<()> {
        let key = (repository.cloned(), digest.clone());
        let mut locks = self.0.lock().await;
        let current = locks.get(&key).and_then(Weak::upgrade);
        let lock = current.unwrap_or_else(|| {
            locks.retain(|_, lock| lock.strong_count() > 0);
            let lock = Arc::new(Mutex::new(()));
            locks.insert(key, Arc::downgrade(&lock));
            lock
        });
        drop(locks);
        lock.lock_owned().await
    }
}
