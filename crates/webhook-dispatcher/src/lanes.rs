//! How many deliveries one endpoint may take up, so that one that is slow or dead leaves places for the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_domain::ResourceName;
use tokio::sync::Notify;

/// From so many failures in a row on, an endpoint gets one place and nobody waits for it.
const FAILING: u32 = 3;
/// How long a place is waited for; an endpoint that answers gives one back much sooner.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest time after which a place at a failing endpoint is looked for again.
const LONGEST: Duration = Duration::from_secs(300);

/// The lanes of all endpoints.
#[derive(Debug)]
pub(crate) struct Lanes {
    limit: usize,
    all: Mutex<BTreeMap<ResourceName, Arc<Lane>>>,
}

#[derive(Debug, Default)]
struct Lane {
    load: Mutex<Load>,
    freed: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct Load {
    busy: usize,
    failures: u32,
}

/// A place at an endpoint, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    lane: Arc<Lane>,
}

impl Lanes {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            all: Mutex::default(),
        }
    }

    /// Takes a place at an endpoint, or says after how long one may be free.
    pub(crate) async fn enter(&self, endpoint: &ResourceName) -> Result<Place, Duration> {
        let lane = self.lane(endpoint);
        if let Some(place) = lane.enter(self.limit) {
            return Ok(place);
        }
        let wait = async {
            loop {
                lane.freed.notified().await;
                if let Some(place) = lane.enter(self.limit) {
                    return place;
                }
            }
        };
        let failures = lane.load().failures;
        if failures < FAILING
            && let Ok(place) = tokio::time::timeout(PATIENCE, wait).await
        {
            return Ok(place);
        }
        let grown = Duration::from_secs(1) * 2_u32.saturating_pow(failures.min(16));
        Err(grown.clamp(PATIENCE, LONGEST))
    }

    fn lane(&self, endpoint: &ResourceName) -> Arc<Lane> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(endpoint.clone()).or_default().clone()
    }
}

impl Lane {
    fn enter(self: &Arc<Self>, limit: usize) -> Option<Place> {
        self.change(|load| {
            let places = if load.failures < FAILING { limit } else { 1 };
            let free = load.busy < places;
            load.busy += usize::from(free);
            free
        })
        .then(|| Place { lane: self.clone() })
    }

    fn load(&self) -> Load {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Load) -> T) -> T {
        change(&mut self.load.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Place {
    /// Notes how the endpoint answered.
    pub(crate) fn note(&self, taken: bool) {
        self.lane.change(|load| {
            load.failures = if taken {
                0
            } else {
                load.failures.saturating_add(1)
            };
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lane
            .change(|load| load.busy = load.busy.saturating_sub(1));
        self.lane.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_has_its_places_and_no_more() {
        let lanes = Arc::new(Lanes::new(2));
        let (slow, other) = ("slow".parse().unwrap(), "other".parse().unwrap());
        let first = lanes.enter(&slow).await.unwrap();
        let _second = lanes.enter(&slow).await.unwrap();
        assert_eq!(lanes.enter(&slow).await.unwrap_err(), PATIENCE);
        assert!(lanes.enter(&other).await.is_ok());
        let waiting = {
            let (lanes, slow) = (lanes.clone(), slow.clone());
            async move { lanes.enter(&slow).await }
        };
        let free = async move {
            tokio::time::sleep(PATIENCE / 2).await;
            drop(first);
        };
        let (third, ()) = tokio::join!(waiting, free);
        assert!(third.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_endpoint_is_tried_by_one_and_waited_for_by_none() {
        let lanes = Lanes::new(4);
        let dead: ResourceName = "dead".parse().unwrap();
        for _ in 0..FAILING {
            lanes.enter(&dead).await.unwrap().note(false);
        }
        let probe = lanes.enter(&dead).await.unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(
            lanes.enter(&dead).await.unwrap_err(),
            Duration::from_secs(8)
        );
        assert_eq!(began.elapsed(), Duration::ZERO);
        probe.note(true);
        assert!(lanes.enter(&dead).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_dead_endpoint_is_bounded() {
        let lanes = Lanes::new(1);
        let dead: ResourceName = "dead".parse().unwrap();
        let place = lanes.enter(&dead).await.unwrap();
        for _ in 0..100 {
            place.note(false);
        }
        assert_eq!(lanes.enter(&dead).await.unwrap_err(), LONGEST);
    }
}
