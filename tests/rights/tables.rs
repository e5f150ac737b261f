//! Who does what, as the services' rows in the architecture say.

use sluice_bus::topology;

pub(crate) const SERVICES: [&str; 7] = [
    "poller",
    "mirror-worker",
    "scanner-adapter",
    "promoter",
    "pruner",
    "webhook-dispatcher",
    "gateway",
];

/// The facts of each service, as patterns of their names.
const FACTS: [(&str, &str); 15] = [
    ("poller", "upstream.*"),
    ("mirror-worker", "tag.mirrored"),
    ("mirror-worker", "tag.mirror_failed"),
    ("mirror-worker", "tag.move_refused"),
    ("mirror-worker", "tag.repaired"),
    ("scanner-adapter", "scan.*"),
    ("scanner-adapter", "scanner.*"),
    ("promoter", "image.*"),
    ("pruner", "prune.*"),
    ("webhook-dispatcher", "webhook.*"),
    ("gateway", "tag.pushed"),
    ("gateway", "tag.pulled"),
    ("gateway", "tag.deleted"),
    ("gateway", "manifest.*"),
    ("gateway", "resource.*"),
];

/// The commands, each with who gives it besides the command line.
pub(crate) const COMMANDS: [(&str, &[&str]); 10] = [
    ("sluice.do.poll.a", &["poller", "gateway"]),
    // A person's poll speeds up what waits.
    ("sluice.do.mirror.a", &["mirror-worker", "poller"]),
    // After a restore the promoter asks for scans of what left a target.
    ("sluice.do.scan.a", &["scanner-adapter", "promoter"]),
    // What people push is evaluated, and counts among the tags of its repository.
    ("sluice.do.judge.a", &["promoter", "gateway"]),
    ("sluice.do.prune._.a", &["pruner", "gateway"]),
    ("sluice.do.prune.a", &["pruner"]),
    ("sluice.do.deliver.a", &["webhook-dispatcher"]),
    ("sluice.do.promote", &[]),
    ("sluice.do.scan", &[]),
    ("sluice.do.x", &[]),
];

/// Every bucket; one that is in no table below is written and read by nobody.
pub(crate) fn buckets() -> impl Iterator<Item = &'static str> {
    topology::BUCKETS.iter().map(|bucket| bucket.name)
}

/// `tags` and `tombstones` are those of the one tag operation; `images` holds what a digest consists of, whoever looked,
/// and the gate reads nothing from it.
/// In `reconciliations` each stage has one entry of its own.
pub(crate) const WRITERS: [(&str, &[&str]); 13] = [
    ("budgets", &["poller", "mirror-worker"]),
    ("control", &["promoter", "admin"]),
    ("resources", &["gateway", "admin"]),
    ("upstream", &["poller"]),
    // The gateway records what people push.
    ("tags", &["mirror-worker", "promoter", "pruner", "gateway"]),
    ("tombstones", &["mirror-worker", "promoter", "pruner"]),
    ("images", &["mirror-worker", "scanner-adapter", "promoter"]),
    ("verdicts", &["scanner-adapter"]),
    ("decisions", &["promoter"]),
    ("target_images", &["promoter"]),
    ("endpoints", &["webhook-dispatcher"]),
    ("deliveries", &["webhook-dispatcher"]),
    ("pulls", &["gateway"]),
];

/// Who reads a bucket besides those that write it.
pub(crate) const READERS: [(&str, &[&str]); 13] = [
    ("target_images", &["scanner-adapter"]),
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
    ("tags", &["poller", "scanner-adapter"]),
    ("tombstones", &["gateway"]),
    // When it last looked at what the registry holds.
    ("reconciliations", &["mirror-worker"]),
    ("images", &["poller", "pruner", "gateway"]),
    ("verdicts", &["promoter", "pruner", "gateway"]),
    ("decisions", &["pruner", "gateway"]),
    ("endpoints", &["gateway"]),
    ("deliveries", &["gateway"]),
    ("pulls", &["pruner"]),
];

/// Returns the services that publish a fact.
pub(crate) fn publishers(fact: &str) -> Vec<&'static str> {
    let covers = |pattern: &str| match pattern.strip_suffix('*') {
        Some(noun) => fact.starts_with(noun),
        None => fact == pattern,
    };
    let rows = FACTS.into_iter().filter(|(_, pattern)| covers(pattern));
    rows.map(|(service, _)| service).collect()
}

/// Returns the streams that a stage consumes.
pub(crate) fn consumes(stage: &str) -> Vec<String> {
    let timers = format!("SCHEDULES_{stage}");
    match stage {
        "poller" => vec!["WORK".to_owned(), timers],
        "webhook-dispatcher" => vec![
            "EVENTS".to_owned(),
            "PULLS".to_owned(),
            "WORK".to_owned(),
            timers,
        ],
        _ => vec!["EVENTS".to_owned(), "WORK".to_owned(), timers],
    }
}

/// Returns every stream, those of the buckets among them.
pub(crate) fn streams() -> Vec<String> {
    let named = [
        "EVENTS",
        "PULLS",
        "WORK",
        "DEAD_LETTERS",
        "AUDIT",
        "OBJ_reports",
    ];
    let named = named.map(str::to_owned);
    let buckets = buckets().map(|bucket| format!("KV_{bucket}"));
    let timers = SERVICES.map(|stage| format!("SCHEDULES_{stage}"));
    named.into_iter().chain(buckets).chain(timers).collect()
}
