//! One transfer of a blob to a registry at a time within the process; the next one finds it there.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use sluice_domain::{Digest, Repository};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// A blob on its way to a registry, or to one repository of it where nothing can be mounted.
type Key = (Option<Repository>, Digest);

/// One lock for each blob that is copied to a registry; services in one process have accounts of their own but write to one registry.
#[derive(Debug, Default)]
pub(crate) struct KeyedLocks(Mutex<HashMap<Key, Weak<Mutex<()>>>>);

impl KeyedLocks {
    /// Waits until nobody else in this process brings this blob there.
    pub(crate) async fn turn(
        &self,
        repository: Option<&Repository>,
        digest: &Digest,
    ) -> OwnedMutexGuard<()> {
        let key = (repository.cloned(), digest.clone());
        let mut under_way = self.0.lock().await;
        let current = under_way.get(&key).and_then(Weak::upgrade);
        let place = current.unwrap_or_else(|| {
            under_way.retain(|_, place| place.strong_count() > 0);
            let place = Arc::new(Mutex::new(()));
            under_way.insert(key, Arc::downgrade(&place));
            place
        });
        drop(under_way);
        place.lock_owned().await
    }
}
