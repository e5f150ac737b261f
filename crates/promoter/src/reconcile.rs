//! Finds what policies have not judged yet, from state alone, and asks for it.
//!
//! It is one message a page, at the start, when resources change, and every hour; what is missing is asked for once.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::{Bus, Cause, topology};
use sluice_domain::{Digest, Repository, Tag, now};
use sluice_events::commands::{JudgeImage, Reconcile};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome, TagEntry};
use sluice_state::reconcile::{Found, Next, PAGE, ask, reason};
use sluice_state::{Catalog, State, is_attachment, key};
use sluice_telemetry::metrics;
use tokio_util::sync::CancellationToken;

use crate::attached::Bearing;
use crate::facts::Known;
use crate::handler::{Error, Promoter};
use crate::policies::{self, Policy};
use crate::targets;
use crate::vanished::Look;

/// The changes of one file come together.
const SETTLE: Duration = Duration::from_millis(200);
/// After a failure.
const SOON: Duration = Duration::from_secs(5);
/// How late a timer may be before the image is looked at without it.
const LATE: TimeDelta = TimeDelta::seconds(60);
/// How many decisions a page looks at, each of which may cost a question to the registry.
const DECISIONS: usize = 200;
/// How soon a registry that does not answer is asked again.
pub(crate) const ASK_AGAIN: TimeDelta = TimeDelta::seconds(10);

/// Asks for a search whenever resources changed, until it is told to stop; replicas that see one change ask once.
pub(crate) async fn follow(
    bus: Bus,
    mut catalog: Catalog,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            alive = catalog.changed() => {
                anyhow::ensure!(alive || stopping.is_cancelled(), "the catalogue ended");
                tokio::time::sleep(SETTLE).await;
            }
            () = stopping.cancelled() => {}
        }
        while !stopping.is_cancelled() {
            let revision = catalog.current().revision.to_string();
            match ask(&bus, &topology::PROMOTER, reason::CHANGED, &revision).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(%error, "a search for what is to be judged could not be asked for; trying again");
                    tokio::time::sleep(SOON).await;
                }
            }
        }
        if stopping.is_cancelled() {
            return Ok(());
        }
    }
}

impl Promoter {
    /// Looks at a page of the tags, then of the decisions, then compares the targets with both.
    pub(crate) async fn missing(&self, command: &Reconcile, cause: &Cause) -> Result<Found, Error> {
        match command.scan {
            0 => self.unjudged(command).await,
            1 => self.decided(command, cause).await,
            _ => self.compared(cause).await,
        }
    }

    /// Finds the judgements that are missing.
    async fn unjudged(&self, command: &Reconcile) -> Result<Found, Error> {
        let policies = policies::read(&self.state).await?;
        let page = self.state.tags.page("*.*", command.after, PAGE).await?;
        let mut found = Found {
            looked_at: page.entries.len(),
            next: Next::after(page.next, Next::Scan),
            ..Found::default()
        };
        for entry in page.entries {
            for policy in &policies {
                if let Some(command) = missing(&self.state, policy, &entry.value).await? {
                    found.commands.push(command.into());
                    // One judgement is by all policies.
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Finds allowed images that are missing where they were promoted to, and counts the flagged ones that stand there.
    async fn decided(&self, command: &Reconcile, cause: &Cause) -> Result<Found, Error> {
        let page = self
            .state
            .decisions
            .page("*.*.*.*", command.after, DECISIONS)
            .await?;
        let mut found = Found {
            looked_at: page.entries.len(),
            counted: command.counted,
            next: Next::after(page.next, Next::Scan),
            ..Found::default()
        };
        let mut look = Look::of(self, cause);
        let mut bearing = Bearing::default();
        for entry in page.entries {
            let decision = &entry.value;
            if decision.promoted_at.is_some() && !decision.flagged.is_empty() {
                found.counted += 1;
            }
            if let Some(command) = look.vanished(&entry).await? {
                found.commands.push(command.into());
            } else if bearing.has(self, &decision.repository).await?
                && self.lacks(decision).await?
                && let (Ok(repository), Ok(tag), Ok(digest)) = (
                    decision.repository.parse(),
                    decision.tag.parse(),
                    decision.digest.parse(),
                )
            {
                let command = JudgeImage {
                    repository,
                    tag,
                    digest,
                };
                found.commands.push(command.into());
            }
        }
        if found.next == Next::Scan {
            let flagged = u32::try_from(found.counted).unwrap_or(u32::MAX);
            metrics::gauge(
                "sluice_breaches",
                f64::from(flagged),
                &[("kind", "flagged")],
            );
        }
        Ok(found)
    }

    /// Compares every target with the entries and decisions; tells, and by setting reverts, what nobody allowed.
    async fn compared(&self, cause: &Cause) -> Result<Found, Error> {
        if targets::compare(self, &self.catalog.current(), cause).await? {
            return Ok(Found::default());
        }
        Err(Error::Uncompared {
            until: now() + ASK_AGAIN,
        })
    }
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
    if is_attachment(entry) || !policy.judges(&repository) || policy.brought(entry) {
        return Ok(None);
    }
    let key = key::decision(&policy.spec.name, &repository, &tag, &digest);
    let wanted = match state.decisions.get(&key).await? {
        Some(decision) => is_open(&decision.value, policy.revision, now()),
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
