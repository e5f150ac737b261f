//! How many deliveries one endpoint may take up, so that one that is slow or dead leaves places for the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_domain::ResourceName;
use tokio::sync::Notify;
use tokio::time::Instant;

/// From so many requests without an answer in a row on, an endpoint gets one place and nobody waits for it.
const FAILING: u32 = 3;
/// How long a place is waited for after the last was given back: an endpoint that answers gives them back much sooner.
/// Whoever waits takes up a place of the stage, so other endpoints wait as long at most for one that hangs.
const PATIENCE: Duration = Duration::from_millis(500);
/// When a place is looked for again at the earliest; for an endpoint that is down, after as long as it has been.
const SOONEST: Duration = Duration::from_secs(5);
/// When a place is looked for again at the latest.
const LATEST: Duration = Duration::from_secs(300);

/// The lanes of all endpoints.
#[derive(Debug)]
pub(crate) struct Lanes {
    limit: usize,
    all: Mutex<BTreeMap<ResourceName, Arc<Lane>>>,
}

#[derive(Debug)]
struct Lane {
    load: Mutex<Load>,
    freed: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Load {
    busy: usize,
    /// When a place was last given back, or taken while none was.
    moved_at: Instant,
    /// How many requests in a row had no answer.
    unanswered: u32,
    /// When the last answer came, or the first request began.
    answered_at: Instant,
}

/// A permit to deliver to an endpoint, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
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
    pub(crate) async fn enter(&self, endpoint: &ResourceName) -> Result<Permit, Duration> {
        let lane = self.lane(endpoint);
        if let Some(place) = lane.enter(self.limit) {
            return Ok(place);
        }
        let load = lane.load();
        let patience = PATIENCE.saturating_sub(load.moved_at.elapsed());
        let wait = async {
            loop {
                lane.freed.notified().await;
                if let Some(place) = lane.enter(self.limit) {
                    return place;
                }
            }
        };
        if load.unanswered < FAILING
            && !patience.is_zero()
            && let Ok(place) = tokio::time::timeout(patience, wait).await
        {
            return Ok(place);
        }
        Err(load.answered_at.elapsed().clamp(SOONEST, LATEST))
    }

    fn lane(&self, endpoint: &ResourceName) -> Arc<Lane> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(endpoint.clone())
            .or_insert_with(|| Arc::new(Lane::new(Instant::now())))
            .clone()
    }
}

impl Lane {
    fn new(now: Instant) -> Self {
        let load = Load {
            busy: 0,
            moved_at: now,
            unanswered: 0,
            answered_at: now,
        };
        Self {
            load: Mutex::new(load),
            freed: Notify::new(),
        }
    }

    fn enter(self: &Arc<Self>, limit: usize) -> Option<Permit> {
        self.change(|load| {
            let places = if load.unanswered < FAILING { limit } else { 1 };
            let free = load.busy < places;
            if load.busy == 0 {
                load.moved_at = Instant::now();
            }
            load.busy += usize::from(free);
            free
        })
        .then(|| Permit { lane: self.clone() })
    }

    fn load(&self) -> Load {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Load) -> T) -> T {
        change(&mut self.load.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Permit {
    /// Notes whether the endpoint answered at all; one that refuses quickly takes up no places.
    pub(crate) fn note(&self, answered: bool) {
        self.lane.change(|load| {
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
        self.lane.change(|load| {
            load.busy = load.busy.saturating_sub(1);
            load.moved_at = Instant::now();
        });
        self.lane.freed.notify_one();
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
    async fn an_endpoint_has_its_places_and_no_more() {
        let lanes = Lanes::new(2);
        let slow = name("slow");
        let first = lanes.enter(&slow).await.unwrap();
        let _second = lanes.enter(&slow).await.unwrap();
        assert!(lanes.enter(&name("other")).await.is_ok());
        let free = async move {
            tokio::time::sleep(PATIENCE / 2).await;
            drop(first);
        };
        let (third, ()) = tokio::join!(lanes.enter(&slow), free);
        let _third = third.unwrap();
        assert_eq!(lanes.enter(&slow).await.unwrap_err(), SOONEST);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_gives_no_place_back_is_waited_for_once() {
        let lanes = Lanes::new(1);
        let hung = name("hung");
        let place = lanes.enter(&hung).await.unwrap();
        let (refused, waited) = elapsed(lanes.enter(&hung)).await;
        assert_eq!((refused.unwrap_err(), waited), (SOONEST, PATIENCE));
        let (refused, waited) = elapsed(lanes.enter(&hung)).await;
        assert_eq!((refused.unwrap_err(), waited), (SOONEST, Duration::ZERO));
        drop(place);
        assert!(lanes.enter(&hung).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_is_down_is_tried_by_one_and_looked_for_ever_later() {
        let lanes = Lanes::new(4);
        let down = name("down");
        for _ in 0..FAILING {
            lanes.enter(&down).await.unwrap().note(false);
        }
        let probe = lanes.enter(&down).await.unwrap();
        for (after, wait) in [(0, 5), (60, 60), (3_600, 300)] {
            tokio::time::advance(Duration::from_secs(after)).await;
            let (refused, waited) = elapsed(lanes.enter(&down)).await;
            assert_eq!(waited, Duration::ZERO);
            assert_eq!(refused.unwrap_err(), Duration::from_secs(wait));
        }
        probe.note(true);
        assert!(lanes.enter(&down).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_refuses_keeps_its_places() {
        let lanes = Lanes::new(2);
        let refusing = name("refusing");
        for _ in 0..100 {
            lanes.enter(&refusing).await.unwrap().note(true);
        }
        let _first = lanes.enter(&refusing).await.unwrap();
        assert!(lanes.enter(&refusing).await.is_ok());
    }
}
