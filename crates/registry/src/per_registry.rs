//! What all clients of one registry in this process share.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use crate::blob_locations::BlobLocationCache;
use crate::keyed_locks::KeyedLocks;
use crate::throttle::Throttle;

/// How many registries are remembered although no client speaks to them at the moment.
const MOST: usize = 64;

/// By origin; clients come and go with single messages, and what they know together stays.
static OF_ORIGINS: LazyLock<Mutex<HashMap<String, Arc<Common>>>> = LazyLock::new(Mutex::default);

/// Who brings what, what lies where, when the next bytes may pass, and when it may be asked again.
#[derive(Debug, Default)]
pub(crate) struct Common {
    pub(crate) turns: KeyedLocks,
    pub(crate) known: BlobLocationCache,
    pub(crate) pace: BandwidthLimiter,
    pub(crate) throttle: Throttle,
    /// It was seen to answer a HEAD of a manifest, so that 404 means what it says.
    pub(crate) answers_heads: AtomicBool,
    /// It was seen to refuse a list for the length of its pages.
    pub(crate) refuses_page_size: AtomicBool,
}

impl Common {
    /// Returns what the clients of the registry at this address share.
    pub(crate) fn of(base: &Url) -> Arc<Self> {
        let key = base.origin().ascii_serialization();
        let mut all = OF_ORIGINS.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.retain(|kept, common| *kept == key || Arc::strong_count(common) > 1);
        }
        Arc::clone(all.entry(key).or_default())
    }
}

/// Limits the bandwidth.
#[derive(Debug, Default)]
pub(crate) struct BandwidthLimiter(Mutex<Option<Instant>>);

impl BandwidthLimiter {
    /// Waits until this many bytes may pass at a rate per second.
    pub(crate) async fn take(&self, rate: NonZeroU64, bytes: u64) {
        let until = {
            let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
            let lasts = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
            let until = free.map_or(now, |free| free.max(now)) + lasts;
            *free = Some(until);
            until
        };
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_the_rate_that_all_have_together() {
        let (pace, began) = (BandwidthLimiter::default(), Instant::now());
        let rate = NonZeroU64::new(1_000).unwrap();
        let one = async {
            for _ in 0..5 {
                pace.take(rate, 100).await;
            }
        };
        let other = async {
            for _ in 0..5 {
                pace.take(rate, 100).await;
            }
        };
        tokio::join!(one, other);
        let took = began.elapsed().as_millis();
        assert!((1_000..1_010).contains(&took), "{took}");
    }

    #[test]
    fn clients_of_one_registry_share_and_others_do_not() {
        let (one, two) = ("http://a.test:1/x", "http://a.test:2");
        let of = |text: &str| Common::of(&text.parse().unwrap());
        let first = of(one);
        assert!(Arc::ptr_eq(&first, &of(one)) && !Arc::ptr_eq(&first, &of(two)));
    }
}
