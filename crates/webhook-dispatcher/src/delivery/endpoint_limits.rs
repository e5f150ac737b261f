//! Limits the concurrent deliveries to one endpoint, so that a slow or dead one leaves the stage to the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_domain::ResourceName;
use tokio::sync::Notify;
use tokio::time::Instant;

/// From so many requests without an answer in a row on, an endpoint gets one permit and no delivery waits for it.
const FAILING: u32 = 3;
/// How long a delivery waits for a permit after the last one was returned: an endpoint that answers returns them much
/// sooner. A delivery that waits takes up the concurrency of the stage, so other endpoints wait as long for one that
/// hangs.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// The shortest time until a delivery is retried; for an endpoint that is down, as long as it has been down.
const MIN_RETRY: Duration = Duration::from_secs(5);
/// The longest time until a delivery is retried.
const MAX_RETRY: Duration = Duration::from_secs(300);

/// The concurrency limits of all endpoints.
#[derive(Debug)]
pub(crate) struct EndpointLimits {
    limit: usize,
    endpoints: Mutex<BTreeMap<ResourceName, Arc<EndpointLimit>>>,
}

#[derive(Debug)]
struct EndpointLimit {
    load: Mutex<Load>,
    returned: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Load {
    in_use: usize,
    /// When a permit was last returned, or acquired while none was in use.
    changed_at: Instant,
    /// How many requests in a row got no answer.
    unanswered: u32,
    /// When the last answer arrived, or the first request began.
    answered_at: Instant,
}

/// A permit to deliver to an endpoint, returned when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    endpoint: Arc<EndpointLimit>,
}

impl EndpointLimits {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            endpoints: Mutex::default(),
        }
    }

    /// Acquires a permit for an endpoint, or fails with the time after which to retry.
    pub(crate) async fn acquire(&self, endpoint: &ResourceName) -> Result<Permit, Duration> {
        let endpoint = self.endpoint(endpoint);
        if let Some(permit) = endpoint.try_acquire(self.limit) {
            return Ok(permit);
        }
        let load = endpoint.load();
        let max_wait = MAX_WAIT.saturating_sub(load.changed_at.elapsed());
        let wait = async {
            loop {
                endpoint.returned.notified().await;
                if let Some(permit) = endpoint.try_acquire(self.limit) {
                    return permit;
                }
            }
        };
        if load.unanswered < FAILING
            && !max_wait.is_zero()
            && let Ok(permit) = tokio::time::timeout(max_wait, wait).await
        {
            return Ok(permit);
        }
        Err(load.answered_at.elapsed().clamp(MIN_RETRY, MAX_RETRY))
    }

    fn endpoint(&self, endpoint: &ResourceName) -> Arc<EndpointLimit> {
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        endpoints
            .entry(endpoint.clone())
            .or_insert_with(|| Arc::new(EndpointLimit::new(Instant::now())))
            .clone()
    }
}

impl EndpointLimit {
    fn new(now: Instant) -> Self {
        let load = Load {
            in_use: 0,
            changed_at: now,
            unanswered: 0,
            answered_at: now,
        };
        Self {
            load: Mutex::new(load),
            returned: Notify::new(),
        }
    }

    fn try_acquire(self: &Arc<Self>, limit: usize) -> Option<Permit> {
        self.change(|load| {
            let permits = if load.unanswered < FAILING { limit } else { 1 };
            let free = load.in_use < permits;
            if load.in_use == 0 {
                load.changed_at = Instant::now();
            }
            load.in_use += usize::from(free);
            free
        })
        .then(|| Permit {
            endpoint: self.clone(),
        })
    }

    fn load(&self) -> Load {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Load) -> T) -> T {
        change(&mut self.load.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Permit {
    /// Records whether the endpoint answered at all; one that refuses quickly holds no permits.
    pub(crate) fn record_answer(&self, answered: bool) {
        self.endpoint.change(|load| {
            if answered {
                load.unanswered = 0;
                load.answered_at = Instant::now();
            } else {
                load.unanswered = load.unanswered.saturating_add(1);
            }
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.endpoint.change(|load| {
            load.in_use = load.in_use.saturating_sub(1);
            load.changed_at = Instant::now();
        });
        self.endpoint.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ResourceName {
        text.parse().unwrap()
    }

    async fn elapsed<T>(work: impl Future<Output = T>) -> (T, Duration) {
        let began = Instant::now();
        let done = work.await;
        (done, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_has_its_permits_and_no_more() {
        let limits = EndpointLimits::new(2);
        let slow = name("slow");
        let first = limits.acquire(&slow).await.unwrap();
        let _second = limits.acquire(&slow).await.unwrap();
        assert!(limits.acquire(&name("other")).await.is_ok());
        let free = async move {
            tokio::time::sleep(MAX_WAIT / 2).await;
            drop(first);
        };
        let (third, ()) = tokio::join!(limits.acquire(&slow), free);
        let _third = third.unwrap();
        assert_eq!(limits.acquire(&slow).await.unwrap_err(), MIN_RETRY);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_returns_no_permit_is_waited_for_once() {
        let limits = EndpointLimits::new(1);
        let hung = name("hung");
        let permit = limits.acquire(&hung).await.unwrap();
        let (refused, waited) = elapsed(limits.acquire(&hung)).await;
        assert_eq!((refused.unwrap_err(), waited), (MIN_RETRY, MAX_WAIT));
        let (refused, waited) = elapsed(limits.acquire(&hung)).await;
        assert_eq!((refused.unwrap_err(), waited), (MIN_RETRY, Duration::ZERO));
        drop(permit);
        assert!(limits.acquire(&hung).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_is_down_gets_one_permit_and_is_retried_ever_later() {
        let limits = EndpointLimits::new(4);
        let down = name("down");
        for _ in 0..FAILING {
            limits.acquire(&down).await.unwrap().record_answer(false);
        }
        let probe = limits.acquire(&down).await.unwrap();
        for (after, wait) in [(0, 5), (60, 60), (3_600, 300)] {
            tokio::time::advance(Duration::from_secs(after)).await;
            let (refused, waited) = elapsed(limits.acquire(&down)).await;
            assert_eq!(waited, Duration::ZERO);
            assert_eq!(refused.unwrap_err(), Duration::from_secs(wait));
        }
        probe.record_answer(true);
        assert!(limits.acquire(&down).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_refuses_keeps_its_permits() {
        let limits = EndpointLimits::new(2);
        let refusing = name("refusing");
        for _ in 0..100 {
            limits.acquire(&refusing).await.unwrap().record_answer(true);
        }
        let _first = limits.acquire(&refusing).await.unwrap();
        assert!(limits.acquire(&refusing).await.is_ok());
    }
}
