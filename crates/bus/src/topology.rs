//! Streams, stages with their consumers, and buckets: the one place that names them.

use std::time::Duration;

use sluice_domain::Backoff;

use crate::streams::subject_patterns::covers;

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

/// How long facts are kept.
pub(crate) const EVENTS_AGE: Duration = Duration::from_secs(30 * 86_400);
/// How long pulls are kept.
pub(crate) const PULLS_AGE: Duration = Duration::from_secs(86_400);

/// The subjects of pulls.
pub(crate) const PULL_SUBJECTS: [&str; 2] =
    ["sluice.v1.tag.pulled.>", "sluice.v1.manifest.pulled.>"];
/// The subjects of all other facts; no two streams may share a subject.
pub(crate) const EVENT_SUBJECTS: [&str; 15] = [
    "sluice.v1.upstream.>",
    "sluice.v1.tag.mirrored.>",
    "sluice.v1.tag.mirror_failed.>",
    "sluice.v1.tag.move_refused.>",
    "sluice.v1.tag.repaired.>",
    "sluice.v1.tag.pushed.>",
    "sluice.v1.tag.deleted.>",
    "sluice.v1.manifest.pushed.>",
    "sluice.v1.manifest.deleted.>",
    "sluice.v1.scan.>",
    "sluice.v1.scanner.>",
    "sluice.v1.image.>",
    "sluice.v1.prune.>",
    "sluice.v1.resource.>",
    "sluice.v1.webhook.>",
];

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

/// The prefix of the subject of a schedule, before its name.
pub(crate) const SCHEDULE: &str = "sluice.schedule.";
/// The prefix of the subject that a schedule fires at, before the topic of its command.
pub(crate) const DUE: &str = "sluice.due.";
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

/// The streams in the order of a backup; consumers are paused from [`FIRST_PAUSED`] to [`LAST_PAUSED`].
///
/// State that suppresses an event is saved before `EVENTS`, so that the log is never older than the state. A state that
/// says that a move was published, restored with a log that does not hold it, would lose the move for ever; the other
/// way round the move is published again with the same id. In the same way an effect is saved before its cause: tags
/// before the decisions that wrote them, decisions before verdicts, verdicts before the reports that they name. `AUDIT`
/// follows the log, so it comes before it too.
pub const BACKUP_ORDER: [&str; 27] = [
    AUDIT,
    FIRST_PAUSED,
    "KV_reconciliations",
    "KV_endpoints",
    "KV_deliveries",
    "KV_pulls",
    "KV_tags",
    "KV_decisions",
    "KV_verdicts",
    "KV_images",
    "KV_upstream",
    "KV_budgets",
    "KV_leases",
    "KV_tombstones",
    "KV_resources",
    WORK,
    POLLER.schedules,
    MIRROR_WORKER.schedules,
    SCANNER_ADAPTER.schedules,
    PROMOTER.schedules,
    PRUNER.schedules,
    WEBHOOK_DISPATCHER.schedules,
    GATEWAY.schedules,
    PULLS,
    EVENTS,
    LAST_PAUSED,
    "OBJ_reports",
];
/// The first stream that is saved while the consumers are paused; also the first that is restored.
pub const FIRST_PAUSED: &str = "KV_control";
/// The last stream that is saved while the consumers are paused. A dead letter is written before its message is
/// acknowledged, so dead letters come last.
pub const LAST_PAUSED: &str = DEAD_LETTERS;

/// A key-value bucket.
#[derive(Debug, Clone, Copy)]
pub struct BucketSpec {
    /// Its name.
    pub name: &'static str,
    /// The revisions of an entry that are kept.
    pub history: i64,
    /// How long an entry is kept, if not for ever.
    pub max_age: Option<Duration>,
    /// How long the marker of an expired entry is kept; entries may then also have a time to live of their own.
    pub markers: Option<Duration>,
}

/// How long the time of the last pull of an image is kept.
const LAST_PULL_AGE: Duration = Duration::from_secs(400 * 86_400);

const fn bucket(name: &'static str, history: i64) -> BucketSpec {
    BucketSpec {
        name,
        history,
        max_age: None,
        markers: None,
    }
}

/// Every bucket.
pub const BUCKETS: [BucketSpec; 14] = [
    bucket("resources", 5),
    bucket("upstream", 1),
    bucket("tags", 1),
    bucket("images", 1),
    bucket("verdicts", 1),
    bucket("decisions", 1),
    bucket("budgets", 1),
    bucket("endpoints", 1),
    BucketSpec {
        max_age: Some(LAST_PULL_AGE),
        ..bucket("pulls", 1)
    },
    bucket("control", 1),
    // A client that waits for one to end has to see it, although others end right after it.
    bucket("reconciliations", 10),
    BucketSpec {
        max_age: Some(EVENTS_AGE),
        ..bucket("deliveries", 1)
    },
    BucketSpec {
        max_age: Some(Duration::from_secs(3_600)),
        markers: Some(Duration::from_secs(3_600)),
        ..bucket("tombstones", 1)
    },
    // With more history, the expiry of a lease would uncover the one before it.
    BucketSpec {
        markers: Some(Duration::from_secs(60)),
        ..bucket("leases", 1)
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_backup_takes_every_stream_once() {
        let mut all = BTreeSet::from([EVENTS, PULLS, WORK, DEAD_LETTERS, AUDIT].map(str::to_owned));
        all.extend(STAGES.map(|stage| stage.schedules.to_owned()));
        all.extend(BUCKETS.iter().map(|bucket| format!("KV_{}", bucket.name)));
        all.insert(format!("OBJ_{REPORTS}"));
        let taken: BTreeSet<String> = BACKUP_ORDER.map(str::to_owned).into();
        assert_eq!((taken, BACKUP_ORDER.len()), (all.clone(), all.len()));
    }

    #[test]
    fn the_log_is_never_older_than_the_state_nor_than_the_work() {
        let place = |name: &str| BACKUP_ORDER.iter().position(|taken| *taken == name);
        for bucket in BUCKETS {
            assert!(
                place(&format!("KV_{}", bucket.name)) < place(EVENTS),
                "{}",
                bucket.name
            );
        }
        for earlier in [AUDIT, WORK]
            .into_iter()
            .chain(STAGES.map(|stage| stage.schedules))
        {
            assert!(place(earlier) < place(EVENTS), "{earlier}");
        }
        assert!(place("KV_tags") < place("KV_decisions"));
        assert!(place("KV_verdicts") < place("OBJ_reports"));
    }

    #[test]
    fn each_fact_is_kept_in_one_stream_and_pulls_in_their_own() {
        for (_, fact) in sluice_events::Event::TYPES {
            let subject = format!("sluice.v1.{fact}.hub.a");
            let of = |all: &[&str]| all.iter().filter(|one| covers(one, &subject)).count();
            let is_pull = fact.ends_with(".pulled");
            let kept = (of(&EVENT_SUBJECTS), of(&PULL_SUBJECTS));
            assert_eq!(kept, if is_pull { (0, 1) } else { (1, 0) }, "{fact}");
        }
    }

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
