//! Publishes and records pulls in the background, so that no push waits for them.
//!
//! They are the only events that may be lost: if there are more than can be published, or the process is killed.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt as _, stream};
use sluice_bus::{Bus, Cause};
use sluice_events::wire::state::LastPull;
use sluice_events::{time_from_wire, time_to_wire};
use sluice_state::{State, key};
use sluice_telemetry::metrics;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;

use super::decode::DecodedNotification;

/// How many pulls the queue holds.
const MAX_QUEUED: usize = 4_096;
/// How many pulls are published at a time.
const CONCURRENCY: usize = 16;
/// How far the recorded time of a pull may be behind: an image that is pulled all the time is written once in this
/// time.
const RECORD_INTERVAL: TimeDelta = TimeDelta::hours(1);
/// How many recorded pulls are cached; at the limit the cache is cleared.
const MAX_RECORDED: usize = 10_000;

/// The queue of pulls.
#[derive(Debug)]
pub(crate) struct PullQueue {
    queue: Sender<DecodedNotification>,
}

/// The consumer of the queue.
#[derive(Debug)]
pub(crate) struct PullPublisher {
    bus: Bus,
    state: State,
    /// One pull in so many is published; none for 0.
    one_in: u64,
    queue: Receiver<DecodedNotification>,
    /// The recorded pulls of each image, by the key of its entry.
    recorded: RecordedPulls,
}

/// When the pull of each image was recorded.
#[derive(Debug, Default)]
struct RecordedPulls(std::sync::Mutex<HashMap<String, DateTime<Utc>>>);

/// Creates the queue and its consumer; one pull in so many is published, and none for 0.
pub(crate) fn pull_queue(bus: Bus, state: State, one_in: u64) -> (PullQueue, PullPublisher) {
    let (sender, queue) = mpsc::channel(MAX_QUEUED);
    // A counter that appears with its first loss would hide that one from a rate.
    metrics::PULLS_DROPPED.add(0, &["busy"]);
    let publisher = PullPublisher {
        bus,
        state,
        one_in,
        queue,
        recorded: RecordedPulls::default(),
    };
    (PullQueue { queue: sender }, publisher)
}

impl PullQueue {
    /// Queues a pull, or drops it if the queue is full; never waits.
    pub(crate) fn offer(&self, pull: DecodedNotification) {
        if self.queue.try_send(pull).is_err() {
            metrics::PULLS_DROPPED.add(1, &["busy"]);
        }
    }
}

/// Samples by the registry's id, so that a notification that is sent again gets the same answer.
fn is_sampled(id: &str, one_in: u64) -> bool {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish().checked_rem(one_in) == Some(0)
}

impl PullPublisher {
    /// Publishes queued pulls until `stopping` is cancelled, and then the rest of the queue.
    pub(crate) async fn run(self, stopping: CancellationToken) -> anyhow::Result<()> {
        let Self {
            bus,
            state,
            one_in,
            queue,
            recorded,
        } = self;
        let queue = Arc::new(Mutex::new(queue));
        let next = |()| {
            let (queue, stopping) = (queue.clone(), stopping.clone());
            async move {
                let mut queue = queue.lock().await;
                let pull = tokio::select! {
                    pull = queue.recv() => pull,
                    () = stopping.cancelled() => {
                        queue.close();
                        queue.recv().await
                    }
                };
                pull.map(|pull| (pull, ()))
            }
        };
        stream::unfold((), next)
            .for_each_concurrent(CONCURRENCY, async |pull| {
                if let Err(error) = record(&state, &recorded, &pull).await {
                    tracing::warn!(%error, "failed to record a pull for retention");
                }
                if is_sampled(&pull.id, one_in) {
                    publish(&bus, pull).await;
                }
            })
            .await;
        Ok(())
    }
}

impl RecordedPulls {
    /// Says whether a pull has to be recorded, and caches it as recorded.
    fn insert_if_due(&self, key: &str, at: DateTime<Utc>) -> bool {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recorded
            .get(key)
            .is_some_and(|before| at < *before + RECORD_INTERVAL)
        {
            return false;
        }
        if recorded.len() >= MAX_RECORDED {
            recorded.clear();
        }
        recorded.insert(key.to_owned(), at);
        true
    }
}

/// Records the last pull of an image, for retention; other replicas of the gateway do the same.
async fn record(
    state: &State,
    recorded: &RecordedPulls,
    pull: &DecodedNotification,
) -> Result<(), sluice_state::Error> {
    let Some((repository, digest, at)) = pull.pull() else {
        return Ok(());
    };
    let key = key::pull(repository, digest);
    if !recorded.insert_if_due(&key, at) {
        return Ok(());
    }
    let known = state.pulls.get(&key).await?;
    let before = known
        .as_ref()
        .and_then(|entry| time_from_wire(entry.value.at.as_ref()));
    if before.is_some_and(|before| at < before + RECORD_INTERVAL) {
        return Ok(());
    }
    let last = LastPull {
        repository: repository.to_string(),
        digest: digest.to_string(),
        at: Some(time_to_wire(at)),
        ..LastPull::default()
    };
    // After a conflict another replica has recorded a pull of the same time.
    let revision = known.map(|entry| entry.revision);
    state.pulls.try_write(&key, &last, revision).await.map(drop)
}

async fn publish(bus: &Bus, pull: DecodedNotification) {
    let cause = Cause::external(pull.id.clone());
    for event in &pull.events {
        if let Err(error) = bus.publish(event, &cause, &pull.id).await {
            tracing::warn!(%error, "failed to publish a pull, which is dropped");
            metrics::PULLS_DROPPED.add(1, &["not_published"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(id: String) -> DecodedNotification {
        DecodedNotification {
            id,
            digest: None,
            may_be_blob: false,
            events: Vec::new(),
        }
    }

    #[test]
    fn a_flood_of_pulls_fills_a_bounded_queue_and_blocks_nothing() {
        let (queue, mut left) = mpsc::channel(MAX_QUEUED);
        let pulls = PullQueue { queue };
        for number in 0..10 * MAX_QUEUED {
            // Without a consumer it returns all the same.
            pulls.offer(pull(number.to_string()));
        }
        let mut count = 0;
        while left.try_recv().is_ok() {
            count += 1;
        }
        assert_eq!(count, MAX_QUEUED);
    }

    #[test]
    fn an_image_that_is_pulled_all_the_time_is_recorded_once_an_hour() {
        let (recorded, at) = (RecordedPulls::default(), Utc::now());
        let needs =
            |key: &str, minutes| recorded.insert_if_due(key, at + TimeDelta::minutes(minutes));
        let answers = [
            needs("a", 0),
            needs("a", 59),
            needs("b", 59),
            needs("a", 60),
            needs("a", 61),
        ];
        assert_eq!(answers, [true, false, true, true, false]);
        (0..2 * MAX_RECORDED).for_each(|number| {
            assert!(needs(&number.to_string(), 0));
        });
        assert!(recorded.0.lock().unwrap().len() <= MAX_RECORDED);
    }

    #[test]
    fn pulls_are_sampled_by_their_id_or_disabled() {
        let chosen = |one_in: u64| {
            let ids = (0..10_000).map(|number| format!("event-{number}"));
            ids.filter(|id| is_sampled(id, one_in)).count()
        };
        assert_eq!((chosen(0), chosen(1)), (0, 10_000));
        assert!((700..1_300).contains(&chosen(10)), "{}", chosen(10));
        assert_eq!(is_sampled("a", 3), is_sampled("a", 3));
    }
}
