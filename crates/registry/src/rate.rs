//! What a registry says of the pulls that are left.

use std::time::Duration;

use reqwest::header::HeaderMap;

use crate::answers::LONGEST_WAIT;

/// The quota of an account or address, as the registry told it last.
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
    /// Reads `ratelimit-limit: 100;w=21600` and its sibling; absent where nothing is limited.
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
            // What is longer than a day is not meant so, and would be too long a time to reckon with.
            window: Duration::from_secs(window).min(LONGEST_WAIT),
        })
    }
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
