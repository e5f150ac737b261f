//! Reconciliation: the search of a stage for missing work in the state, page by page.
//!
//! Each stage knows what is missing; this module decides when a stage reconciles, how the search continues, and what is
//! recorded. A page is one message, so the log keeps the position: after a crash the search continues where it was.

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::topology::{EVENTS, Stage};
use sluice_bus::{Bus, Cause, ConsumerPosition, Outcome, Schedule, Timing};
use sluice_events::commands::Reconcile;
use sluice_events::wire::state::Reconciliation;
use sluice_events::{Command, Event, EventId, time_to_wire};
use sluice_telemetry::metrics;

use crate::State;
use crate::error::Error;
use crate::key;

/// How many entries a page checks.
pub const PAGE: usize = 500;
/// How long a reconciliation waits for pending events, which are likely to do the missing work.
const MAX_EVENT_WAIT: TimeDelta = TimeDelta::minutes(2);
/// Timing pending events are checked again.
const EVENT_CHECK_INTERVAL: TimeDelta = TimeDelta::seconds(2);

/// Reasons for a reconciliation.
pub mod reason {
    /// The stage starts.
    pub const START: &str = "start";
    /// An hour has passed.
    pub const HOURLY: &str = "hourly";
    /// A person requests it.
    pub const ASKED: &str = "asked";
    /// Resources changed.
    pub const CHANGED: &str = "changed";
    /// The log lost messages that the stage may not have processed.
    pub const LOST: &str = "lost";
    /// The registry was restarted, and lost the notifications that it had not sent.
    pub const RESTARTED: &str = "restarted";
    /// The registry has to be checked too, and not only the state.
    pub const AUDIT: &str = "audit";
    /// A scanner has a newer vulnerability database; the run is named after its version.
    pub const DATABASE: &str = "database";
    /// Entries of deleted objects have to be removed; only the promoter does that.
    pub const CLEANUP: &str = "cleanup";
}

/// Where a reconciliation continues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Next {
    /// In the same scan, after this position.
    After(u64),
    /// In the same scan, after this name.
    AfterName(String),
    /// With the next scan of the stage.
    Scan,
    /// Nowhere: everything is checked.
    #[default]
    End,
}

impl Next {
    /// Continues after a page, or otherwise if it was the last one.
    #[must_use]
    pub fn after(position: Option<u64>, otherwise: Self) -> Self {
        position.map_or(otherwise, Self::After)
    }
}

/// The result of one page of a reconciliation.
#[derive(Debug, Default)]
pub struct ReconcilePage {
    /// How many entries were checked.
    pub checked: usize,
    /// Commands that do the missing work, one for each subject.
    pub commands: Vec<Command>,
    /// Commands that share a subject, each with an id that is unique in the scan.
    pub distinct_commands: Vec<(Command, String)>,
    /// Commands with a message id of their own, which are published once whatever reconciliation finds them.
    pub commands_with_id: Vec<(Command, String)>,
    /// Missing events, each with its occurrence.
    pub events: Vec<(Event, String)>,
    /// A count over all pages, as the stage defines it.
    pub counted: u64,
    /// The time of the restore after which the scan began, for the next page.
    pub restored: String,
    /// Timing the last audit of the registry ended, before this reconciliation.
    pub audited_at: Option<DateTime<Utc>>,
    /// Where the reconciliation continues.
    pub next: Next,
}

impl ReconcilePage {
    /// Returns the messages of a page: the missing work, then the next page, or the record of the reconciliation.
    ///
    /// Message ids follow from the reconciliation and its page, so a page that is processed twice publishes once.
    #[must_use]
    pub fn into_outcome(self, state: &State, command: &Reconcile, cause: &Cause) -> Outcome {
        let run = run_of(command, cause);
        let looked_at = command.looked_at + u64::try_from(self.checked).unwrap_or(0);
        let commands =
            self.commands.len() + self.distinct_commands.len() + self.commands_with_id.len();
        let found = command.found + u64::try_from(commands + self.events.len()).unwrap_or(0);
        let page = format!("{}/{}/{}", command.stage, run, command.scan);
        let mut outcome = Outcome::done();
        for (event, occurrence) in self.events {
            outcome = outcome.fact_at(event, occurrence);
        }
        for (missing, id) in self.distinct_commands {
            let id = format!("ask/{page}/{id}");
            outcome = outcome.command(missing, EventId::random(), id);
        }
        for (missing, id) in self.commands_with_id {
            outcome = outcome.command(missing, EventId::random(), id);
        }
        for missing in self.commands {
            let id = format!("ask/{page}/{}/{}", command.after, missing.topic());
            outcome = outcome.command_unless_pending(missing, id);
        }
        let next = match self.next {
            Next::End => {
                let audited_at = self.audited_at;
                let counts = (looked_at, found);
                return outcome.then(record_end(state.clone(), command, run, counts, audited_at));
            }
            Next::After(after) => (command.scan, after, String::new()),
            Next::AfterName(name) => (command.scan, 0, name),
            Next::Scan => (command.scan + 1, 0, String::new()),
        };
        let (scan, after, after_name) = next;
        let id = format!(
            "reconcile/{}/{run}/{scan}/{after}/{after_name}",
            command.stage
        );
        let next = Reconcile {
            run,
            scan,
            after,
            after_name,
            looked_at,
            found,
            counted: self.counted,
            restored: self.restored,
            ..command.clone()
        };
        outcome.command(next, EventId::random(), id)
    }
}

fn run_of(command: &Reconcile, cause: &Cause) -> String {
    if command.run.is_empty() {
        cause.occurrence.clone()
    } else {
        command.run.clone()
    }
}

/// Logs and records the end of a reconciliation.
fn record_end(
    state: State,
    command: &Reconcile,
    run: String,
    (looked_at, found): (u64, u64),
    audited_at: Option<DateTime<Utc>>,
) -> impl Future<Output = Result<(), Error>> + Send + use<> {
    let (stage, reason) = (command.stage.clone(), command.reason.clone());
    async move {
        if found == 0 {
            tracing::info!(stage, reason, looked_at, "reconcile: in sync");
        } else {
            tracing::info!(
                stage,
                reason,
                looked_at,
                found,
                "reconcile: queued {found} items"
            );
        }
        let labels = [stage.as_str(), reason.as_str()];
        metrics::RECONCILIATIONS.add(1, &labels);
        metrics::RECONCILIATION_FOUND.add(found, &labels);
        let now = sluice_domain::now();
        let audited_at = if reason == reason::AUDIT {
            Some(now)
        } else {
            audited_at
        };
        let entry = Reconciliation {
            run,
            reason,
            looked_at,
            found,
            ended_at: Some(time_to_wire(now)),
            audited_at: audited_at.map(time_to_wire),
            stage: stage.clone(),
            ..Default::default()
        };
        let key = key::reconciliation(&stage);
        state.reconciliations.put(&key, &entry).await.map(drop)
    }
}

/// Fails while the stage has pending events, which are likely to do the missing work; only for the first page.
///
/// # Errors
/// [`Error::PendingEvents`] for at most two minutes.
pub async fn ensure_no_pending_events(
    bus: &Bus,
    stage: &Stage,
    command: &Reconcile,
    cause: &Cause,
) -> Result<(), Error> {
    let now = sluice_domain::now();
    let is_first_page = command.run.is_empty() && command.reason != reason::ASKED;
    if !is_first_page || stage.events.is_empty() || cause.time + MAX_EVENT_WAIT < now {
        return Ok(());
    }
    let positions = bus.consumer_positions(stage).await?;
    let is_behind =
        |position: &ConsumerPosition| position.stream == EVENTS && position.has_backlog();
    if positions.iter().any(is_behind) {
        return Err(Error::PendingEvents {
            stage: stage.name,
            until: now + EVENT_CHECK_INTERVAL,
        });
    }
    Ok(())
}

/// Returns the command with which a stage begins to reconcile.
#[must_use]
pub fn command(stage: &Stage, reason: &str) -> Reconcile {
    Reconcile {
        stage: stage.name.to_owned(),
        reason: reason.to_owned(),
        run: String::new(),
        scan: 0,
        after: 0,
        looked_at: 0,
        found: 0,
        counted: 0,
        after_name: String::new(),
        restored: String::new(),
    }
}

/// Requests a reconciliation of a stage, once for an id.
pub async fn request(bus: &Bus, stage: &Stage, reason: &str, id: &str) -> Result<(), Error> {
    let command = command(stage, reason).into();
    let id = format!("reconcile/{}/{reason}/{id}", stage.name);
    bus.command_once(&command, &Cause::root(), EventId::random(), &id)
        .await?;
    Ok(())
}

/// Returns the schedule of a stage's hourly reconciliation, at a minute of its own.
#[must_use]
pub fn hourly_schedule(stage: &Stage) -> Schedule {
    let minute = stage.name.bytes().fold(7_u32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(byte.into())
    }) % 60;
    Schedule {
        name: format!("reconcile.{}", stage.name),
        timing: Timing::Cron(format!("0 {minute} * * * *")),
        command: command(stage, reason::HOURLY).into(),
    }
}

#[cfg(test)]
mod tests {
    use sluice_bus::topology::STAGES;

    use super::*;

    #[test]
    fn every_stage_reconciles_each_hour_at_a_minute_of_its_own() {
        let mut minutes: Vec<String> = STAGES
            .iter()
            .map(|stage| format!("{:?}", hourly_schedule(stage).timing))
            .collect();
        minutes.sort();
        minutes.dedup();
        assert_eq!(minutes.len(), STAGES.len());
        for stage in STAGES {
            let topic = hourly_schedule(stage).command.topic();
            assert!(stage.due.contains(&format!("sluice.due.{topic}").as_str()));
            assert!(stage.work.contains(&format!("sluice.do.{topic}").as_str()));
        }
    }
}
