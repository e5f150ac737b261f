//! Throttling after status 429: the whole process pauses its requests to the registry, then the request is sent again.
//!
//! A used-up quota is not waited for here: a request before its end could prolong it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderMap;
use sluice_domain::Backoff;
use tokio::time::Instant;

use crate::http::rate_limit::{RateLimit, retry_after};
use crate::http::retry::random;

/// How often a request is sent before its 429 is an error.
const TRIES: u32 = 5;
/// The waits if the registry names no time.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));
/// The longest wait that a registry may ask for within a request, and of all waits for one request together.
const LONGEST: Duration = Duration::from_secs(30);
const LONGEST_TOTAL: Duration = Duration::from_secs(60);

/// The pause of requests to one registry, shared by all clients of the process.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<Option<Instant>>);

/// The waits of one request.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    tries: u32,
    total: Duration,
}

impl Throttle {
    /// Waits for the end of the pause.
    pub(crate) async fn wait(&self) {
        // Another request may have prolonged the pause meanwhile.
        loop {
            let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return,
            }
        }
    }

    /// Starts a pause after a 429, and returns whether the request may be sent again after [`Throttle::wait`].
    pub(crate) fn pause(&self, headers: &HeaderMap, waits: &mut Waits) -> bool {
        let Some(pause) = waits.next(headers) else {
            return false;
        };
        let until = Instant::now() + pause;
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *free = Some(free.map_or(until, |free| free.max(until)));
        true
    }
}

impl Waits {
    /// Returns how long to wait after one more 429, unless it was the last or the wait is too long.
    fn next(&mut self, headers: &HeaderMap) -> Option<Duration> {
        self.tries += 1;
        let asked = retry_after(headers, sluice_domain::now());
        let is_spent = RateLimit::read(headers).is_some_and(|limit| limit.remaining == 0);
        if self.tries >= TRIES || (is_spent && asked.is_none()) {
            return None;
        }
        let own = BACKOFF.delay(self.tries, random());
        let pause = asked.map_or(own, |asked| asked.max(own));
        self.total += pause;
        (pause <= LONGEST && self.total <= LONGEST_TOTAL).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::RETRY_AFTER;

    use super::*;
    use crate::http::response::collect_headers;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        collect_headers(pairs.map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    #[test]
    fn what_is_asked_for_is_waited_and_a_quota_or_a_long_time_is_not() {
        let spent = [
            ("ratelimit-limit", "9;w=60"),
            ("ratelimit-remaining", "0;w=60"),
        ];
        for (sent, seconds) in [
            (vec![(RETRY_AFTER.as_str(), "2")], Some(2)),
            (vec![(RETRY_AFTER.as_str(), "30")], Some(30)),
            (vec![(RETRY_AFTER.as_str(), "31")], None),
            (vec![], Some(0)),
            (spent.to_vec(), None),
            (
                [&spent[..], &[(RETRY_AFTER.as_str(), "2")]].concat(),
                Some(2),
            ),
        ] {
            let pause = Waits::default().next(&headers(&sent));
            assert_eq!(pause.map(|pause| pause.as_secs()), seconds, "{sent:?}");
        }
    }

    #[test]
    fn waits_end() {
        for (sent, most) in [(vec![], TRIES), (vec![(RETRY_AFTER.as_str(), "25")], 3)] {
            let (sent, mut waits) = (headers(&sent), Waits::default());
            let mut count = 1;
            while waits.next(&sent).is_some() {
                count += 1;
            }
            assert_eq!(count, most);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_request_waits_too() {
        let (throttle, began) = (Throttle::default(), Instant::now());
        throttle.wait().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        let sent = headers(&[(RETRY_AFTER.as_str(), "20")]);
        assert!(throttle.pause(&sent, &mut Waits::default()));
        tokio::join!(throttle.wait(), throttle.wait());
        assert_eq!(began.elapsed().as_secs(), 20);
    }
}
