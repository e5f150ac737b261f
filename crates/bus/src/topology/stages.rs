//! The stages: the subjects that each consumes, its schedules and its limits.

use std::time::Duration;

use sluice_domain::Backoff;

use super::streams::{
    DEAD_LETTERS, DUE, EVENT_SUBJECTS, EVENTS, PULL_SUBJECTS, PULLS, SCHEDULE, WORK,
};
use crate::streams::subject_patterns::covers;

/// A stage: the subjects that it consumes and its limits.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    /// Its name, which is also the name of its consumers.
    pub name: &'static str,
    /// The subjects of its facts in `EVENTS`.
    pub events: &'static [&'static str],
    /// The subjects of its facts in `PULLS`.
    pub pulls: &'static [&'static str],
    /// The subjects of its commands in `WORK`.
    pub work: &'static [&'static str],
    /// The subjects that its schedules fire at.
    pub due: &'static [&'static str],
    /// The stream of its schedules and of the messages that they fire. Who may write a schedule may also make it fire at
    /// any subject of its stream, and may purge that stream, so no two stages share one.
    pub schedules: &'static str,
    /// How long the server waits for an acknowledgement before it delivers a message again.
    pub ack_wait: Duration,
    /// The attempts after which a message becomes a dead letter.
    pub max_attempts: u32,
    /// The delays between attempts.
    pub backoff: Backoff,
}

const ACK_WAIT: Duration = Duration::from_secs(30);
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));

/// Polls mirrors.
pub const POLLER: Stage = Stage {
    name: "poller",
    events: &[],
    pulls: &[],
    work: &[
        "sluice.do.poll.>",
        "sluice.do.reconcile.poller",
        "sluice.do.redrive.poller",
    ],
    due: &[
        "sluice.due.poll.>",
        "sluice.due.reconcile.poller",
        "sluice.due.retry.poller",
    ],
    schedules: "SCHEDULES_poller",
    ack_wait: ACK_WAIT,
    max_attempts: 5,
    backoff: BACKOFF,
};

/// Copies images into staging.
pub const MIRROR_WORKER: Stage = Stage {
    name: "mirror-worker",
    events: &[
        "sluice.v1.upstream.tag_moved.>",
        "sluice.v1.upstream.tag_gone.>",
    ],
    pulls: &[],
    work: &[
        "sluice.do.mirror.>",
        "sluice.do.reconcile.mirror-worker",
        "sluice.do.redrive.mirror-worker",
    ],
    due: &[
        "sluice.due.reconcile.mirror-worker",
        "sluice.due.retry.mirror-worker",
    ],
    schedules: "SCHEDULES_mirror-worker",
    ack_wait: ACK_WAIT,
    max_attempts: 8,
    backoff: BACKOFF,
};

/// Scans images.
pub const SCANNER_ADAPTER: Stage = Stage {
    name: "scanner-adapter",
    events: &["sluice.v1.tag.mirrored.>", "sluice.v1.tag.pushed.>"],
    pulls: &[],
    work: &[
        "sluice.do.scan.>",
        "sluice.do.reconcile.scanner-adapter",
        "sluice.do.redrive.scanner-adapter",
    ],
    due: &[
        "sluice.due.reconcile.scanner-adapter",
        "sluice.due.retry.scanner-adapter",
    ],
    schedules: "SCHEDULES_scanner-adapter",
    ack_wait: ACK_WAIT,
    max_attempts: 6,
    backoff: BACKOFF,
};

/// Evaluates images against policies and promotes them.
pub const PROMOTER: Stage = Stage {
    name: "promoter",
    events: &[
        "sluice.v1.scan.succeeded.>",
        "sluice.v1.scan.failed.>",
        "sluice.v1.scan.findings_changed.>",
        // Attachments follow their image, however late they arrive.
        "sluice.v1.tag.mirrored.>",
    ],
    pulls: &[],
    work: &[
        "sluice.do.judge.>",
        "sluice.do.reconcile.promoter",
        "sluice.do.redrive.promoter",
    ],
    due: &[
        "sluice.due.judge.>",
        "sluice.due.reconcile.promoter",
        "sluice.due.retry.promoter",
    ],
    schedules: "SCHEDULES_promoter",
    ack_wait: ACK_WAIT,
    max_attempts: 8,
    backoff: BACKOFF,
};

/// Applies pruning policies.
pub const PRUNER: Stage = Stage {
    name: "pruner",
    events: &["sluice.v1.tag.mirrored.>"],
    pulls: &[],
    work: &[
        "sluice.do.prune.>",
        "sluice.do.reconcile.pruner",
        "sluice.do.redrive.pruner",
    ],
    due: &[
        "sluice.due.prune.>",
        "sluice.due.reconcile.pruner",
        "sluice.due.retry.pruner",
    ],
    schedules: "SCHEDULES_pruner",
    ack_wait: ACK_WAIT,
    max_attempts: 6,
    backoff: BACKOFF,
};

/// The facts that webhooks may receive: all except those about deliveries.
const WEBHOOK_EVENTS: &[&str] = match EVENT_SUBJECTS.split_last() {
    Some((_, others)) => others,
    None => &[],
};

/// Delivers events to webhooks.
pub const WEBHOOK_DISPATCHER: Stage = Stage {
    name: "webhook-dispatcher",
    // Not its own facts.
    events: WEBHOOK_EVENTS,
    pulls: &PULL_SUBJECTS,
    work: &[
        "sluice.do.deliver.>",
        "sluice.do.reconcile.webhook-dispatcher",
        "sluice.do.redrive.webhook-dispatcher",
    ],
    due: &[
        "sluice.due.reconcile.webhook-dispatcher",
        "sluice.due.retry.webhook-dispatcher",
    ],
    schedules: "SCHEDULES_webhook-dispatcher",
    ack_wait: ACK_WAIT,
    max_attempts: 12,
    backoff: Backoff::new(Duration::from_secs(2), Duration::from_secs(3_600)),
};

/// Records what people push and delete, and compares the records with the registry; the gateway's other work comes over HTTP.
pub const GATEWAY: Stage = Stage {
    name: "gateway",
    events: &["sluice.v1.tag.pushed.>", "sluice.v1.tag.deleted.>"],
    pulls: &[],
    work: &["sluice.do.reconcile.gateway", "sluice.do.redrive.gateway"],
    due: &["sluice.due.reconcile.gateway", "sluice.due.retry.gateway"],
    schedules: "SCHEDULES_gateway",
    ack_wait: ACK_WAIT,
    max_attempts: 6,
    backoff: BACKOFF,
};

/// Every stage.
pub const STAGES: [&Stage; 7] = [
    &POLLER,
    &MIRROR_WORKER,
    &SCANNER_ADAPTER,
    &PROMOTER,
    &PRUNER,
    &WEBHOOK_DISPATCHER,
    &GATEWAY,
];

impl Stage {
    /// Returns the streams that it consumes, each with its subject filters.
    #[must_use]
    pub fn sources(&self) -> Vec<(&'static str, &'static [&'static str])> {
        [
            (EVENTS, self.events),
            (PULLS, self.pulls),
            (WORK, self.work),
            (self.schedules, self.due),
        ]
        .into_iter()
        .filter(|(_, filters)| !filters.is_empty())
        .collect()
    }

    /// Returns the subjects of its schedules, which are named after the commands that they fire.
    #[must_use]
    pub fn schedule_subjects(&self) -> Vec<String> {
        let mut subjects = Vec::new();
        for topic in self.topics() {
            let subject = format!("{SCHEDULE}{topic}");
            if !topic.ends_with(".>") {
                subjects.push(format!("{subject}.>"));
            }
            subjects.push(subject);
        }
        subjects
    }

    /// Returns the stage of a schedule by its name, as in `poll.alpine`, or by a prefix of its name.
    #[must_use]
    pub fn of_schedule(name: &str) -> Option<&'static Self> {
        let belongs = |topic: &str| {
            let rest = name.strip_prefix(topic.trim_end_matches(".>"));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        STAGES.into_iter().find(|stage| stage.topics().any(belongs))
    }

    fn topics(&self) -> impl Iterator<Item = &'static str> {
        self.due
            .iter()
            .filter_map(|subject| subject.strip_prefix(DUE))
    }
}

/// Returns the stream that stores a subject.
pub(crate) fn stream_of(subject: &str) -> &str {
    if let Some(name) = subject.strip_prefix(SCHEDULE) {
        return Stage::of_schedule(name).map_or(subject, |stage| stage.schedules);
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
    use super::*;

    #[test]
    fn each_schedule_belongs_to_the_stage_that_it_wakes() {
        for (name, stage) in [
            ("poll.alpine", "poller"),
            ("poll", "poller"),
            ("judge.clean.hub/alpine.1", "promoter"),
            ("prune.nightly", "pruner"),
            ("retry.mirror-worker.EVENTS.7", "mirror-worker"),
            ("retry.webhook-dispatcher", "webhook-dispatcher"),
        ] {
            assert_eq!(Stage::of_schedule(name).unwrap().name, stage, "{name}");
        }
        for name in ["", "retry", "polls.a", "reports.a"] {
            assert!(Stage::of_schedule(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_schedule_is_kept_in_the_stream_of_its_stage() {
        assert_eq!(
            POLLER.schedule_subjects(),
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
