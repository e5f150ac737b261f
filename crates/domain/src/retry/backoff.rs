//! Growing delays between attempts.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Growth beyond this many steps changes nothing: every maximum is reached long before.
const MOST_STEPS: u32 = 64;

/// Exponential delays between two bounds; the jitter is taken off each step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    factor: f64,
    jitter: f64,
}

/// Reports settings that make no sensible backoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a valid backoff: {reason}")]
pub struct InvalidBackoff {
    /// The rule that is broken.
    pub reason: &'static str,
}

impl Backoff {
    /// Makes a backoff that starts at `initial`, doubles up to `max`, and takes off up to half of each step.
    #[must_use]
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            factor: 2.0,
            jitter: 0.5,
        }
    }

    /// Returns the delay after the given attempt, counted from 1; `random` is in 0..1.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let steps = f64::from(attempt.saturating_sub(1).min(MOST_STEPS));
        let grown = self.initial.as_secs_f64() * self.factor.powf(steps);
        let step = grown.min(self.max.as_secs_f64());
        let kept = 1.0 - self.jitter * (1.0 - random.clamp(0.0, 1.0));
        Duration::try_from_secs_f64(step * kept).map_or(self.max, |delay| delay.min(self.max))
    }

    /// Returns the delays after the first attempt, the second, and so on without end.
    pub fn delays(self, mut random: impl FnMut() -> f64) -> impl Iterator<Item = Duration> {
        (1..=u32::MAX).map(move |attempt| self.delay(attempt, random()))
    }
}

/// The form in settings and stored values.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    initial_ms: u64,
    max_ms: u64,
    #[serde(default = "doubling")]
    factor: f64,
    #[serde(default = "half")]
    jitter: f64,
}

impl TryFrom<Raw> for Backoff {
    type Error = InvalidBackoff;

    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        let reason = if raw.initial_ms == 0 {
            "`initial_ms` must be at least 1"
        } else if raw.max_ms < raw.initial_ms {
            "`max_ms` must not be below `initial_ms`"
        } else if raw.max_ms > 30 * 86_400_000 {
            "`max_ms` must be at most 30 days"
        } else if !(1.0..=10.0).contains(&raw.factor) {
            "`factor` must be from 1 to 10"
        } else if !(0.0..=1.0).contains(&raw.jitter) {
            "`jitter` must be from 0 to 1"
        } else {
            return Ok(Self {
                initial: Duration::from_millis(raw.initial_ms),
                max: Duration::from_millis(raw.max_ms),
                factor: raw.factor,
                jitter: raw.jitter,
            });
        };
        Err(InvalidBackoff { reason })
    }
}

impl From<Backoff> for Raw {
    fn from(backoff: Backoff) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            initial_ms: millis(backoff.initial),
            max_ms: millis(backoff.max),
            factor: backoff.factor,
            jitter: backoff.jitter,
        }
    }
}

const fn doubling() -> f64 {
    2.0
}

const fn half() -> f64 {
    0.5
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(json: &str) -> Result<Backoff, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn delays_double_until_the_maximum() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let delays: Vec<_> = backoff
            .delays(|| 1.0)
            .take(4)
            .map(|delay| delay.as_secs())
            .collect();
        assert_eq!(delays, [1, 2, 4, 5]);
    }

    #[test]
    fn a_random_number_that_is_none_does_not_panic() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        assert_eq!(backoff.delay(1, f64::NAN), Duration::from_secs(5));
        let zero = Backoff::new(Duration::ZERO, Duration::from_secs(5));
        assert_eq!(zero.delay(u32::MAX, 0.5), Duration::ZERO);
    }

    #[test]
    fn settings_have_defaults_and_are_checked() {
        let backoff = read(r#"{"initial_ms":500,"max_ms":60000}"#).unwrap();
        assert_eq!(
            backoff,
            Backoff::new(Duration::from_millis(500), Duration::from_secs(60))
        );
        for (bad, told) in [
            (r#"{"initial_ms":0,"max_ms":1}"#, "initial_ms"),
            (r#"{"initial_ms":2,"max_ms":1}"#, "max_ms"),
            (r#"{"initial_ms":1,"max_ms":9999999999}"#, "30 days"),
            (r#"{"initial_ms":1,"max_ms":1,"factor":0.5}"#, "factor"),
            (r#"{"initial_ms":1,"max_ms":1,"jitter":1.5}"#, "jitter"),
            (
                r#"{"initial_ms":1,"max_ms":1,"jiter":1}"#,
                "unknown field `jiter`",
            ),
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    proptest! {
        #[test]
        fn delays_stay_within_their_bounds(
            initial_ms in 1_u64..100_000,
            more_ms in 0_u64..100_000_000,
            factor in 1.0_f64..=10.0,
            jitter in 0.0_f64..=1.0,
            attempt in 0_u32..=u32::MAX,
            random in -1.0_f64..2.0,
        ) {
            let max_ms = initial_ms + more_ms;
            let backoff = Backoff::try_from(Raw { initial_ms, max_ms, factor, jitter }).unwrap();
            let delay = backoff.delay(attempt, random);
            let least = Duration::from_millis(initial_ms).mul_f64(1.0 - jitter);
            prop_assert!(delay + Duration::from_micros(1) >= least, "{delay:?}");
            prop_assert!(delay <= Duration::from_millis(max_ms), "{delay:?}");
        }

        #[test]
        fn without_jitter_delays_never_shrink(attempt in 1_u32..200, factor in 1.0_f64..=10.0) {
            let backoff = Backoff::try_from(Raw { initial_ms: 10, max_ms: 60_000, factor, jitter: 0.0 }).unwrap();
            prop_assert!(backoff.delay(attempt + 1, 0.3) >= backoff.delay(attempt, 0.9));
        }

        #[test]
        fn the_stored_form_reads_back(initial_ms in 1_u64..1_000, more_ms in 0_u64..100_000) {
            let backoff = Backoff::new(Duration::from_millis(initial_ms), Duration::from_millis(initial_ms + more_ms));
            let json = serde_json::to_string(&backoff).unwrap();
            prop_assert_eq!(read(&json).unwrap(), backoff);
        }
    }
}
