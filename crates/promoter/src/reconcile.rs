//! Finds what policies have not judged yet, from state alone, and asks for it.
//!
//! It is one message a page, at the start, when resources change, and every hour; what is missing is asked for once.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::{Bus, Cause, topology};
use sluice_domain::resources::Recall;
use sluice_domain::{Digest, Repository, Tag, now};
use sluice_events::commands::{JudgeImage, Reconcile};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome, Restored, TagEntry};
use sluice_state::reconcile::{self, Next, PAGE, ReconcilePage, reason};
use sluice_state::{Catalog, Entry, State, is_attachment, is_reconciled, key};
use sluice_telemetry::metrics;
use tokio_util::sync::CancellationToken;

use crate::attached::Bearing;
use crate::decide::{is_ended, is_ended_for, no_longer_passes, stands, targets_of};
use crate::facts::ScannedImage;
use crate::handler::{Error, Promoter};
use crate::missing_tags::{ASK_AGAIN, MissingTagCheck};
use crate::policies::{self, Policies, Policy, Validity};
use crate::targets::{self, NAME};

/// The changes of one file come together.
const SETTLE: Duration = Duration::from_millis(200);
/// After a failure.
const SOON: Duration = Duration::from_secs(5);
/// How late a timer may be before the image is looked at without it.
const LATE: TimeDelta = TimeDelta::seconds(60);
/// How often a search compares the targets of which some could not be compared; the next one does it again.
const PASSES: u64 = 100;
/// How many decisions a page looks at, each of which may cost a question to the registry.
const DECISIONS: usize = 200;

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
            match reconcile::request(&bus, &topology::PROMOTER, reason::CHANGED, &revision).await {
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
    /// Looks at the tags, then at the decisions, then compares the targets with both, a page or part at a time.
    pub(crate) async fn missing(
        &self,
        command: &Reconcile,
        cause: &Cause,
    ) -> Result<ReconcilePage, Error> {
        match command.scan {
            0 => self.unjudged(command).await,
            1 => self.decided(command, cause).await,
            // What could not be compared is compared again, until everything was.
            scan if scan % 2 == 0 => self.compared(command, cause).await,
            _ => self.settled(command, cause).await,
        }
    }

    /// Finds the judgements that are missing.
    async fn unjudged(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        let policies = policies::read(&self.state).await?;
        let page = self.state.tags.page("*.*", command.after, PAGE).await?;
        let mut found = ReconcilePage {
            checked: page.entries.len(),
            next: Next::after(page.next, Next::Scan),
            ..ReconcilePage::default()
        };
        for entry in page.entries {
            for policy in policies.iter() {
                if let Some(missing) = missing(&self.state, policy, &entry.value).await? {
                    missing.ask(&mut found);
                    // One judgement is by all policies.
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Finds what stands in a target and was not judged by the policies as they are now, whatever became of its source;
    /// allowed images that are missing where they were promoted to; and counts the flagged ones.
    async fn decided(&self, command: &Reconcile, cause: &Cause) -> Result<ReconcilePage, Error> {
        let policies = policies::read(&self.state).await?;
        let page = self
            .state
            .decisions
            .page("*.*.*.*", command.after, DECISIONS)
            .await?;
        let mut found = ReconcilePage {
            checked: page.entries.len(),
            counted: command.counted,
            next: Next::after(page.next, Next::Scan),
            ..ReconcilePage::default()
        };
        let mut look = MissingTagCheck::of(self, cause);
        let mut bearing = Bearing::default();
        let recorded = self.state.promotion_targets().await?;
        for entry in page.entries {
            let decision = &entry.value;
            found.counted += flagged(decision);
            for target in targets_of(decision).filter_map(|target| target.parse().ok()) {
                if !recorded.contains(&target) {
                    self.state.record_target(&target).await?;
                }
            }
            if let Some(missing) = unsettled(&policies, &entry, command, now()) {
                missing.ask(&mut found);
            } else if let Some(command) = look.vanished(&entry).await? {
                found.commands.push(command.into());
            } else if (self.rests_on_older_verdicts(decision).await?
                || bearing.has(self, &decision.repository).await? && self.lacks(decision).await?)
                && let Some(command) = judgement(decision)
            {
                found.commands.push(command.into());
            }
        }
        if found.next == Next::Scan {
            let flagged = u32::try_from(found.counted).unwrap_or(u32::MAX);
            metrics::BREACHES.set(f64::from(flagged), &["flagged"]);
            found.counted = 0;
        }
        Ok(found)
    }

    /// Compares a part of the targets with the entries and decisions; tells, and by setting reverts, what nobody allowed.
    async fn compared(&self, command: &Reconcile, cause: &Cause) -> Result<ReconcilePage, Error> {
        let is_first_part = command.after_name.is_empty();
        let until = cause.time + ASK_AGAIN;
        if command.scan > 2 && is_first_part && now() < until {
            return Err(Error::Uncompared { until });
        }
        let part = targets::compare(self, &self.catalog.current(), command, cause).await?;
        let restored = time_of(part.restored.as_ref());
        let incomplete = if is_first_part { 0 } else { command.counted } + part.incomplete;
        let is_done = part.next == Next::Scan && restored.is_empty() && incomplete == 0;
        Ok(ReconcilePage {
            checked: part.tags,
            counted: incomplete,
            restored: if is_first_part {
                restored
            } else {
                command.restored.clone()
            },
            next: if is_done { Next::End } else { part.next },
            ..ReconcilePage::default()
        })
    }

    /// Holds up what left its target before a restore, and ends the pause once all targets were compared since that.
    async fn settled(&self, command: &Reconcile, cause: &Cause) -> Result<ReconcilePage, Error> {
        let (_, restored) = self.state.pause_and_restore().await?;
        let restored = restored.filter(|restored| !is_reconciled(restored, NAME));
        let mut found = ReconcilePage {
            counted: command.counted,
            restored: command.restored.clone(),
            next: Next::Scan,
            ..ReconcilePage::default()
        };
        if let Some(since) = time_from_wire(restored.as_ref().and_then(|one| one.at.as_ref())) {
            let decisions = &self.state.decisions;
            let page = decisions.page("*.*.*.*", command.after, DECISIONS).await?;
            found.checked = page.entries.len();
            found.counted += self.hold_missing(since, &page.entries, cause).await?;
            found.next = Next::after(page.next, Next::Scan);
        }
        // It may have been restored while the targets were compared, even to a moment at which this search was under way.
        let is_complete = found.counted == 0 && time_of(restored.as_ref()) == command.restored;
        if found.next == Next::Scan && is_complete {
            if let Some(restored) = &restored {
                self.state.record_reconciled(NAME, restored).await?;
                tracing::info!("every target was compared since the restore");
            }
            found.next = Next::End;
        }
        if found.next == Next::Scan && restored.is_none() && command.scan > 2 * PASSES {
            tracing::warn!(
                "not every target can be compared with the decisions; the next search compares them again"
            );
            found.next = Next::End;
        }
        Ok(found)
    }
}

/// Writes the time of a restore, by which it is told from others; nothing without one.
fn time_of(restored: Option<&Restored>) -> String {
    let at = time_from_wire(restored.and_then(|restored| restored.at.as_ref()));
    at.map_or_else(String::new, |at| at.to_rfc3339())
}

/// A judgement that is missing.
struct Missing {
    command: JudgeImage,
    /// What tells it from a judgement by other policies that may be under way; nothing where any judgement will do.
    id: Option<String>,
}

impl Missing {
    fn ask(self, found: &mut ReconcilePage) {
        match self.id {
            Some(id) => found.commands_with_id.push((self.command.into(), id)),
            None => found.commands.push(self.command.into()),
        }
    }
}

/// Returns the judgement of a tag by a policy, if it is missing and can be made.
async fn missing(
    state: &State,
    policy: &Policy,
    entry: &TagEntry,
) -> Result<Option<Missing>, Error> {
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
    let decision = state.decisions.get(&key).await?;
    // A judgement that is under way may be one by the policies as they were.
    let of_revision = |at: u64| Some(format!("judge/policy/{key}/{}/{at}", policy.revision));
    let id = match &decision {
        Some(decision) if decision.value.policy_revision < policy.revision => {
            of_revision(decision.revision)
        }
        Some(decision) if is_open(&decision.value, now()) => None,
        Some(_) => return Ok(None),
        // What no scanner has looked at yet is judged when one has.
        None => match state.images.get(&key::image(&digest)).await? {
            Some(image)
                if ScannedImage::read(state, &digest, &image.value)
                    .await?
                    .is_scanned() =>
            {
                of_revision(0)
            }
            _ => return Ok(None),
        },
    };
    let command = JudgeImage {
        repository,
        tag,
        digest,
    };
    Ok(Some(Missing { command, id }))
}

/// Returns the judgement of what stands in a target, if it was not judged by the policies as they are now, or if what
/// follows from that was not done.
fn unsettled(
    policies: &Policies,
    entry: &Entry<Decision>,
    search: &Reconcile,
    now: DateTime<Utc>,
) -> Option<Missing> {
    let decision = &entry.value;
    let command = judgement(decision)?;
    let of_policy = |policy: &str| {
        let id = format!("judge/standing/{}/{policy}/{}", entry.key, entry.revision);
        Some(Missing {
            command: command.clone(),
            id: Some(id),
        })
    };
    if !stands(decision) && (decision.announced || !is_ended(decision)) {
        return None;
    }
    match policies.validity(decision) {
        Validity::Unreadable => return None,
        Validity::Outdated(revision) => return of_policy(&revision.to_string()),
        Validity::Ended { reason, .. } if !is_ended_for(decision, &reason) => {
            return of_policy(&reason);
        }
        Validity::Current | Validity::Ended { .. } => {}
    }
    let recall = policies.recall(decision);
    let is_owed = recall != Recall::Ignore
        && (decision.promoted_at.is_some()
            && decision.flagged.is_empty()
            && no_longer_passes(decision)
            || decision
                .former_targets
                .iter()
                .any(|former| former.flagged.is_empty()));
    let waited = is_overdue(decision, now);
    // With the time a condition may come to another result, and what could not be told may be known.
    let is_timed = search.reason != reason::CHANGED
        && (decision.outcome() == DecisionOutcome::Undetermined
            || policies.depends_on_time(&decision.policy));
    let is_flagged_by_nobody =
        policies.validity(decision) != Validity::Current && search.reason != reason::CHANGED;
    let is_untold = !decision.announced && decision.outcome() == DecisionOutcome::Deny;
    let is_open = is_untold || is_owed || waited || is_timed || is_flagged_by_nobody;
    is_open.then_some(Missing { command, id: None })
}

fn judgement(decision: &Decision) -> Option<JudgeImage> {
    Some(JudgeImage {
        repository: decision.repository.parse().ok()?,
        tag: decision.tag.parse().ok()?,
        digest: decision.digest.parse().ok()?,
    })
}

/// Returns at how many places an image stands flagged.
fn flagged(decision: &Decision) -> u64 {
    let main = decision.promoted_at.is_some() && !decision.flagged.is_empty();
    let former = decision.former_targets.iter();
    let former = former.filter(|former| !former.flagged.is_empty()).count();
    u64::from(main) + u64::try_from(former).unwrap_or(u64::MAX)
}

/// Says whether a decision has to be looked at again.
fn is_open(decision: &Decision, now: DateTime<Utc>) -> bool {
    // What could not be told may be known by now, as when a digest was first seen.
    let unknown = decision.outcome() == DecisionOutcome::Undetermined;
    !decision.announced || unknown || is_overdue(decision, now)
}

/// Says whether the time until which a decision holds is over, and its timer was lost.
fn is_overdue(decision: &Decision, now: DateTime<Utc>) -> bool {
    match time_from_wire(decision.wait_until.as_ref()) {
        Some(until) => until + LATE < now,
        None => decision.outcome() == DecisionOutcome::Wait,
    }
}

#[cfg(test)]
mod tests {
    use sluice_events::time_to_wire;

    use super::*;

    #[test]
    fn a_decision_is_looked_at_again_when_it_was_not_finished() {
        let now = Utc::now();
        let decided = Decision {
            outcome: DecisionOutcome::Deny.into(),
            announced: true,
            ..Default::default()
        };
        assert!(!is_open(&decided, now));
        let untold = Decision {
            announced: false,
            ..decided.clone()
        };
        assert!(is_open(&untold, now));
        for (since, expected) in [(-10, false), (10, false), (120, true)] {
            let waits = Decision {
                outcome: DecisionOutcome::Wait.into(),
                wait_until: Some(time_to_wire(now - TimeDelta::seconds(since))),
                ..decided.clone()
            };
            assert_eq!(is_open(&waits, now), expected, "{since}");
        }
    }
}
