//! The state that all clients of one registry in this process share.

pub(crate) mod bandwidth_limiter;
pub(crate) mod blob_locations;
pub(crate) mod keyed_locks;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use url::Url;

use crate::http::rate_limit::throttle::Throttle;

use self::bandwidth_limiter::BandwidthLimiter;
use self::blob_locations::BlobLocationCache;
use self::keyed_locks::KeyedLocks;

/// How many registries are remembered without any client.
const MAX_REGISTRIES: usize = 64;

/// By origin; clients may live for one message only, and their state stays.
static BY_ORIGIN: LazyLock<Mutex<HashMap<String, Arc<RegistryState>>>> =
    LazyLock::new(Mutex::default);

/// Blob locks and locations, bandwidth, throttle, and what was found out about one registry.
#[derive(Debug, Default)]
pub(crate) struct RegistryState {
    pub(crate) blob_locks: KeyedLocks,
    pub(crate) blob_locations: BlobLocationCache,
    pub(crate) bandwidth: BandwidthLimiter,
    pub(crate) throttle: Arc<Throttle>,
    /// The registry was seen to answer a HEAD of a manifest, so its 404 is to be believed.
    pub(crate) answers_heads: AtomicBool,
    /// The registry was seen to refuse a list for its page size.
    pub(crate) refuses_page_size: AtomicBool,
}

impl RegistryState {
    /// Returns the state of the registry at this base URL.
    pub(crate) fn of(base: &Url) -> Arc<Self> {
        let key = base.origin().ascii_serialization();
        let mut all = BY_ORIGIN.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_REGISTRIES {
            all.retain(|kept, state| *kept == key || Arc::strong_count(state) > 1);
        }
        Arc::clone(all.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_one_registry_share_and_others_do_not() {
        let (one, two) = ("http://a.test:1/x", "http://a.test:2");
        let of = |text: &str| RegistryState::of(&text.parse().unwrap());
        let first = of(one);
        assert!(Arc::ptr_eq(&first, &of(one)) && !Arc::ptr_eq(&first, &of(two)));
    }
}
