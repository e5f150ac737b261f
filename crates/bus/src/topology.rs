//! Streams, stages with their consumers, and buckets: the one place that names them.

use std::time::Duration;

use sluice_domain::Backoff;

/// Every fact, for 30 days.
pub const EVENTS: &str = "EVENTS";
/// Commands, deliveries and redrives, until they are done.
pub const WORK: &str = "WORK";
/// Schedules and what they fired.
pub const SCHEDULES: &str = "SCHEDULES";
/// What could not be done, with its reason.
pub const DEAD_LETTERS: &str = "DEAD_LETTERS";
/// Decisions, resources and scans, for ever.
pub const AUDIT: &str = "AUDIT";
/// The object store of reports.
pub const REPORTS: &str = "reports";

/// How long facts are kept.
pub(crate) const EVENTS_AGE: Duration = Duration::from_secs(30 * 86_400);

/// A stage: where its work comes from and how long it may take.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    /// Its name, also that of its consumers.
    pub name: &'static str,
    /// The facts that it reacts to.
    pub events: &'static [&'static str],
    /// The commands that it takes.
    pub work: &'static [&'static str],
    /// The schedules that it serves.
    pub due: &'static [&'static str],
    /// After how long without a sign of life work is given to somebody else.
    pub ack_wait: Duration,
    /// How often work is tried before it is a dead letter.
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
    work: &[
        "sluice.do.mirror.>",
        "sluice.do.reconcile.mirror-worker",
        "sluice.do.redrive.mirror-worker",
    ],
    due: &[
        "sluice.due.reconcile.mirror-worker",
        "sluice.due.retry.mirror-worker",
    ],
    ack_wait: ACK_WAIT,
    max_attempts: 8,
    backoff: BACKOFF,
};

/// Scans images.
pub const SCANNER_ADAPTER: Stage = Stage {
    name: "scanner-adapter",
    events: &["sluice.v1.tag.mirrored.>", "sluice.v1.tag.pushed.>"],
    work: &[
        "sluice.do.scan.>",
        "sluice.do.reconcile.scanner-adapter",
        "sluice.do.redrive.scanner-adapter",
    ],
    due: &[
        "sluice.due.reconcile.scanner-adapter",
        "sluice.due.retry.scanner-adapter",
    ],
    ack_wait: ACK_WAIT,
    max_attempts: 6,
    backoff: BACKOFF,
};

/// Judges images and promotes them.
pub const PROMOTER: Stage = Stage {
    name: "promoter",
    events: &[
        "sluice.v1.scan.succeeded.>",
        "sluice.v1.scan.failed.>",
        "sluice.v1.scan.findings_changed.>",
    ],
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
    ack_wait: ACK_WAIT,
    max_attempts: 8,
    backoff: BACKOFF,
};

/// Carries out retention.
pub const PRUNER: Stage = Stage {
    name: "pruner",
    events: &["sluice.v1.tag.mirrored.>", "sluice.v1.tag.pushed.>"],
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
    ack_wait: ACK_WAIT,
    max_attempts: 6,
    backoff: BACKOFF,
};

/// Tells others.
pub const WEBHOOK_DISPATCHER: Stage = Stage {
    name: "webhook-dispatcher",
    events: &[
        "sluice.v1.upstream.>",
        "sluice.v1.tag.>",
        "sluice.v1.manifest.>",
        "sluice.v1.scan.>",
        "sluice.v1.scanner.>",
        "sluice.v1.image.>",
        "sluice.v1.prune.>",
        "sluice.v1.resource.>",
    ],
    work: &[
        "sluice.do.deliver.>",
        "sluice.do.reconcile.webhook-dispatcher",
        "sluice.do.redrive.webhook-dispatcher",
    ],
    due: &[
        "sluice.due.reconcile.webhook-dispatcher",
        "sluice.due.retry.webhook-dispatcher",
    ],
    ack_wait: ACK_WAIT,
    max_attempts: 12,
    backoff: Backoff::new(Duration::from_secs(2), Duration::from_secs(3_600)),
};

/// Compares the registry with what is known of it; all else that the gateway does comes over HTTP.
pub const GATEWAY: Stage = Stage {
    name: "gateway",
    events: &[],
    work: &["sluice.do.reconcile.gateway", "sluice.do.redrive.gateway"],
    due: &["sluice.due.reconcile.gateway", "sluice.due.retry.gateway"],
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
    /// Returns the streams that it consumes, each with its filters.
    #[must_use]
    pub fn sources(&self) -> Vec<(&'static str, &'static [&'static str])> {
        [
            (EVENTS, self.events),
            (WORK, self.work),
            (SCHEDULES, self.due),
        ]
        .into_iter()
        .filter(|(_, filters)| !filters.is_empty())
        .collect()
    }
}

/// A key-value bucket.
#[derive(Debug, Clone, Copy)]
pub struct BucketSpec {
    /// Its name.
    pub name: &'static str,
    /// How many revisions of an entry are kept.
    pub history: i64,
    /// How long an entry lives, if not for ever.
    pub max_age: Option<Duration>,
    /// How long the mark is kept that an entry's time is over; entries may then also have a time to live of their own.
    pub markers: Option<Duration>,
}

const fn bucket(name: &'static str, history: i64) -> BucketSpec {
    BucketSpec {
        name,
        history,
        max_age: None,
        markers: None,
    }
}

/// Every bucket.
pub const BUCKETS: [BucketSpec; 12] = [
    bucket("resources", 5),
    bucket("upstream", 1),
    bucket("tags", 1),
    bucket("images", 1),
    bucket("verdicts", 1),
    bucket("decisions", 1),
    bucket("budgets", 1),
    bucket("endpoints", 1),
    bucket("reconciliations", 1),
    BucketSpec {
        max_age: Some(EVENTS_AGE),
        ..bucket("deliveries", 1)
    },
    BucketSpec {
        max_age: Some(Duration::from_secs(3_600)),
        markers: Some(Duration::from_secs(3_600)),
        ..bucket("tombstones", 1)
    },
    // With more history, a lease whose time is over would uncover the one before it.
    BucketSpec {
        markers: Some(Duration::from_secs(60)),
        ..bucket("leases", 1)
    },
];
