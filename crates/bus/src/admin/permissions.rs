//! The permissions of each user at NATS: one table, and the subjects that follow from it, from the topology and from the
//! publishers of the facts.
//!
//! It knows nothing of servers and files; `server_config` writes the configuration.

use std::collections::BTreeSet;

use sluice_events::Event;

use crate::streams::subject_patterns::covers;
use crate::topology::{
    API, AUDIT, BUCKETS, COMMAND, DEAD_LETTER, DEAD_LETTERS, EVENTS, GATEWAY, MIRROR_WORKER,
    POLLER, PROGRESS, PROMOTER, PRUNER, PULLS, REPORTS, SCANNER_ADAPTER, STAGES, Stage,
    WEBHOOK_DISPATCHER, WORK,
};

/// The user of the `sluice` command: it provisions, applies resources, saves and restores.
pub const ADMIN: &str = "admin";
/// The user that monitors the server and sees no message of Sluice.
pub const SYSTEM: &str = "system";
/// The user of other programs that follow the events.
pub const SUBSCRIBER: &str = "subscriber";

/// The buckets that every service reads: resources and pauses.
const READ_BY_ALL: [&str; 2] = ["resources", "control"];
/// The buckets that `state::TagWriter` writes (invariant 2).
const TAG_WRITER_BUCKETS: [&str; 2] = ["tags", "tombstones"];

/// A row of the table: what a service does besides publishing its facts and consuming the messages of its stage.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    /// Its stage, with consumers, schedules and dead letters.
    pub(crate) stage: Option<&'static Stage>,
    /// The commands that it publishes, mostly for its own stage.
    pub(crate) commands: &'static [&'static str],
    /// The buckets that it reads, besides those that it writes and those of `READ_BY_ALL`.
    pub(crate) reads: &'static [&'static str],
    /// The buckets that it writes.
    pub(crate) writes: &'static [&'static str],
    /// Whether it uses `state::TagWriter`.
    pub(crate) writes_tags: bool,
    /// Whether it stores reports.
    pub(crate) stores_reports: bool,
    /// The buckets from which it purges entries, without permission to write them; reports are purged with them.
    pub(crate) purges: &'static [&'static str],
    /// Whether it reads dead letters, the backlog of all stages and the usage of streams.
    pub(crate) monitors: bool,
    /// Whether it reads all facts.
    pub(crate) reads_facts: bool,
    /// Whether it acknowledges facts, so that the server keeps its position.
    pub(crate) acknowledges: bool,
    /// Whether it reads dead letters.
    pub(crate) reads_dead_letters: bool,
    /// Whether it reads the pending events of its stage.
    pub(crate) reads_backlog: bool,
    /// The facts of which it reads the last one.
    pub(crate) reads_last_facts: &'static [&'static str],
    /// The topics of the progress messages that it publishes.
    pub(crate) publishes_progress: &'static [&'static str],
    /// Whether it reads progress messages.
    pub(crate) reads_progress: bool,
}

const SERVICE: Service = Service {
    name: "",
    stage: None,
    commands: &[],
    reads: &[],
    writes: &[],
    writes_tags: false,
    stores_reports: false,
    purges: &[],
    monitors: false,
    reads_facts: false,
    acknowledges: false,
    reads_dead_letters: false,
    reads_backlog: false,
    reads_last_facts: &[],
    publishes_progress: &[],
    reads_progress: false,
};

/// Every service. `images` has several writers, so the gate reads nothing from it: scanner and promoter compute the
/// contents of an image from its bytes.
pub(crate) const SERVICES: [Service; 8] = [
    Service {
        name: POLLER.name,
        stage: Some(&POLLER),
        // A poll by a person queues pending mirrors again.
        commands: &["poll.>", "mirror.>", "reconcile.poller"],
        // The attachments of an image are found by the digests of its manifests here.
        reads: &["tags", "images"],
        writes: &["upstream", "budgets"],
        ..SERVICE
    },
    Service {
        name: MIRROR_WORKER.name,
        stage: Some(&MIRROR_WORKER),
        commands: &["mirror.>", "reconcile.mirror-worker"],
        // Of `reconciliations` its own entry, with the time of its last integrity check.
        reads: &["upstream", "reconciliations"],
        writes: &["images", "budgets"],
        writes_tags: true,
        reads_dead_letters: true,
        publishes_progress: &["mirror.>"],
        ..SERVICE
    },
    Service {
        name: SCANNER_ADAPTER.name,
        stage: Some(&SCANNER_ADAPTER),
        commands: &["scan.>", "reconcile.scanner-adapter"],
        reads: &["tags"],
        writes: &["images", "verdicts"],
        stores_reports: true,
        reads_dead_letters: true,
        reads_backlog: true,
        reads_last_facts: &["scanner.database_updated"],
        ..SERVICE
    },
    Service {
        name: PROMOTER.name,
        stage: Some(&PROMOTER),
        // After a restore it queues scans of images that are missing from a target.
        commands: &["judge.>", "scan.>", "reconcile.promoter"],
        reads: &["upstream", "verdicts"],
        writes: &["images", "decisions", "target_images", "control"],
        writes_tags: true,
        purges: &["decisions", "images", "tags", "upstream", "verdicts"],
        reads_last_facts: &["tag.pushed"],
        ..SERVICE
    },
    Service {
        name: PRUNER.name,
        stage: Some(&PRUNER),
        commands: &["prune.>", "reconcile.pruner"],
        reads: &["images", "verdicts", "decisions", "pulls"],
        writes_tags: true,
        ..SERVICE
    },
    Service {
        name: WEBHOOK_DISPATCHER.name,
        stage: Some(&WEBHOOK_DISPATCHER),
        commands: &["deliver.>", "reconcile.webhook-dispatcher"],
        writes: &["endpoints", "deliveries"],
        reads_facts: true,
        ..SERVICE
    },
    Service {
        name: GATEWAY.name,
        stage: Some(&GATEWAY),
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
        monitors: true,
        reads_facts: true,
        reads_progress: true,
        ..SERVICE
    },
    Service {
        name: SUBSCRIBER,
        reads_facts: true,
        acknowledges: true,
        ..SERVICE
    },
];

/// The subjects of the `sluice` command: all requests to JetStream, commands, and resources, whose fact only the gateway
/// publishes otherwise.
const ADMIN_SUBJECTS: [&str; 8] = [
    "$JS.API.>",
    "$JS.FC.>",
    "$JS.SNAPSHOT.>",
    "$KV.resources.>",
    "$KV.control.>",
    // The storage probe of `sluice status`.
    "$KV.tombstones.probe.cli",
    "sluice.do.>",
    "sluice.v1.resource.applied.>",
];

/// A subject that a user may publish on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Grant {
    pub(crate) subject: String,
    /// Whether one request has several responses.
    pub(crate) streams_responses: bool,
}

/// The permissions of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permissions {
    pub(crate) user: &'static str,
    pub(crate) publish: Vec<Grant>,
    /// The subjects that are denied although `publish` covers them.
    pub(crate) deny: Vec<String>,
    pub(crate) subscribe: String,
    /// The subjects of its progress messages, which its own account exports.
    pub(crate) publishes_progress: Vec<String>,
    /// Whether it reads the progress messages of others.
    pub(crate) reads_progress: bool,
}

/// Returns the name of every user; each has a password of its own.
#[must_use]
pub fn users() -> Vec<&'static str> {
    let services = SERVICES.iter().map(|service| service.name);
    services.chain([ADMIN, SYSTEM]).collect()
}

/// Returns the permissions of the `sluice` command.
pub(crate) fn admin() -> Permissions {
    Permissions {
        user: ADMIN,
        publish: ADMIN_SUBJECTS.into_iter().map(grant).collect(),
        deny: Vec::new(),
        subscribe: inbox(ADMIN),
        publishes_progress: Vec::new(),
        reads_progress: true,
    }
}

/// Returns the permissions of every service.
pub(crate) fn services() -> Vec<Permissions> {
    SERVICES.iter().map(Service::permissions).collect()
}

/// Returns the subjects on which a user receives responses.
fn inbox(user: &str) -> String {
    format!("_INBOX_{user}.>")
}

fn grant(subject: impl Into<String>) -> Grant {
    Grant {
        subject: subject.into(),
        streams_responses: false,
    }
}

fn streaming_grant(subject: impl Into<String>) -> Grant {
    Grant {
        subject: subject.into(),
        streams_responses: true,
    }
}

fn api(request: &str) -> Grant {
    grant(format!("{API}{request}"))
}

impl Service {
    fn permissions(&self) -> Permissions {
        let mut grants = BTreeSet::new();
        let facts = Event::TYPES.iter();
        let own = facts.filter(|fact| fact.publisher == self.name);
        grants.extend(own.map(|fact| grant(format!("sluice.v1.{}.>", fact.name))));
        grants.extend(
            self.commands
                .iter()
                .map(|name| grant(format!("{COMMAND}{name}"))),
        );
        if let Some(stage) = self.stage {
            grants.extend(stage_grants(stage));
        }
        grants.extend(self.bucket_grants());
        if self.stores_reports {
            grants.extend(object_grants(&format!("OBJ_{REPORTS}")));
            grants.insert(grant(format!("$O.{REPORTS}.>")));
        }
        grants.extend(purge_grants(self.purges));
        for fact in self.reads_last_facts {
            grants.insert(api(&format!("DIRECT.GET.{EVENTS}.sluice.v1.{fact}.>")));
        }
        if let Some(stage) = self.stage.filter(|_| self.reads_dead_letters) {
            let part = format!("*.sluice.dead.{}", stage.name);
            grants.extend(named_listing(DEAD_LETTERS, &part));
        }
        if self.monitors {
            grants.extend(monitoring_grants());
        }
        let mut logged: Vec<&str> = self
            .reads_facts
            .then_some("sluice.v1.>")
            .into_iter()
            .collect();
        if let Some(stage) = self.stage.filter(|_| self.reads_backlog) {
            logged.extend(stage.events);
        }
        let mut deny = Vec::new();
        for part in logged {
            grants.extend(named_listing(EVENTS, &format!("*.{part}")));
            deny = foreign_consumer_subjects(EVENTS, self.name, self.monitors);
        }
        if self.reads_facts {
            grants.extend(named_listing(PULLS, "*.sluice.v1.>"));
            deny.extend(foreign_consumer_subjects(PULLS, self.name, self.monitors));
        }
        if self.acknowledges {
            for stream in [EVENTS, PULLS] {
                let consumers = [format!("$JS.ACK.{stream}"), format!("$JS.ACK.*.*.{stream}")];
                for consumer in consumers {
                    grants.insert(grant(format!("{consumer}.*.>")));
                    deny.extend(STAGES.map(|stage| format!("{consumer}.{}.>", stage.name)));
                }
            }
        }
        Permissions {
            user: self.name,
            publish: without_covered(grants),
            deny,
            subscribe: inbox(self.name),
            publishes_progress: self
                .publishes_progress
                .iter()
                .map(|work| format!("{PROGRESS}{work}"))
                .collect(),
            reads_progress: self.reads_progress,
        }
    }

    /// Returns the grants for reading and writing buckets.
    fn bucket_grants(&self) -> Vec<Grant> {
        let mut grants = Vec::new();
        let mut read: Vec<&str> = self.reads.iter().copied().chain(self.writes()).collect();
        if self.stage.is_some() {
            // Opening a bucket shows its keys, but no value.
            grants.extend(BUCKETS.map(|bucket| api(&format!("STREAM.INFO.KV_{}", bucket.name))));
            grants.push(api(&format!("STREAM.INFO.OBJ_{REPORTS}")));
            read.extend(READ_BY_ALL);
        }
        for bucket in self.writes() {
            grants.push(grant(format!("$KV.{bucket}.>")));
        }
        for bucket in read {
            let stream = format!("KV_{bucket}");
            grants.extend(listing(&stream));
            grants.push(api(&format!("DIRECT.GET.{stream}.>")));
        }
        grants
    }

    pub(crate) fn writes(&self) -> impl Iterator<Item = &'static str> {
        let shared = TAG_WRITER_BUCKETS.iter().filter(|_| self.writes_tags);
        self.writes.iter().chain(shared).copied()
    }
}

/// Returns the grants of a stage for its messages: pull and acknowledge them, schedule retries, write dead letters.
fn stage_grants(stage: &Stage) -> Vec<Grant> {
    let name = stage.name;
    let mut grants = vec![
        grant(format!("{DEAD_LETTER}{name}")),
        // The result of its last reconciliation.
        grant(format!("$KV.reconciliations.{name}")),
    ];
    for (stream, _) in stage.sources() {
        grants.extend([
            api(&format!("CONSUMER.INFO.{stream}.{name}")),
            streaming_grant(format!("{API}CONSUMER.MSG.NEXT.{stream}.{name}")),
            grant(format!("$JS.ACK.{stream}.{name}.>")),
            // The form of newer servers, with a domain and an account.
            grant(format!("$JS.ACK.*.*.{stream}.{name}.>")),
        ]);
    }
    let schedules = stage.schedules;
    let pulls = (!stage.pulls.is_empty()).then_some(PULLS);
    for stream in [EVENTS, WORK, DEAD_LETTERS, schedules]
        .into_iter()
        .chain(pulls)
    {
        grants.push(api(&format!("STREAM.INFO.{stream}")));
    }
    grants.extend(stage.schedule_subjects().into_iter().map(grant));
    grants.push(api(&format!("STREAM.MSG.GET.{schedules}")));
    grants.push(api(&format!("STREAM.PURGE.{schedules}")));
    grants
}

/// Returns the grants for reading a whole stream with ephemeral consumers.
///
/// Only for streams that no stage consumes: a request without a consumer in its subject may name one in its body, and
/// could replace the consumer of a stage.
fn listing(stream: &str) -> Vec<Grant> {
    let mut grants = named_listing(stream, ">");
    grants.push(api(&format!("CONSUMER.CREATE.{stream}")));
    grants
}

/// Returns the grants for reading a subject filter of a stream, with consumers that are named in the subject.
fn named_listing(stream: &str, filter: &str) -> Vec<Grant> {
    vec![
        api(&format!("CONSUMER.CREATE.{stream}.{filter}")),
        api(&format!("CONSUMER.INFO.{stream}.*")),
        api(&format!("CONSUMER.DELETE.{stream}.*")),
        streaming_grant(format!("{API}CONSUMER.MSG.NEXT.{stream}.*")),
        grant(format!("$JS.FC.{stream}.>")),
    ]
}

/// Returns the grants for storing, reading and removing objects.
fn object_grants(stream: &str) -> Vec<Grant> {
    let mut grants = listing(stream);
    grants.extend([
        api(&format!("DIRECT.GET.{stream}.>")),
        api(&format!("STREAM.MSG.GET.{stream}")),
        api(&format!("STREAM.PURGE.{stream}")),
    ]);
    grants
}

/// Returns the grants for reading dead letters, the backlog of all stages and the usage of streams.
fn monitoring_grants() -> Vec<Grant> {
    let mut grants = listing(DEAD_LETTERS);
    for stream in [EVENTS, PULLS, DEAD_LETTERS, WORK, AUDIT] {
        grants.push(api(&format!("STREAM.INFO.{stream}")));
    }
    for stage in STAGES {
        grants.push(api(&format!("STREAM.INFO.{}", stage.schedules)));
        // The delayed copies, and why they were delayed.
        grants.push(api(&format!("STREAM.MSG.GET.{}", stage.schedules)));
        for (stream, _) in stage.sources() {
            grants.push(api(&format!("CONSUMER.INFO.{stream}.{}", stage.name)));
        }
    }
    grants
}

/// Returns the grants for purging entries, and reports with them, without any to write them.
fn purge_grants(buckets: &[&str]) -> Vec<Grant> {
    let purge = |bucket: &&str| api(&format!("STREAM.PURGE.KV_{bucket}"));
    let mut grants: Vec<Grant> = buckets.iter().map(purge).collect();
    if !grants.is_empty() {
        let objects = format!("OBJ_{REPORTS}");
        grants.extend(named_listing(&objects, &format!("*.$O.{REPORTS}.M.>")));
        grants.push(api(&format!("STREAM.PURGE.{objects}")));
    }
    grants
}

/// Returns the subjects by which a user could pull the messages of other stages, change the consumer of any stage, or
/// read the position of others.
fn foreign_consumer_subjects(stream: &str, own: &str, may_monitor: bool) -> Vec<String> {
    let consumes = |stage: &&Stage| stage.sources().iter().any(|(name, _)| *name == stream);
    let mut subjects = Vec::new();
    for stage in STAGES.into_iter().filter(consumes) {
        let consumer = format!("{stream}.{}", stage.name);
        subjects.extend([
            format!("{API}CONSUMER.CREATE.{consumer}"),
            format!("{API}CONSUMER.CREATE.{consumer}.>"),
            format!("{API}CONSUMER.DELETE.{consumer}"),
        ]);
        if stage.name != own {
            subjects.push(format!("{API}CONSUMER.MSG.NEXT.{consumer}"));
            if !may_monitor {
                subjects.push(format!("{API}CONSUMER.INFO.{consumer}"));
            }
        }
    }
    subjects
}

/// Removes grants that another one covers: a message that matches two exports would be delivered twice.
fn without_covered(grants: BTreeSet<Grant>) -> Vec<Grant> {
    let covered = |grant: &Grant| {
        let others = grants.iter().filter(|other| *other != grant);
        others
            .into_iter()
            .any(|other| covers(&other.subject, &grant.subject))
    };
    grants
        .iter()
        .filter(|grant| !covered(grant))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests;
