//! One transfer of a blob to a repository at a time within the process; the next one finds it there.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

use sluice_domain::{Digest, Repository};
use tokio::sync::{Mutex, OwnedMutexGuard};
use url::Url;

type Key = (String, Repository, Digest);

/// Shared by all clients: services in one process have accounts of their own but write to one registry.
static UNDER_WAY: LazyLock<Mutex<HashMap<Key, Weak<Mutex<()>>>>> = LazyLock::new(Mutex::default);

/// Waits until nobody else in this process brings this blob to this repository.
pub(crate) async fn turn(
    base: &Url,
    repository: &Repository,
    digest: &Digest,
) -> OwnedMutexGuard<()> {
    let key = (
        base.origin().ascii_serialization(),
        repository.clone(),
        digest.clone(),
    );
    let mut under_way = UNDER_WAY.lock().await;
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
