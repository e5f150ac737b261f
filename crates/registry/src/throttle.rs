//! What becomes of 429: the whole process leaves the registry alone for a while, then the request is sent again.
//!
//! A used-up quota is not waited for here: asking before it is there again would only prolong it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderMap;
use sluice_domain::Backoff;
use tokio::time::Instant;

use crate::answers;
use crate::rate::RateLimit;
use crate::retry::random;

/// How often a request is sent before its 429 is an error.
const TRIES: u32 = 5;
/// How long is waited where the registry names no time.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));
/// The longest wait that a registry may ask for within a request, and of all waits for one request together.
const LONGEST: Duration = Duration::from_secs(30);
const LONGEST_TOGETHER: Duration = Duration::from_secs(60);

/// When one registry may be asked again; shared by all clients of the process, so that none prolongs it for the others.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<Option<Instant>>);

/// The waits of one request.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    tries: u32,
    together: Duration,
}

impl Throttle {
    /// Waits until the registry may be asked.
    pub(crate) async fn wait(&self) {
        // Another request may have been refused meanwhile.
        loop {
            let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return,
            }
        }
    }

    /// Takes note of a 429; says whether the request may be sent again after [`Throttle::wait`].
    pub(crate) fn refused(&self, headers: &HeaderMap, waits: &mut Waits) -> bool {
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
    /// Returns how long to wait after one more 429, if it is worth it.
    fn next(&mut self, headers: &HeaderMap) -> Option<Duration> {
        self.tries += 1;
        let asked = answers::retry_after(headers, sluice_domain::now());
        let is_spent = RateLimit::read(headers).is_some_and(|limit| limit.remaining == 0);
        if self.tries >= TRIES || (is_spent && asked.is_none()) {
            return None;
        }
        let own = BACKOFF.delay(self.tries, random());
        let pause = asked.map_or(own, |asked| asked.max(own));
        self.together += pause;
        (pause <= LONGEST && self.together <= LONGEST_TOGETHER).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::RETRY_AFTER;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        answers::headers(pairs.map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    #[test]
    fn what_is_asked_for_is_waited_and_a_quota_or_a_long_time_is_not() {
        let spent = [
            ("ratelimit-limit", "9;w=60"),
            ("ratelimit-remaining", "0;w=60"),
        ];
        for (told, seconds) in [
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
            let pause = Waits::default().next(&headers(&told));
            assert_eq!(pause.map(|pause| pause.as_secs()), seconds, "{told:?}");
        }
    }

    #[test]
    fn waits_end() {
        for (told, most) in [(vec![], TRIES), (vec![(RETRY_AFTER.as_str(), "25")], 3)] {
            let (told, mut waits) = (headers(&told), Waits::default());
            let mut count = 1;
            while waits.next(&told).is_some() {
                count += 1;
            }
            assert_eq!(count, most);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_next_waits_too() {
        let (throttle, began) = (Throttle::default(), Instant::now());
        throttle.wait().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        let told = headers(&[(RETRY_AFTER.as_str(), "20")]);
        assert!(throttle.refused(&told, &mut Waits::default()));
        tokio::join!(throttle.wait(), throttle.wait());
        assert_eq!(began.elapsed().as_secs(), 20);
    }
}
