//! What holds up promotion and deletion: a person's pause, or a restore that nobody has reconciled yet.
//!
//! After a restore the state may be older than the registry; until every target was compared with the decisions,
//! nothing that the state asks for may be brought into a target, or removed from anywhere.

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::Bus;
use sluice_events::wire::state::{Control, Pause, Reconciled, Restored};
use sluice_events::{time_from_wire, time_to_wire};

use crate::State;
use crate::entries::Entries;
use crate::error::Error;

/// The key of the one entry.
const CONTROL: &str = "control";
/// How often a change is tried again that somebody else came before.
const ROUNDS: usize = 10;
/// How soon and how late work that waits for the end of a pause is looked at again.
const SOONEST: TimeDelta = TimeDelta::seconds(3);
const LATEST: TimeDelta = TimeDelta::minutes(5);

/// What holds up promotion and deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why.
    pub reason: String,
}

impl Held {
    /// Work that waits looks again the less often the longer the pause lasts.
    fn refusal(self, now: DateTime<Utc>) -> Error {
        let wait = ((now - self.since) / 4).clamp(SOONEST, LATEST);
        Error::Paused {
            reason: self.reason,
            until: now + wait,
        }
    }
}

impl State {
    /// Refuses, with [`Error::Paused`], while promotion and deletion are paused.
    ///
    /// # Errors
    /// Also a failing bus: whether it is paused is then not known.
    pub async fn unless_paused(&self) -> Result<(), Error> {
        match held(&self.read_control().await?) {
            Some(held) => Err(held.refusal(sluice_domain::now())),
            None => Ok(()),
        }
    }

    /// Returns what holds up promotion and deletion, and the last restore.
    ///
    /// # Errors
    /// A failing bus.
    pub async fn control_now(&self) -> Result<(Option<Held>, Option<Restored>), Error> {
        let control = self.read_control().await?;
        Ok((held(&control), control.restored))
    }

    async fn read_control(&self) -> Result<Control, Error> {
        let entry = self.control.get(CONTROL).await?;
        Ok(entry.map(|entry| entry.value).unwrap_or_default())
    }

    /// Pauses promotion and deletion until somebody resumes them.
    ///
    /// # Errors
    /// A failing bus.
    pub async fn pause(&self, by: &str, reason: &str) -> Result<(), Error> {
        self.change_control(|control| {
            control.pause = Some(Pause {
                since: Some(time_to_wire(sluice_domain::now())),
                by: by.to_owned(),
                reason: reason.to_owned(),
            });
        })
        .await
    }

    /// Ends a person's pause; that of a restore only if asked for, before anybody has reconciled.
    ///
    /// # Errors
    /// A failing bus.
    pub async fn resume(&self, unreconciled: bool) -> Result<(), Error> {
        self.change_control(|control| {
            control.pause = None;
            if let Some(restored) = control.restored.as_mut().filter(|_| unreconciled) {
                let now = Some(time_to_wire(sluice_domain::now()));
                restored.ended_at = restored.ended_at.or(now);
            }
        })
        .await
    }

    /// Notes that a stage has compared everything since a restore, which ends the pause if it is the promoter.
    ///
    /// # Errors
    /// A failing bus.
    pub async fn note_reconciled(&self, stage: &str, since: &Restored) -> Result<(), Error> {
        self.change_control(|control| {
            // Another restore may have come meanwhile, with which nobody has compared yet.
            let Some(restored) = control.restored.as_mut().filter(|now| now.at == since.at) else {
                return;
            };
            if reconciled(restored, stage) {
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

    async fn change_control(&self, change: impl Fn(&mut Control)) -> Result<(), Error> {
        change_in(&self.control, change).await
    }
}

/// Remembers that the state was restored, which pauses promotion and deletion; needs no other bucket to be there.
///
/// # Errors
/// A failing bus.
pub async fn note_restore(bus: &Bus, taken_at: DateTime<Utc>, taken_by: &str) -> Result<(), Error> {
    let control = Entries::new(bus.bucket("control").await?);
    change_in(&control, |control| {
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

async fn change_in(entries: &Entries<Control>, change: impl Fn(&mut Control)) -> Result<(), Error> {
    for _ in 0..ROUNDS {
        let entry = entries.get(CONTROL).await?;
        let revision = entry.as_ref().map(|entry| entry.revision);
        let before = entry.map(|entry| entry.value).unwrap_or_default();
        let mut control = before.clone();
        change(&mut control);
        if control == before {
            return Ok(());
        }
        match entries.write(CONTROL, &control, revision).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::TooManyConflicts {
        tag: CONTROL.to_owned(),
    })
}

/// Says whether a stage has compared everything since a restore.
#[must_use]
pub fn reconciled(restored: &Restored, stage: &str) -> bool {
    restored.reconciled.iter().any(|one| one.stage == stage)
}

fn held(control: &Control) -> Option<Held> {
    let at = |time: Option<&_>| time_from_wire(time).unwrap_or_default();
    let restored = control.restored.as_ref();
    if let Some(restored) = restored.filter(|restored| restored.ended_at.is_none()) {
        return Some(Held {
            since: at(restored.at.as_ref()),
            reason: format!(
                "restored from a backup of {}, and the promoter has not compared every target with the decisions yet",
                at(restored.taken_at.as_ref()).to_rfc3339()
            ),
        });
    }
    let pause = control.pause.as_ref()?;
    Some(Held {
        since: at(pause.since.as_ref()),
        reason: format!("{} (by {})", pause.reason, pause.by),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_holds_until_it_is_reconciled_and_a_person_until_somebody_resumes() {
        let now = Some(time_to_wire(Utc::now()));
        let mut control = Control::default();
        assert_eq!(held(&control), None);
        control.pause = Some(Pause {
            since: now,
            by: "ann".to_owned(),
            reason: "incident 7".to_owned(),
        });
        assert_eq!(held(&control).unwrap().reason, "incident 7 (by ann)");
        control.restored = Some(Restored {
            at: now,
            ..Default::default()
        });
        assert!(held(&control).unwrap().reason.starts_with("restored from"));
        control.restored.as_mut().unwrap().ended_at = now;
        assert_eq!(held(&control).unwrap().reason, "incident 7 (by ann)");
        control.pause = None;
        assert_eq!(held(&control), None);
    }

    #[test]
    fn what_waits_looks_again_the_less_often_the_longer_it_lasts() {
        let now = Utc::now();
        for (age_seconds, wait_seconds) in [(-5, 3), (0, 3), (40, 10), (86_400, 300)] {
            let held = Held {
                since: now - TimeDelta::seconds(age_seconds),
                reason: String::new(),
            };
            let Error::Paused { until, .. } = held.refusal(now) else {
                panic!("another refusal");
            };
            assert_eq!((until - now).num_seconds(), wait_seconds, "{age_seconds}");
        }
    }
}
