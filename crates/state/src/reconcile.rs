//! The search for missing work that every stage makes, page by page: when it is made, how it goes on, what is remembered.
//!
//! What is missing each stage knows by itself. A page is one message, so its place is kept by the log: a crash goes on
//! where it was, and no page holds more than so many entries.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::topology::{EVENTS, Stage};
use sluice_bus::{Bus, Cause, ConsumerPosition, LogGap, Outcome, Schedule, Timing};
use sluice_events::commands::Reconcile;
use sluice_events::wire::state::Reconciliation;
use sluice_events::{Command, Event, EventId, time_to_wire};
use sluice_telemetry::metrics;
use tokio_util::sync::CancellationToken;

use crate::State;
use crate::error::Error;
use crate::key;

/// How many entries a page looks at.
pub const PAGE: usize = 500;
/// How often a stage looks whether the log lost anything that it had not seen.
const LOOK: Duration = Duration::from_secs(5);
/// How soon after holes in the log were looked into they are again; pulls whose time is over leave holes all day.
const HOLES: TimeDelta = TimeDelta::minutes(15);
/// Replicas that start within so many seconds of each other ask once.
const TOGETHER_SECONDS: i64 = 10;
/// How long a search waits for the stage's events, which are likely to do what it would ask for.
const PATIENCE: TimeDelta = TimeDelta::minutes(2);
/// How soon it looks again whether they are done.
const AGAIN: TimeDelta = TimeDelta::seconds(2);

/// Reasons for a search.
pub mod reason {
    /// The stage starts.
    pub const START: &str = "start";
    /// An hour is over.
    pub const HOURLY: &str = "hourly";
    /// A person asks.
    pub const ASKED: &str = "asked";
    /// Resources changed.
    pub const CHANGED: &str = "changed";
    /// The log lost messages that the stage may not have seen.
    pub const LOST: &str = "lost";
    /// The registry was started anew, and what it had not told yet is lost.
    pub const RESTARTED: &str = "restarted";
    /// What the registry holds is to be looked at too, and not only what the state says of it.
    pub const AUDIT: &str = "audit";
    /// What is known of what exists no longer is to be forgotten; not a search, and only the promoter does it.
    pub const CLEANUP: &str = "cleanup";
}

/// Where a search goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Next {
    /// In the same scan, after this place.
    After(u64),
    /// In the same scan, after this name.
    AfterName(String),
    /// With the stage's next scan.
    Scan,
    /// Nowhere: everything was looked at.
    #[default]
    End,
}

impl Next {
    /// Goes on after a page, or with what comes when there are no more.
    #[must_use]
    pub fn after(place: Option<u64>, otherwise: Self) -> Self {
        place.map_or(otherwise, Self::After)
    }
}

/// The result of one page of a reconciliation.
#[derive(Debug, Default)]
pub struct ReconcilePage {
    /// How many entries it looked at.
    pub looked_at: usize,
    /// The commands that do the missing work.
    pub commands: Vec<Command>,
    /// Commands that share their subject with others, each with what tells it from those.
    pub once: Vec<(Command, String)>,
    /// Commands that are given once for an id of their own, whatever is under way.
    pub named: Vec<(Command, String)>,
    /// Facts that nobody told, each with its occurrence.
    pub facts: Vec<(Event, String)>,
    /// What the scan counts, as the stage means it.
    pub counted: u64,
    /// The time of the restore that the scan began after, as the next page is to know it.
    pub restored: String,
    /// When a search that also looked at what the registry holds ended last, before this one.
    pub audited_at: Option<DateTime<Utc>>,
    /// Where the search goes on.
    pub next: Next,
}

impl ReconcilePage {
    /// Makes what is published: the commands, then the next page, or what is remembered of the search.
    ///
    /// All of it has ids that follow from the search and its page, so a page that is looked at twice asks once.
    #[must_use]
    pub fn into_outcome(self, state: &State, command: &Reconcile, cause: &Cause) -> Outcome {
        let run = run_of(command, cause);
        let looked_at = command.looked_at + u64::try_from(self.looked_at).unwrap_or(0);
        let found = self.commands.len() + self.once.len() + self.named.len() + self.facts.len();
        let found = command.found + u64::try_from(found).unwrap_or(0);
        let page = format!("{}/{}/{}", command.stage, run, command.scan);
        let mut outcome = Outcome::done();
        for (fact, occurrence) in self.facts {
            outcome = outcome.fact_at(fact, occurrence);
        }
        for (missing, id) in self.once {
            let id = format!("ask/{page}/{id}");
            outcome = outcome.command(missing, EventId::random(), id);
        }
        for (missing, id) in self.named {
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
                return outcome.then(ended(state.clone(), command, run, counts, audited_at));
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

/// Tells and remembers how a search went.
fn ended(
    state: State,
    command: &Reconcile,
    run: String,
    (looked_at, found): (u64, u64),
    audited_at: Option<DateTime<Utc>>,
) -> impl Future<Output = Result<(), Error>> + Send + use<> {
    let (stage, reason) = (command.stage.clone(), command.reason.clone());
    async move {
        if found == 0 {
            tracing::info!(stage, reason, looked_at, "nothing is missing");
        } else {
            tracing::warn!(
                stage,
                reason,
                looked_at,
                found,
                "missing work was found and asked for"
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

/// Waits with the first page of a search while events wait that are likely to do what it would ask for.
///
/// # Errors
/// [`Error::EventsFirst`] while there are such events, for two minutes at most, or a failing bus.
pub async fn after_events(
    bus: &Bus,
    stage: &Stage,
    command: &Reconcile,
    cause: &Cause,
) -> Result<(), Error> {
    let now = sluice_domain::now();
    let begins = command.run.is_empty() && command.reason != reason::ASKED;
    if !begins || stage.events.is_empty() || cause.time + PATIENCE < now {
        return Ok(());
    }
    let looks = bus.consumer_positions(stage).await?;
    let busy = |look: &ConsumerPosition| look.stream == EVENTS && look.has_backlog();
    if looks.iter().any(busy) {
        return Err(Error::EventsFirst {
            stage: stage.name,
            until: now + AGAIN,
        });
    }
    Ok(())
}

/// Makes the command with which a stage begins to search.
#[must_use]
pub fn search(stage: &Stage, reason: &str) -> Reconcile {
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

/// Asks a stage to search, once for this id.
///
/// # Errors
/// A failing bus.
pub async fn ask(bus: &Bus, stage: &Stage, reason: &str, id: &str) -> Result<(), Error> {
    let command = search(stage, reason).into();
    let id = format!("reconcile/{}/{reason}/{id}", stage.name);
    bus.command_once(&command, &Cause::root(), EventId::random(), &id)
        .await?;
    Ok(())
}

/// Sees to it that a stage searches: at its start, every hour, and when the log lost what it had not seen. Meanwhile it
/// tells how the stage stands.
///
/// # Errors
/// None; the signature is that of a task.
pub async fn keep_complete(
    bus: Bus,
    stage: &'static Stage,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    let mut watch = Watch::new(bus, stage);
    loop {
        if let Err(error) = watch.look().await {
            tracing::warn!(%error, "what the log lost cannot be found out; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stopping.cancelled() => return Ok(()),
        }
    }
}

struct Watch {
    bus: Bus,
    stage: &'static Stage,
    before: Vec<ConsumerPosition>,
    started: bool,
    holes_at: Option<DateTime<Utc>>,
}

impl Watch {
    const fn new(bus: Bus, stage: &'static Stage) -> Self {
        Self {
            bus,
            stage,
            before: Vec::new(),
            started: false,
            holes_at: None,
        }
    }

    /// What was seen before is forgotten only once everything that follows from the comparison has been asked for.
    async fn look(&mut self) -> Result<(), Error> {
        let now = self.bus.consumer_positions(self.stage).await?;
        self.tell(&now);
        if self.started {
            for look in &now {
                let before = self
                    .before
                    .iter()
                    .find(|before| before.stream == look.stream);
                if let Some(lost) = before.and_then(|before| look.lost_since(before)) {
                    self.lost(look, lost).await?;
                }
            }
        } else {
            self.start(&now).await?;
            self.started = true;
        }
        self.before = now;
        Ok(())
    }

    async fn start(&self, now: &[ConsumerPosition]) -> Result<(), Error> {
        // A counter that begins with its first loss would hide that one from a rate.
        metrics::LOG_MESSAGES_LOST.add(0, &[self.stage.name]);
        self.bus.put_schedule(&hourly(self.stage)).await?;
        // A stream that lost something since another start is another reason.
        let marks: Vec<String> = now.iter().map(ConsumerPosition::fingerprint).collect();
        let log = self.bus.log_fingerprint().await?;
        let together = sluice_domain::now().timestamp() / TOGETHER_SECONDS;
        let id = format!("{log}/{}/{together}", marks.join("/"));
        ask(&self.bus, self.stage, reason::START, &id).await
    }

    async fn lost(&mut self, look: &ConsumerPosition, lost: LogGap) -> Result<(), Error> {
        let now = sluice_domain::now();
        match lost {
            // What is done leaves a work queue, so only another stream is a sign there.
            LogGap::Beginning(_) | LogGap::Middle if look.stream != EVENTS => return Ok(()),
            LogGap::Middle if self.holes_at.is_some_and(|at| now - at < HOLES) => return Ok(()),
            LogGap::Middle => self.holes_at = Some(now),
            LogGap::Beginning(_) | LogGap::Replaced => {}
        }
        // The number is an upper bound.
        let messages = if let LogGap::Beginning(messages) = lost {
            messages
        } else {
            0
        };
        tracing::warn!(
            stage = self.stage.name,
            stream = look.stream,
            ?lost,
            "messages are gone that this stage may not have seen; it searches for what they would have led to"
        );
        metrics::LOG_MESSAGES_LOST.add(messages, &[self.stage.name]);
        let id = format!("{}/{}", look.stream, look.fingerprint());
        ask(&self.bus, self.stage, reason::LOST, &id).await
    }

    fn tell(&self, looks: &[ConsumerPosition]) {
        // A gauge is exact up to 2^53 messages.
        let exact = |messages: u64| f64::from(u32::try_from(messages).unwrap_or(u32::MAX));
        let waiting = looks.iter().map(|look| look.waiting).sum();
        metrics::MESSAGES_WAITING.set(exact(waiting), &[self.stage.name]);
        for look in looks.iter().filter(|look| look.stream == EVENTS) {
            metrics::LOG_HEADROOM.set(exact(look.headroom()), &[self.stage.name]);
        }
    }
}

/// Returns the schedule of a stage's hourly search, at a minute of its own.
#[must_use]
pub fn hourly(stage: &Stage) -> Schedule {
    let minute = stage.name.bytes().fold(7_u32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(byte.into())
    }) % 60;
    Schedule {
        name: format!("reconcile.{}", stage.name),
        timing: Timing::Cron(format!("0 {minute} * * * *")),
        command: search(stage, reason::HOURLY).into(),
    }
}

#[cfg(test)]
mod tests {
    use sluice_bus::topology::STAGES;

    use super::*;

    #[test]
    fn every_stage_searches_each_hour_at_a_minute_of_its_own() {
        let mut minutes: Vec<String> = STAGES
            .iter()
            .map(|stage| format!("{:?}", hourly(stage).timing))
            .collect();
        minutes.sort();
        minutes.dedup();
        assert_eq!(minutes.len(), STAGES.len());
        for stage in STAGES {
            let topic = hourly(stage).command.topic();
            assert!(stage.due.contains(&format!("sluice.due.{topic}").as_str()));
            assert!(stage.work.contains(&format!("sluice.do.{topic}").as_str()));
        }
    }
}
