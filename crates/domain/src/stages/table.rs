//! The rows of the table of stages, and the subjects of pulls.

use std::time::Duration;

use super::stage::{RegistryAccess, Rights, Stage};
pub use crate::events::EVENT_SUBJECTS;
use crate::retry::backoff::Backoff;

/// The subjects of pulls.
pub const PULL_SUBJECTS: [&str; 2] = ["sluice.v1.tag.pulled.>", "sluice.v1.manifest.pulled.>"];

/// The events that webhooks may receive: all except those about deliveries.
const EVENTS_FOR_WEBHOOKS: &[&str] = match EVENT_SUBJECTS.split_last() {
    Some((_, others)) => others,
    None => &[],
};

/// A stage of a name that carries out the commands of some topics, and whose schedules fire those of others. Every stage also
/// reconciles, retries, and takes redriven dead letters.
macro_rules! stage {
    ($name:literal, carries_out [$($topic:literal),*], scheduled [$($due:literal),*]) => {
        Stage {
            name: $name,
            events: &[],
            pulls: &[],
            work: &[
                $( concat!("sluice.do.", $topic), )*
                concat!("sluice.do.reconcile.", $name),
                concat!("sluice.do.redrive.", $name),
            ],
            due: &[
                $( concat!("sluice.due.", $due), )*
                concat!("sluice.due.reconcile.", $name),
                concat!("sluice.due.retry.", $name),
            ],
            schedules: concat!("SCHEDULES_", $name),
            ack_wait: Duration::from_secs(30),
            max_attempts: 6,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(300)),
            registry: RegistryAccess::None,
            lists_repositories: false,
            rights: Rights::NONE,
        }
    };
}

/// Polls mirrors.
pub const POLLER: Stage = Stage {
    max_attempts: 5,
    rights: Rights {
        // A poll by a person queues pending mirrors again.
        commands: &["poll.>", "mirror.>", "reconcile.poller"],
        // The attachments of an image are found by the digests of its manifests here.
        reads: &["tags", "images"],
        writes: &["upstream", "budgets"],
        ..Rights::NONE
    },
    ..stage!("poller", carries_out["poll.>"], scheduled["poll.>"])
};

/// Copies images into staging.
pub const MIRROR_WORKER: Stage = Stage {
    events: &[
        "sluice.v1.upstream.tag_moved.>",
        "sluice.v1.upstream.tag_gone.>",
    ],
    max_attempts: 8,
    registry: RegistryAccess::WriteOutsideTargets,
    rights: Rights {
        commands: &["mirror.>", "reconcile.mirror-worker"],
        // Of `reconciliations` its own entry, with the time of its last integrity check.
        reads: &["upstream", "reconciliations"],
        writes: &["images", "budgets"],
        writes_tags: true,
        reads_dead_letters: true,
        publishes_progress: &["mirror.>"],
        ..Rights::NONE
    },
    ..stage!("mirror-worker", carries_out ["mirror.>"], scheduled [])
};

/// Scans images.
pub const SCANNER_ADAPTER: Stage = Stage {
    events: &[
        "sluice.v1.tag.mirrored.>",
        "sluice.v1.tag.pushed.>",
        // Its own: each image is then matched with the new database.
        "sluice.v1.scanner.database_updated.>",
    ],
    registry: RegistryAccess::Read,
    rights: Rights {
        commands: &["scan.>", "rematch.>", "reconcile.scanner-adapter"],
        // Images in targets are matched with a newer database, tagged or not.
        reads: &["tags", "target_images"],
        // `images` has several writers, so the gate reads nothing from it: scanner and promoter compute the contents of an
        // image from its bytes.
        writes: &["images", "verdicts"],
        stores_reports: true,
        reads_dead_letters: true,
        reads_backlog: true,
        reads_last_events: &["scanner.database_updated"],
        ..Rights::NONE
    },
    ..stage!("scanner-adapter", carries_out ["scan.>", "rematch.>"], scheduled [])
};

/// Evaluates images against policies and promotes them.
pub const PROMOTER: Stage = Stage {
    events: &[
        "sluice.v1.scan.succeeded.>",
        "sluice.v1.scan.failed.>",
        "sluice.v1.scan.findings_changed.>",
        // Attachments follow their image, however late they arrive.
        "sluice.v1.tag.mirrored.>",
    ],
    max_attempts: 8,
    registry: RegistryAccess::WriteTargets,
    // It looks for unauthorised images in targets that no policy names.
    lists_repositories: true,
    rights: Rights {
        // After a restore it queues scans of images that are missing from a target.
        commands: &["judge.>", "scan.>", "reconcile.promoter"],
        reads: &["upstream", "verdicts"],
        writes: &["images", "decisions", "target_images", "control"],
        writes_tags: true,
        purges: &["decisions", "images", "tags", "upstream", "verdicts"],
        reads_last_events: &["tag.pushed"],
        ..Rights::NONE
    },
    ..stage!("promoter", carries_out["judge.>"], scheduled["judge.>"])
};

/// Applies pruning policies.
pub const PRUNER: Stage = Stage {
    events: &["sluice.v1.tag.mirrored.>"],
    registry: RegistryAccess::WriteOutsideTargets,
    rights: Rights {
        commands: &["prune.>", "reconcile.pruner"],
        reads: &["images", "verdicts", "decisions", "pulls"],
        writes_tags: true,
        ..Rights::NONE
    },
    ..stage!("pruner", carries_out["prune.>"], scheduled["prune.>"])
};

/// Delivers events to webhooks.
pub const WEBHOOK_DISPATCHER: Stage = Stage {
    events: EVENTS_FOR_WEBHOOKS,
    pulls: &PULL_SUBJECTS,
    max_attempts: 12,
    backoff: Backoff::new(Duration::from_secs(2), Duration::from_secs(3_600)),
    rights: Rights {
        commands: &["deliver.>", "reconcile.webhook-dispatcher"],
        writes: &["endpoints", "deliveries"],
        reads_events: true,
        ..Rights::NONE
    },
    ..stage!("webhook-dispatcher", carries_out ["deliver.>"], scheduled [])
};

/// Records what people push and delete, and compares the records with the registry; the gateway's other work comes over HTTP.
pub const GATEWAY: Stage = Stage {
    events: &["sluice.v1.tag.pushed.>", "sluice.v1.tag.deleted.>"],
    registry: RegistryAccess::Read,
    lists_repositories: true,
    rights: Rights {
        commands: &["poll.>", "judge.>", "prune._.>", "reconcile.*"],
        reads: &[
            "upstream",
            "images",
            "verdicts",
            "decisions",
            "tombstones",
            "endpoints",
            "deliveries",
        ],
        writes: &["resources", "tags", "pulls"],
        reads_reports: true,
        monitors: true,
        reads_events: true,
        reads_progress: true,
        ..Rights::NONE
    },
    ..stage!("gateway", carries_out [], scheduled [])
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
