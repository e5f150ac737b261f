//! The streams and subjects of a stage, from its row in the table of stages.

use sluice_domain::stages::PULL_SUBJECTS;
use sluice_domain::{Stage, stages};

use super::streams::{DEAD_LETTERS, EVENTS, PULLS, SCHEDULE, WORK};
use crate::streams::subject_patterns::covers;

/// Returns the streams that a stage consumes, each with its subject filters.
#[must_use]
pub fn sources_of(stage: &Stage) -> Vec<(&'static str, &'static [&'static str])> {
    [
        (EVENTS, stage.events),
        (PULLS, stage.pulls),
        (WORK, stage.work),
        (stage.schedules, stage.due),
    ]
    .into_iter()
    .filter(|(_, filters)| !filters.is_empty())
    .collect()
}

/// Returns the subjects of the schedules of a stage, which are named after the commands that they fire.
pub(crate) fn schedule_subjects_of(stage: &Stage) -> Vec<String> {
    let mut subjects = Vec::new();
    for topic in stage.scheduled_topics() {
        let subject = format!("{SCHEDULE}{topic}");
        if !topic.ends_with(".>") {
            subjects.push(format!("{subject}.>"));
        }
        subjects.push(subject);
    }
    subjects
}

/// Returns the stream that stores a subject.
pub(crate) fn stream_of(subject: &str) -> &str {
    if let Some(name) = subject.strip_prefix(SCHEDULE) {
        return stages::of_schedule(name).map_or(subject, |stage| stage.schedules);
    }
    if PULL_SUBJECTS.iter().any(|pulls| covers(pulls, subject)) {
        return PULLS;
    }
    match subject.split('.').nth(1) {
        Some("v1") => EVENTS,
        Some("do") => WORK,
        Some("dead") => DEAD_LETTERS,
        _ => subject,
    }
}

#[cfg(test)]
mod tests {
    use sluice_domain::stages::POLLER;

    use super::*;

    #[test]
    fn a_schedule_is_kept_in_the_stream_of_its_stage() {
        assert_eq!(
            schedule_subjects_of(&POLLER),
            [
                "sluice.schedule.poll.>",
                "sluice.schedule.reconcile.poller.>",
                "sluice.schedule.reconcile.poller",
                "sluice.schedule.retry.poller.>",
                "sluice.schedule.retry.poller"
            ]
        );
    }
}
