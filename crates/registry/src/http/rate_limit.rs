//! The rate limit that a registry reports, and how long it asks to wait.

pub(crate) mod budget;
pub(crate) mod throttle;

use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, Utc};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use sluice_domain::parse_retry_after;

/// The longest wait that a registry may ask for, and the longest window of a quota.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(86_400);
/// How long to wait for a quota if the registry does not say it.
const QUOTA_WAIT: Duration = Duration::from_secs(300);

/// The quota of an account or address, as the registry reported it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Pulls in a window.
    pub limit: u64,
    /// Pulls that are left.
    pub remaining: u64,
    /// The length of the window.
    pub window: Duration,
}

impl RateLimit {
    /// Parses `ratelimit-limit: 100;w=21600` and `ratelimit-remaining`; none if the registry sends no limit.
    #[doc(hidden)]
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let read = |name: &str| {
            let text = headers.get(name)?.to_str().ok()?;
            let (count, window) = text.split_once(";w=").unwrap_or((text, "0"));
            Some((count.trim().parse().ok()?, window.trim().parse().ok()?))
        };
        let (limit, window) = read("ratelimit-limit")?;
        let (remaining, _): (u64, u64) = read("ratelimit-remaining")?;
        Some(Self {
            limit,
            remaining,
            // A window of more than a day is a mistake, and could overflow a time.
            window: Duration::from_secs(window).min(LONGEST_WAIT),
        })
    }
}

/// Parses how long a registry asks to wait, in seconds or until a date; a day at most.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    parse_retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, now, LONGEST_WAIT)
}

/// Returns when to retry after a used-up quota: as the registry asks, or else when its window has freed one pull.
#[must_use]
pub fn quota_until(
    retry_after: Option<Duration>,
    limit: Option<RateLimit>,
    now: DateTime<Utc>,
) -> DateTime<Utc> {
    let share = limit.and_then(|limit| limit.window.checked_div(u32::try_from(limit.limit).ok()?));
    let wait = retry_after.unwrap_or_else(|| share.unwrap_or_default().max(QUOTA_WAIT));
    (now + wait).trunc_subsecs(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_headers_of_docker_hub() {
        let headers = |limit: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("ratelimit-limit", limit.parse().unwrap());
            headers.insert("ratelimit-remaining", "20;w=21600".parse().unwrap());
            headers
        };
        let read = RateLimit::read(&headers("100;w=21600")).unwrap();
        assert_eq!(
            (read.limit, read.remaining, read.window.as_secs()),
            (100, 20, 21_600)
        );
        assert_eq!(RateLimit::read(&headers("many")), None);
        assert_eq!(RateLimit::read(&HeaderMap::new()), None);
    }
}
