//! The pause of promotion and deletion: by a person, or after a restore until every target is reconciled.
//!
//! After a restore the state may be older than the registry; until every target was compared with the decisions,
//! nothing is promoted into a target or removed from a repository.

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::Bus;
use sluice_events::wire::state::{Control, Pause, Reconciled, Restored};
use sluice_events::{time_from_wire, time_to_wire};

use crate::State;
use crate::entries::Entries;
use crate::error::Error;

/// The key of the one entry in the bucket `control`.
const CONTROL: &str = "control";
/// The shortest and the longest time after which work that waits for the end of a pause is retried.
const MIN_RETRY: TimeDelta = TimeDelta::seconds(3);
const MAX_RETRY: TimeDelta = TimeDelta::minutes(5);

/// A pause of promotion and deletion that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivePause {
    /// When the pause began.
    pub since: DateTime<Utc>,
    /// The reason, for people.
    pub reason: String,
}

impl ActivePause {
    /// Returns the error of work that waits; it is retried the less often the longer the pause lasts.
    fn into_error(self, now: DateTime<Utc>) -> Error {
        let wait = ((now - self.since) / 4).clamp(MIN_RETRY, MAX_RETRY);
        Error::Paused {
            reason: self.reason,
            until: now + wait,
        }
    }
}

impl State {
    /// Fails with [`Error::Paused`] while promotion and deletion are paused.
    pub async fn ensure_not_paused(&self) -> Result<(), Error> {
        match self.pause_and_restore().await? {
            (Some(pause), _) => Err(pause.into_error(sluice_domain::now())),
            (None, _) => Ok(()),
        }
    }

    /// Returns the active pause of promotion and deletion, and the last restore.
    pub async fn pause_and_restore(
        &self,
    ) -> Result<(Option<ActivePause>, Option<Restored>), Error> {
        let (control, _) = self.control.get_or_default(CONTROL).await?;
        Ok((active_pause(&control), control.restored))
    }

    /// Pauses promotion and deletion until a person resumes them.
    pub async fn pause(&self, by: &str, reason: &str) -> Result<(), Error> {
        self.control
            .modify(CONTROL, |control, _| {
                control.pause = Some(Pause {
                    since: Some(time_to_wire(sluice_domain::now())),
                    by: by.to_owned(),
                    reason: reason.to_owned(),
                });
            })
            .await
    }

    /// Ends a person's pause, and that of a restore before its reconciliation if `unreconciled` is set.
    pub async fn resume(&self, unreconciled: bool) -> Result<(), Error> {
        self.control
            .modify(CONTROL, |control, _| {
                control.pause = None;
                if let Some(restored) = control.restored.as_mut().filter(|_| unreconciled) {
                    let now = Some(time_to_wire(sluice_domain::now()));
                    restored.ended_at = restored.ended_at.or(now);
                }
            })
            .await
    }

    /// Records that a stage has reconciled everything since a restore, which ends the pause of the restore.
    pub async fn record_reconciled(&self, stage: &str, since: &Restored) -> Result<(), Error> {
        self.control
            .modify(CONTROL, |control, _| {
                // A newer restore is not reconciled yet.
                let Some(restored) = control.restored.as_mut().filter(|now| now.at == since.at)
                else {
                    return;
                };
                if is_reconciled(restored, stage) {
                    return;
                }
                let now = Some(time_to_wire(sluice_domain::now()));
                restored.reconciled.push(Reconciled {
                    stage: stage.to_owned(),
                    at: now,
                });
                restored.ended_at = restored.ended_at.or(now);
            })
            .await
    }
}

/// Records that the state was restored, which pauses promotion and deletion; no other bucket has to exist.
pub async fn record_restore(
    bus: &Bus,
    taken_at: DateTime<Utc>,
    taken_by: &str,
) -> Result<(), Error> {
    let control: Entries<Control> = Entries::new(bus.bucket("control").await?);
    control
        .modify(CONTROL, |control, _| {
            control.restored = Some(Restored {
                at: Some(time_to_wire(sluice_domain::now())),
                taken_at: Some(time_to_wire(taken_at)),
                taken_by: taken_by.to_owned(),
                reconciled: Vec::new(),
                ended_at: None,
            });
        })
        .await
}

/// Says whether a stage has reconciled everything since a restore.
#[must_use]
pub fn is_reconciled(restored: &Restored, stage: &str) -> bool {
    restored.reconciled.iter().any(|one| one.stage == stage)
}

fn active_pause(control: &Control) -> Option<ActivePause> {
    let at = |time: Option<&_>| time_from_wire(time).unwrap_or_default();
    let restored = control.restored.as_ref();
    if let Some(restored) = restored.filter(|restored| restored.ended_at.is_none()) {
        return Some(ActivePause {
            since: at(restored.at.as_ref()),
            reason: format!(
                "restored from a backup of {}, and the promoter has not reconciled every target yet",
                at(restored.taken_at.as_ref()).to_rfc3339()
            ),
        });
    }
    let pause = control.pause.as_ref()?;
    Some(ActivePause {
        since: at(pause.since.as_ref()),
        reason: format!("{} (by {})", pause.reason, pause.by),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_pauses_until_it_is_reconciled_and_a_person_until_somebody_resumes() {
        let now = Some(time_to_wire(Utc::now()));
        let mut control = Control::default();
        assert_eq!(active_pause(&control), None);
        control.pause = Some(Pause {
            since: now,
            by: "ann".to_owned(),
            reason: "incident 7".to_owned(),
        });
        assert_eq!(
            active_pause(&control).unwrap().reason,
            "incident 7 (by ann)"
        );
        control.restored = Some(Restored {
            at: now,
            ..Default::default()
        });
        assert!(
            active_pause(&control)
                .unwrap()
                .reason
                .starts_with("restored from")
        );
        control.restored.as_mut().unwrap().ended_at = now;
        assert_eq!(
            active_pause(&control).unwrap().reason,
            "incident 7 (by ann)"
        );
        control.pause = None;
        assert_eq!(active_pause(&control), None);
    }

    #[test]
    fn work_is_retried_the_less_often_the_longer_the_pause_lasts() {
        let now = Utc::now();
        for (age_seconds, wait_seconds) in [(-5, 3), (0, 3), (40, 10), (86_400, 300)] {
            let pause = ActivePause {
                since: now - TimeDelta::seconds(age_seconds),
                reason: String::new(),
            };
            let Error::Paused { until, .. } = pause.into_error(now) else {
                panic!("another error");
            };
            assert_eq!((until - now).num_seconds(), wait_seconds, "{age_seconds}");
        }
    }
}
