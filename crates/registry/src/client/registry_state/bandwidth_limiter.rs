//! The bandwidth limit of one registry.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Limits the bytes per second of all transfers together.
#[derive(Debug, Default)]
pub(crate) struct BandwidthLimiter(Mutex<Option<Instant>>);

impl BandwidthLimiter {
    /// Waits until a number of bytes may be sent at a rate per second.
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
        let (limiter, began) = (BandwidthLimiter::default(), Instant::now());
        let rate = NonZeroU64::new(1_000).unwrap();
        let one = async {
            for _ in 0..5 {
                limiter.take(rate, 100).await;
            }
        };
        let other = async {
            for _ in 0..5 {
                limiter.take(rate, 100).await;
            }
        };
        tokio::join!(one, other);
        let took = began.elapsed().as_millis();
        assert!((1_000..1_010).contains(&took), "{took}");
    }
}
