//! The schedules of polls: one for each enabled mirror.

use sluice_bus::{Schedule, Timing};
use sluice_events::commands::PollMirror;
use sluice_events::subject;
use sluice_state::{DesiredSchedule, Snapshot};

/// The prefix of the names of the schedules.
pub(crate) const PREFIX: &str = "poll";

/// Returns the schedules of the enabled mirrors.
pub(crate) fn desired_schedules(catalog: &Snapshot) -> Vec<DesiredSchedule> {
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
                name: format!("{PREFIX}.{}", subject::encode(mirror.name.as_str())),
                timing: Timing::Every(mirror.every.duration()),
                command: command.into(),
            };
            DesiredSchedule {
                schedule,
                // A schedule first fires after its interval, and the person who applied the mirror waits for the
                // images.
                at_once: true,
            }
        })
        .collect()
}
