//! Growing delays between attempts.

use std::time::Duration;

/// Exponential delays between two bounds, with full jitter above half of each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
}

impl Backoff {
    /// Makes a backoff that starts at `initial` and doubles up to `max`.
    #[must_use]
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max }
    }

    /// Returns the delay after the given attempt, counted from 1; `random` is in 0..1.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(30);
        let step = self.initial.saturating_mul(1 << doublings).min(self.max);
        step.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn delays_stay_within_their_bounds(attempt in 0_u32..u32::MAX, random in -1.0_f64..2.0) {
            let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
            let delay = backoff.delay(attempt, random);
            prop_assert!(delay >= Duration::from_millis(250) && delay <= Duration::from_secs(60));
        }
    }

    #[test]
    fn delays_double_until_the_maximum() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let delays: Vec<_> = (1..=4)
            .map(|attempt| backoff.delay(attempt, 1.0).as_secs())
            .collect();
        assert_eq!(delays, [1, 2, 4, 5]);
    }
}
