//! Pulls are published and recorded in the background, so that no push waits for them, however many there are.
//!
//! They are the one kind of fact that may be lost: where there are more than can be published, and at a sudden end.

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

use crate::notifications::DecodedNotification;

/// How many pulls wait to be published.
const MOST_WAITING: usize = 4_096;
/// How many are published at once.
const AT_ONCE: usize = 16;
/// How far the time of a recorded pull may be behind: one write in this time for an image that is pulled all the time.
const RECORDED_EVERY: TimeDelta = TimeDelta::hours(1);
/// How many images are remembered as recorded.
const MOST_REMEMBERED: usize = 10_000;

/// Where the intake leaves pulls.
#[derive(Debug)]
pub(crate) struct Pulls {
    waiting: Sender<DecodedNotification>,
}

/// What takes them from there.
#[derive(Debug)]
pub(crate) struct PullPublisher {
    bus: Bus,
    state: State,
    /// One pull in so many is told; none for 0.
    one_in: u64,
    waiting: Receiver<DecodedNotification>,
    /// When the last pull of each image was recorded, by the key of its entry.
    recorded: Recorded,
}

/// Until when images need no new record.
#[derive(Debug, Default)]
struct Recorded(std::sync::Mutex<HashMap<String, DateTime<Utc>>>);

/// Makes both ends; of the pulls, one in so many is told, and none for 0.
pub(crate) fn pulls(bus: Bus, state: State, one_in: u64) -> (Pulls, PullPublisher) {
    let (sender, waiting) = mpsc::channel(MOST_WAITING);
    // A counter that begins with its first loss would hide that one from a rate.
    metrics::PULLS_DROPPED.add(0, &["busy"]);
    let publisher = PullPublisher {
        bus,
        state,
        one_in,
        waiting,
        recorded: Recorded::default(),
    };
    (Pulls { waiting: sender }, publisher)
}

impl Pulls {
    /// Leaves a pull to be published, and never waits.
    pub(crate) fn offer(&self, pull: DecodedNotification) {
        if self.waiting.try_send(pull).is_err() {
            metrics::PULLS_DROPPED.add(1, &["busy"]);
        }
    }
}

/// Chooses by the registry's id, so that a notification that comes again is chosen again.
fn is_sampled(id: &str, one_in: u64) -> bool {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish().checked_rem(one_in) == Some(0)
}

impl PullPublisher {
    /// Publishes what was left until it is told to stop, and then the rest.
    ///
    /// # Errors
    /// None; the signature is that of a task.
    pub(crate) async fn run(self, stopping: CancellationToken) -> anyhow::Result<()> {
        let Self {
            bus,
            state,
            one_in,
            waiting,
            recorded,
        } = self;
        let waiting = Arc::new(Mutex::new(waiting));
        let next = |()| {
            let (waiting, stopping) = (waiting.clone(), stopping.clone());
            async move {
                let mut waiting = waiting.lock().await;
                let pull = tokio::select! {
                    pull = waiting.recv() => pull,
                    () = stopping.cancelled() => {
                        waiting.close();
                        waiting.recv().await
                    }
                };
                pull.map(|pull| (pull, ()))
            }
        };
        stream::unfold((), next)
            .for_each_concurrent(AT_ONCE, async |pull| {
                if let Err(error) = record(&state, &recorded, &pull).await {
                    tracing::warn!(%error, "a pull could not be recorded for retention by pulls");
                }
                if is_sampled(&pull.id, one_in) {
                    publish(&bus, pull).await;
                }
            })
            .await;
        Ok(())
    }
}

impl Recorded {
    /// Says whether a pull needs a record; if so, another one does only after a while.
    fn needs(&self, key: &str, at: DateTime<Utc>) -> bool {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recorded
            .get(key)
            .is_some_and(|before| at < *before + RECORDED_EVERY)
        {
            return false;
        }
        if recorded.len() >= MOST_REMEMBERED {
            recorded.clear();
        }
        recorded.insert(key.to_owned(), at);
        true
    }
}

/// Records when an image was pulled, for retention; other replicas of the gateway do the same.
async fn record(
    state: &State,
    recorded: &Recorded,
    pull: &DecodedNotification,
) -> Result<(), sluice_state::Error> {
    let Some((repository, digest, at)) = pull.pull() else {
        return Ok(());
    };
    let key = key::pull(repository, digest);
    if !recorded.needs(&key, at) {
        return Ok(());
    }
    let known = state.pulls.get(&key).await?;
    let before = known
        .as_ref()
        .and_then(|entry| time_from_wire(entry.value.at.as_ref()));
    if before.is_some_and(|before| at < before + RECORDED_EVERY) {
        return Ok(());
    }
    let last = LastPull {
        repository: repository.to_string(),
        digest: digest.to_string(),
        at: Some(time_to_wire(at)),
        ..LastPull::default()
    };
    match state
        .pulls
        .write(&key, &last, known.map(|entry| entry.revision))
        .await
    {
        // Another replica recorded a pull at the same time.
        Err(error) if error.is_conflict() => Ok(()),
        written => written.map(drop),
    }
}

async fn publish(bus: &Bus, pull: DecodedNotification) {
    let cause = Cause::external(pull.id.clone());
    for fact in &pull.facts {
        if let Err(error) = bus.publish(fact, &cause, &pull.id).await {
            tracing::warn!(%error, "a pull could not be published and is not told");
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
            facts: Vec::new(),
        }
    }

    #[test]
    fn a_flood_of_pulls_waits_in_bounded_room_and_holds_up_nobody() {
        let (waiting, mut left) = mpsc::channel(MOST_WAITING);
        let pulls = Pulls { waiting };
        for number in 0..10 * MOST_WAITING {
            // Nobody publishes: it returns all the same.
            pulls.offer(pull(number.to_string()));
        }
        let mut count = 0;
        while left.try_recv().is_ok() {
            count += 1;
        }
        assert_eq!(count, MOST_WAITING);
    }

    #[test]
    fn an_image_that_is_pulled_all_the_time_is_recorded_once_an_hour() {
        let (recorded, at) = (Recorded::default(), Utc::now());
        let needs = |key: &str, minutes| recorded.needs(key, at + TimeDelta::minutes(minutes));
        let answers = [
            needs("a", 0),
            needs("a", 59),
            needs("b", 59),
            needs("a", 60),
            needs("a", 61),
        ];
        assert_eq!(answers, [true, false, true, true, false]);
        (0..2 * MOST_REMEMBERED).for_each(|number| {
            assert!(needs(&number.to_string(), 0));
        });
        assert!(recorded.0.lock().unwrap().len() <= MOST_REMEMBERED);
    }

    #[test]
    fn pulls_are_sampled_by_their_id_or_turned_off() {
        let chosen = |one_in: u64| {
            let ids = (0..10_000).map(|number| format!("event-{number}"));
            ids.filter(|id| is_sampled(id, one_in)).count()
        };
        assert_eq!((chosen(0), chosen(1)), (0, 10_000));
        assert!((700..1_300).contains(&chosen(10)), "{}", chosen(10));
        assert_eq!(is_sampled("a", 3), is_sampled("a", 3));
    }
}
