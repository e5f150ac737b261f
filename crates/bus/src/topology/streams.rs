//! The names of streams, the prefixes of subjects, and how long streams keep messages.
//!
//! `admin/stream_configs.rs` has their configuration, `admin/limits.rs` their sizes.

use std::time::Duration;

/// The stream of every fact except pulls, kept for 30 days.
pub const EVENTS: &str = "EVENTS";
/// The stream of pulls, kept for a day: there are many, and they must not take the room of other facts.
pub const PULLS: &str = "PULLS";
/// The stream of commands and redriven dead letters, kept until they are done.
pub const WORK: &str = "WORK";
/// The stream of messages that failed for good, each with its error.
pub const DEAD_LETTERS: &str = "DEAD_LETTERS";
/// The stream of decisions, resources and scans, kept for ever.
pub const AUDIT: &str = "AUDIT";
/// The object store of reports.
pub const REPORTS: &str = "reports";
/// The stream of the object store of reports.
pub(crate) const REPORTS_STREAM: &str = "OBJ_reports";

/// How long facts are kept.
pub(crate) const EVENTS_AGE: Duration = Duration::from_secs(30 * 86_400);
/// How long pulls are kept.
pub(crate) const PULLS_AGE: Duration = Duration::from_secs(86_400);

/// The prefix of the subject of a schedule, before its name.
pub(crate) const SCHEDULE: &str = "sluice.schedule.";
/// The prefix of the subject of a command, before its topic.
pub(crate) const COMMAND: &str = "sluice.do.";
/// The prefix of the subject of a dead letter, before its stage.
pub(crate) const DEAD_LETTER: &str = "sluice.dead.";
/// The prefix of the subject of a progress message, which no stream stores.
pub(crate) const PROGRESS: &str = "sluice.progress.";
/// The prefix of requests to JetStream.
pub(crate) const API: &str = "$JS.API.";
/// The prefix to which the account of a service maps requests to JetStream, since it has no JetStream of its own.
pub(crate) const IMPORTED_API: &str = "sluice.api.";

#[cfg(test)]
mod tests {
    use sluice_domain::stages::{EVENT_SUBJECTS, PULL_SUBJECTS};

    use crate::streams::subject_patterns::covers;

    #[test]
    fn each_fact_is_kept_in_one_stream_and_pulls_in_their_own() {
        for fact in sluice_events::Event::TYPES.iter().map(|fact| fact.name) {
            let subject = format!("sluice.v1.{fact}.hub.a");
            let of = |all: &[&str]| all.iter().filter(|one| covers(one, &subject)).count();
            let is_pull = fact.ends_with(".pulled");
            let kept = (of(&EVENT_SUBJECTS), of(&PULL_SUBJECTS));
            assert_eq!(kept, if is_pull { (0, 1) } else { (1, 0) }, "{fact}");
        }
    }
}
