//! Finds what policies have not judged yet, from state alone, and asks for it.
//!
//! It runs at the start, when resources change, and every hour; several replicas ask for the same thing once.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::{Bus, Cause};
use sluice_domain::{Digest, Repository, Tag};
use sluice_events::EventId;
use sluice_events::commands::JudgeImage;
use sluice_events::subject::token;
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome, TagEntry};
use sluice_state::{Catalog, State, key};
use tokio_util::sync::CancellationToken;

use crate::facts::Known;
use crate::handler::Error;
use crate::policies::{self, Policy};

/// How often it runs although nothing changed.
const RECONCILE: Duration = Duration::from_secs(3_600);
/// After a failure, and after a change: the changes of one file come together.
const SOON: Duration = Duration::from_secs(5);
const SETTLE: Duration = Duration::from_millis(200);
/// How late a timer may be before the image is looked at without it.
const LATE: TimeDelta = TimeDelta::seconds(60);

/// Runs until it is told to stop.
pub(crate) async fn keep(
    bus: Bus,
    state: State,
    mut catalog: Catalog,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let wait = tokio::select! {
            reconciled = reconcile(&bus, &state) => match reconciled {
                Ok(0) => RECONCILE,
                Ok(asked) => {
                    tracing::info!(asked, "images are to be judged");
                    RECONCILE
                }
                Err(error) => {
                    tracing::warn!(%error, "what is to be judged could not be found out; trying again");
                    SOON
                }
            },
            () = stopping.cancelled() => return Ok(()),
        };
        tokio::select! {
            alive = catalog.changed() => {
                anyhow::ensure!(alive || stopping.is_cancelled(), "the catalogue ended");
                tokio::time::sleep(SETTLE).await;
            }
            () = tokio::time::sleep(wait) => {}
            () = stopping.cancelled() => {}
        }
        if stopping.is_cancelled() {
            return Ok(());
        }
    }
}

/// Asks for every judgement that is missing, and returns how many those are.
///
/// # Errors
/// A failing bus, or an entry that cannot be read.
pub async fn reconcile(bus: &Bus, state: &State) -> Result<usize, Error> {
    let cause = Cause::root();
    let mut asked = 0;
    for policy in policies::read(state).await? {
        let pattern = policy.spec.from.as_str();
        let repositories = match pattern.parse::<Repository>() {
            Ok(repository) => token(repository.as_str()),
            Err(_) => "*".to_owned(),
        };
        for entry in state.tags.list(&format!("{repositories}.*")).await? {
            let Some(command) = missing(state, &policy, &entry.value).await? else {
                continue;
            };
            let id = format!(
                "judge/{}/{}/{}/{}/{}",
                policy.spec.name, policy.revision, command.repository, command.tag, command.digest
            );
            bus.command_once(&command.into(), &cause, EventId::random(), &id)
                .await
                .map_err(sluice_state::Error::from)?;
            asked += 1;
        }
    }
    Ok(asked)
}

/// Returns the judgement of a tag by a policy, if it is missing and can be made.
async fn missing(
    state: &State,
    policy: &Policy,
    entry: &TagEntry,
) -> Result<Option<JudgeImage>, Error> {
    let (Ok(repository), Ok(tag), Ok(digest)) = (
        entry.repository.parse::<Repository>(),
        entry.tag.parse::<Tag>(),
        entry.digest.parse::<Digest>(),
    ) else {
        // A tag that was removed names no digest.
        return Ok(None);
    };
    if !policy.judges(&repository) || policy.brought(entry) {
        return Ok(None);
    }
    let key = key::decision(&policy.spec.name, &repository, &tag, &digest);
    let wanted = match state.decisions.get(&key).await? {
        Some(decision) => is_open(&decision.value, policy.revision, sluice_domain::now()),
        // What no scanner has looked at yet is judged when one has.
        None => match state.images.get(&key::image(&digest)).await? {
            Some(image) => Known::read(state, &digest, &image.value)
                .await?
                .is_scanned(),
            None => false,
        },
    };
    Ok(wanted.then_some(JudgeImage {
        repository,
        tag,
        digest,
    }))
}

/// Says whether a decision has to be looked at again.
fn is_open(decision: &Decision, revision: u64, now: DateTime<Utc>) -> bool {
    let waits = decision.outcome() == DecisionOutcome::Wait;
    let over = time_from_wire(decision.wait_until.as_ref()).is_none_or(|until| until + LATE < now);
    // What could not be told may be known by now, as when a digest was first seen.
    let unknown = decision.outcome() == DecisionOutcome::Undetermined;
    decision.policy_revision < revision || !decision.announced || unknown || (waits && over)
}

#[cfg(test)]
mod tests {
    use sluice_events::time_to_wire;

    use super::*;

    #[test]
    fn a_decision_is_looked_at_again_when_its_policy_changed_or_it_was_not_finished() {
        let now = Utc::now();
        let decided = Decision {
            outcome: DecisionOutcome::Deny.into(),
            policy_revision: 7,
            announced: true,
            ..Default::default()
        };
        assert!(!is_open(&decided, 7, now));
        assert!(is_open(&decided, 8, now));
        let untold = Decision {
            announced: false,
            ..decided.clone()
        };
        assert!(is_open(&untold, 7, now));
        for (since, expected) in [(-10, false), (10, false), (120, true)] {
            let waits = Decision {
                outcome: DecisionOutcome::Wait.into(),
                wait_until: Some(time_to_wire(now - TimeDelta::seconds(since))),
                ..decided.clone()
            };
            assert_eq!(is_open(&waits, 7, now), expected, "{since}");
        }
    }
}
