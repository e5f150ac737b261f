//! The schedules of polls: one per mirror that is enabled.

use sluice_bus::{Schedule, Timing};
use sluice_events::commands::PollMirror;
use sluice_events::subject::token;
use sluice_state::{Snapshot, Wanted};

/// What the names of the schedules begin with.
pub(crate) const PREFIX: &str = "poll";

/// Returns the schedules that there have to be.
pub(crate) fn wanted(catalog: &Snapshot) -> Vec<Wanted> {
    catalog
        .mirrors
        .values()
        .filter(|mirror| mirror.enabled)
        .map(|mirror| {
            let command = PollMirror {
                mirror: mirror.name.clone(),
                urgent: false,
            };
            let schedule = Schedule {
                name: format!("{PREFIX}.{}", token(mirror.name.as_str())),
                timing: Timing::Every(mirror.every.duration()),
                command: command.into(),
            };
            Wanted {
                schedule,
                // It fires after its interval for the first time; whoever applied it waits for the images now.
                at_once: true,
            }
        })
        .collect()
}
