//! Who does what, as the services' rows in the architecture say.

pub(crate) const SERVICES: [&str; 7] = [
    "poller",
    "mirror-worker",
    "scanner-adapter",
    "promoter",
    "pruner",
    "webhook-dispatcher",
    "gateway",
];

pub(crate) const FACTS: [(&str, &[&str]); 7] = [
    (
        "poller",
        &[
            "upstream.tag_moved",
            "upstream.tag_gone",
            "upstream.poll_failed",
            "upstream.poll_recovered",
        ],
    ),
    (
        "mirror-worker",
        &[
            "tag.mirrored",
            "tag.mirror_failed",
            "tag.move_refused",
            "tag.repaired",
        ],
    ),
    (
        "scanner-adapter",
        &[
            "scan.succeeded",
            "scan.failed",
            "scan.findings_changed",
            "scanner.database_updated",
        ],
    ),
    (
        "promoter",
        &[
            "image.promoted",
            "image.promotion_denied",
            "image.flagged",
            "image.withdrawn",
            "image.unauthorised",
        ],
    ),
    ("pruner", &["prune.completed"]),
    (
        "webhook-dispatcher",
        &["webhook.delivered", "webhook.failed"],
    ),
    (
        "gateway",
        &[
            "tag.pushed",
            "tag.pulled",
            "tag.deleted",
            "manifest.pushed",
            "manifest.pulled",
            "manifest.deleted",
            "resource.applied",
        ],
    ),
];

/// The commands, each with who gives it besides the command line.
pub(crate) const COMMANDS: [(&str, &[&str]); 9] = [
    ("sluice.do.poll.a", &["poller", "gateway"]),
    // A person's poll speeds up what waits.
    ("sluice.do.mirror.a", &["mirror-worker", "poller"]),
    // After a restore the promoter asks for scans of what left a target.
    ("sluice.do.scan.a", &["scanner-adapter", "promoter"]),
    ("sluice.do.judge.a", &["promoter"]),
    ("sluice.do.prune.a", &["pruner"]),
    ("sluice.do.deliver.a", &["webhook-dispatcher"]),
    ("sluice.do.promote", &[]),
    ("sluice.do.scan", &[]),
    ("sluice.do.x", &[]),
];

pub(crate) const BUCKETS: [&str; 13] = [
    "control",
    "reconciliations",
    "resources",
    "upstream",
    "tags",
    "images",
    "verdicts",
    "decisions",
    "budgets",
    "tombstones",
    "leases",
    "endpoints",
    "deliveries",
];

/// `tags` and `tombstones` are those of the one tag operation; `images` holds what a digest consists of, whoever looked.
/// In `reconciliations` each stage has one entry of its own.
pub(crate) const WRITERS: [(&str, &[&str]); 11] = [
    ("budgets", &["poller", "mirror-worker"]),
    ("control", &["promoter", "admin"]),
    ("resources", &["gateway", "admin"]),
    ("upstream", &["poller"]),
    ("tags", &["mirror-worker", "promoter", "pruner"]),
    ("tombstones", &["mirror-worker", "promoter", "pruner"]),
    (
        "images",
        &["mirror-worker", "scanner-adapter", "promoter", "pruner"],
    ),
    ("verdicts", &["scanner-adapter"]),
    ("decisions", &["promoter"]),
    ("endpoints", &["webhook-dispatcher"]),
    ("deliveries", &["webhook-dispatcher"]),
];

/// Who reads a bucket besides those that write it.
pub(crate) const READERS: [(&str, &[&str]); 11] = [
    (
        "control",
        &[
            "poller",
            "mirror-worker",
            "scanner-adapter",
            "pruner",
            "webhook-dispatcher",
            "gateway",
        ],
    ),
    (
        "resources",
        &[
            "poller",
            "mirror-worker",
            "scanner-adapter",
            "promoter",
            "pruner",
            "webhook-dispatcher",
        ],
    ),
    ("upstream", &["mirror-worker", "promoter", "gateway"]),
    ("tags", &["poller", "scanner-adapter", "gateway"]),
    ("tombstones", &["gateway"]),
    // When it last looked at what the registry holds.
    ("reconciliations", &["mirror-worker"]),
    ("images", &["poller", "gateway"]),
    ("verdicts", &["promoter", "pruner", "gateway"]),
    ("decisions", &["pruner", "gateway"]),
    ("endpoints", &["gateway"]),
    ("deliveries", &["gateway"]),
];

/// Returns the streams that a stage consumes.
pub(crate) fn consumes(stage: &str) -> Vec<String> {
    let timers = format!("SCHEDULES_{stage}");
    match stage {
        "poller" | "gateway" => vec!["WORK".to_owned(), timers],
        _ => vec!["EVENTS".to_owned(), "WORK".to_owned(), timers],
    }
}

/// Returns every stream, those of the buckets among them.
pub(crate) fn streams() -> Vec<String> {
    let named = ["EVENTS", "WORK", "DEAD_LETTERS", "AUDIT", "OBJ_reports"].map(str::to_owned);
    let buckets = BUCKETS.map(|bucket| format!("KV_{bucket}"));
    let timers = SERVICES.map(|stage| format!("SCHEDULES_{stage}"));
    named.into_iter().chain(buckets).chain(timers).collect()
}
