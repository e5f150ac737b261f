//! The backoff of polls of an upstream that keeps failing.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_events::time_from_wire;
use sluice_events::wire::state::UpstreamPoll;

/// The number of failures in a row before the backoff begins.
const TOLERATED_FAILURES: u32 = 3;
/// The longest time without a poll, unless the interval of the mirror is longer.
const MAX_WAIT: Duration = Duration::from_secs(3_600);

/// Returns until when scheduled polls are skipped, if the last polls failed: twice as long after each further failure.
pub(super) fn paused_until(poll: &UpstreamPoll, every: Duration) -> Option<DateTime<Utc>> {
    let steps = u32::try_from(poll.failures)
        .unwrap_or(u32::MAX)
        .checked_sub(TOLERATED_FAILURES)?;
    let wait = every.saturating_mul(2_u32.saturating_pow(steps.saturating_add(1)));
    let wait = wait.min(MAX_WAIT.max(every));
    // A scheduled poll comes a little early or late; one that is due must not be skipped for that.
    let wait = wait.saturating_sub(every / 2);
    time_from_wire(poll.polled_at.as_ref())?.checked_add_signed(TimeDelta::from_std(wait).ok()?)
}

#[cfg(test)]
mod tests {
    use sluice_events::time_to_wire;

    use super::*;

    #[test]
    fn each_further_failure_doubles_the_wait_up_to_an_hour() {
        let at = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let wait = |failures, seconds| {
            let poll = UpstreamPoll {
                failures,
                polled_at: Some(time_to_wire(at)),
                ..Default::default()
            };
            paused_until(&poll, Duration::from_secs(seconds))
                .map(|until| (until - at).num_seconds())
        };
        let waits: Vec<_> = (0..7).map(|failures| wait(failures, 60)).collect();
        let none = None;
        assert_eq!(
            waits,
            [none, none, none, Some(90), Some(210), Some(450), Some(930)]
        );
        assert_eq!(wait(u64::MAX, 60), Some(3_570));
        assert_eq!(
            wait(50, 86_400),
            Some(43_200),
            "its interval is long enough"
        );
    }
}
