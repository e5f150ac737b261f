//! Who may do what at NATS: one table, and what follows from it and from the topology.
//!
//! It must not know of servers and files; `server_config` writes down what is derived here.

use std::collections::BTreeSet;

use crate::subject_patterns::covers;
use crate::topology::{
    AUDIT, BUCKETS, DEAD_LETTERS, EVENTS, GATEWAY, MIRROR_WORKER, POLLER, PROMOTER, PRUNER, PULLS,
    REPORTS, SCANNER_ADAPTER, STAGES, Stage, WEBHOOK_DISPATCHER, WORK,
};

/// What stands before a request to JetStream.
pub(crate) const API: &str = "$JS.API.";
/// What is told of work while it goes on.
pub(crate) const PROGRESS: &str = "sluice.progress.";
/// The user of the command: it provisions, applies, and saves and restores.
pub const ADMIN: &str = "admin";
/// The user that watches the server itself, and sees no message of ours.
pub const SYSTEM: &str = "system";

/// The user of programs of others that follow the events.
pub const SUBSCRIBER: &str = "subscriber";

/// The buckets that every service reads: what people want, and whether anything is paused.
const READ_BY_ALL: [&str; 2] = ["resources", "control"];
/// What the one tag operation writes, whoever carries it out (invariant 2).
const TAG_OPERATION: [&str; 2] = ["tags", "tombstones"];

/// What one service does beyond what every stage does with its own messages.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    /// Its own work: consumers, schedules, dead letters.
    pub(crate) stage: Option<&'static Stage>,
    /// The facts that it alone publishes.
    pub(crate) facts: &'static [&'static str],
    /// What it asks for: mostly of itself.
    pub(crate) commands: &'static [&'static str],
    /// The buckets that it reads besides those that it writes and those that all read.
    pub(crate) reads: &'static [&'static str],
    /// The buckets that it writes.
    pub(crate) writes: &'static [&'static str],
    /// Whether it carries out the one tag operation.
    pub(crate) tags: bool,
    /// Whether it stores reports.
    pub(crate) reports: bool,
    /// The buckets of which it forgets entries for good, which takes no right to write them; with them go reports.
    pub(crate) forgets: &'static [&'static str],
    /// Whether it reads the log and the dead letters, and how far behind the stages are.
    pub(crate) watches: bool,
    /// Whether it reads any facts from the log.
    pub(crate) log: bool,
    /// Whether it acknowledges them, so that the server keeps its place.
    pub(crate) acknowledges: bool,
    /// Whether it reads what its stage gave up.
    pub(crate) letters: bool,
    /// Whether it reads ahead which events its stage has before it.
    pub(crate) backlog: bool,
    /// Single facts whose last one it reads from the log.
    pub(crate) last: &'static [&'static str],
    /// What it tells of its work while it goes on, which nothing stores.
    pub(crate) tells: &'static [&'static str],
    /// Whether it hears what is told like that.
    pub(crate) hears: bool,
}

const SERVICE: Service = Service {
    name: "",
    stage: None,
    facts: &[],
    commands: &[],
    reads: &[],
    writes: &[],
    tags: false,
    reports: false,
    forgets: &[],
    watches: false,
    log: false,
    acknowledges: false,
    letters: false,
    backlog: false,
    last: &[],
    tells: &[],
    hears: false,
};

/// Every service. `images` has several writers, so nothing that the gate depends on is read from it: scanner and promoter
/// compute from the bytes what an image consists of.
pub(crate) const SERVICES: [Service; 8] = [
    Service {
        name: POLLER.name,
        stage: Some(&POLLER),
        facts: &[
            "upstream.tag_moved",
            "upstream.tag_gone",
            "upstream.poll_failed",
            "upstream.poll_recovered",
        ],
        // What waits to be mirrored is asked for again when a person polls.
        commands: &["poll.>", "mirror.>", "reconcile.poller"],
        // What is attached to an image is found by the manifests of which that consists here.
        reads: &["tags", "images"],
        writes: &["upstream", "budgets"],
        ..SERVICE
    },
    Service {
        name: MIRROR_WORKER.name,
        stage: Some(&MIRROR_WORKER),
        facts: &[
            "tag.mirrored",
            "tag.mirror_failed",
            "tag.move_refused",
            "tag.repaired",
        ],
        commands: &["mirror.>", "reconcile.mirror-worker"],
        // Of `reconciliations` its own, which says when it last looked at what the registry holds.
        reads: &["upstream", "reconciliations"],
        writes: &["images", "budgets"],
        tags: true,
        letters: true,
        tells: &["mirror.>"],
        ..SERVICE
    },
    Service {
        name: SCANNER_ADAPTER.name,
        stage: Some(&SCANNER_ADAPTER),
        facts: &[
            "scan.succeeded",
            "scan.failed",
            "scan.findings_changed",
            "scanner.database_updated",
        ],
        commands: &["scan.>", "reconcile.scanner-adapter"],
        reads: &["tags"],
        writes: &["images", "verdicts"],
        reports: true,
        letters: true,
        backlog: true,
        last: &["scanner.database_updated"],
        ..SERVICE
    },
    Service {
        name: PROMOTER.name,
        stage: Some(&PROMOTER),
        facts: &[
            "image.promoted",
            "image.promotion_denied",
            "image.flagged",
            "image.withdrawn",
            "image.unauthorised",
        ],
        // After a restore it asks for scans of what left a target.
        commands: &["judge.>", "scan.>", "reconcile.promoter"],
        reads: &["upstream", "verdicts"],
        writes: &["images", "decisions", "control"],
        tags: true,
        forgets: &["decisions", "images", "tags", "upstream", "verdicts"],
        last: &["tag.pushed"],
        ..SERVICE
    },
    Service {
        name: PRUNER.name,
        stage: Some(&PRUNER),
        facts: &["prune.completed"],
        commands: &["prune.>", "reconcile.pruner"],
        reads: &["images", "verdicts", "decisions", "pulls"],
        tags: true,
        ..SERVICE
    },
    Service {
        name: WEBHOOK_DISPATCHER.name,
        stage: Some(&WEBHOOK_DISPATCHER),
        facts: &["webhook.delivered", "webhook.failed"],
        commands: &["deliver.>", "reconcile.webhook-dispatcher"],
        writes: &["endpoints", "deliveries"],
        log: true,
        ..SERVICE
    },
    Service {
        name: GATEWAY.name,
        stage: Some(&GATEWAY),
        facts: &[
            "tag.pushed",
            "tag.pulled",
            "tag.deleted",
            "manifest.pushed",
            "manifest.pulled",
            "manifest.deleted",
            "resource.applied",
        ],
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
        watches: true,
        log: true,
        hears: true,
        ..SERVICE
    },
    Service {
        name: SUBSCRIBER,
        log: true,
        acknowledges: true,
        ..SERVICE
    },
];

/// What the command may publish: requests of every kind to JetStream, what a person asks for, and resources, whose
/// fact is the gateway's otherwise.
const OF_ADMIN: [&str; 8] = [
    "$JS.API.>",
    "$JS.FC.>",
    "$JS.SNAPSHOT.>",
    "$KV.resources.>",
    "$KV.control.>",
    // What `sluice status` stores to see whether anything is stored.
    "$KV.tombstones.probe.cli",
    "sluice.do.>",
    "sluice.v1.resource.applied.>",
];

/// A subject that may be published on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Grant {
    pub(crate) subject: String,
    /// Whether one request has several answers.
    pub(crate) many: bool,
}

/// What a user may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) user: &'static str,
    pub(crate) publish: Vec<Grant>,
    /// What is denied of it all the same.
    pub(crate) deny: Vec<String>,
    pub(crate) subscribe: String,
    /// What it tells of its work, in its own account, from where it goes to whoever hears it.
    pub(crate) tells: Vec<String>,
    /// Whether it hears what others tell.
    pub(crate) hears: bool,
}

/// Returns the name of every user, of which each has a password of its own.
#[must_use]
pub fn users() -> Vec<&'static str> {
    let services = SERVICES.iter().map(|service| service.name);
    services.chain([ADMIN, SYSTEM]).collect()
}

/// Returns the rights of the command.
pub(crate) fn admin() -> Rights {
    Rights {
        user: ADMIN,
        publish: OF_ADMIN.into_iter().map(one).collect(),
        deny: Vec::new(),
        subscribe: inbox(ADMIN),
        tells: Vec::new(),
        hears: true,
    }
}

/// Returns the rights of every service.
pub(crate) fn services() -> Vec<Rights> {
    SERVICES.iter().map(Service::rights).collect()
}

/// Returns the subjects at which a user gets its answers.
fn inbox(user: &str) -> String {
    format!("_INBOX_{user}.>")
}

fn one(subject: impl Into<String>) -> Grant {
    Grant {
        subject: subject.into(),
        many: false,
    }
}

fn many(subject: impl Into<String>) -> Grant {
    Grant {
        subject: subject.into(),
        many: true,
    }
}

fn api(request: &str) -> Grant {
    one(format!("{API}{request}"))
}

impl Service {
    fn rights(&self) -> Rights {
        let mut grants = BTreeSet::new();
        grants.extend(
            self.facts
                .iter()
                .map(|fact| one(format!("sluice.v1.{fact}.>"))),
        );
        grants.extend(
            self.commands
                .iter()
                .map(|name| one(format!("sluice.do.{name}"))),
        );
        if let Some(stage) = self.stage {
            grants.extend(own_work(stage));
        }
        let mut read: Vec<&str> = self.reads.iter().copied().chain(self.writes()).collect();
        if self.stage.is_some() {
            // Opening a bucket tells its keys, but no value.
            grants.extend(BUCKETS.map(|bucket| api(&format!("STREAM.INFO.KV_{}", bucket.name))));
            grants.insert(api(&format!("STREAM.INFO.OBJ_{REPORTS}")));
            read.extend(READ_BY_ALL);
        }
        for bucket in self.writes() {
            grants.insert(one(format!("$KV.{bucket}.>")));
        }
        for bucket in read {
            let stream = format!("KV_{bucket}");
            grants.extend(listing(&stream));
            grants.insert(api(&format!("DIRECT.GET.{stream}.>")));
        }
        if self.reports {
            grants.extend(storing(&format!("OBJ_{REPORTS}")));
            grants.insert(one(format!("$O.{REPORTS}.>")));
        }
        grants.extend(forgetting(self.forgets));
        for fact in self.last {
            grants.insert(api(&format!("DIRECT.GET.{EVENTS}.sluice.v1.{fact}.>")));
        }
        if let Some(stage) = self.stage.filter(|_| self.letters) {
            let part = format!("*.sluice.dead.{}", stage.name);
            grants.extend(named_listing(DEAD_LETTERS, &part));
        }
        if self.watches {
            grants.extend(watching());
        }
        let mut logged: Vec<&str> = self.log.then_some("sluice.v1.>").into_iter().collect();
        if let Some(stage) = self.stage.filter(|_| self.backlog) {
            logged.extend(stage.events);
        }
        let mut deny = Vec::new();
        for part in logged {
            grants.extend(named_listing(EVENTS, &format!("*.{part}")));
            deny = consumers_of_stages(EVENTS, self.name, self.watches);
        }
        if self.log {
            grants.extend(named_listing(PULLS, "*.sluice.v1.>"));
            deny.extend(consumers_of_stages(PULLS, self.name, self.watches));
        }
        if self.acknowledges {
            for stream in [EVENTS, PULLS] {
                let consumers = [format!("$JS.ACK.{stream}"), format!("$JS.ACK.*.*.{stream}")];
                for consumer in consumers {
                    grants.insert(one(format!("{consumer}.*.>")));
                    deny.extend(STAGES.map(|stage| format!("{consumer}.{}.>", stage.name)));
                }
            }
        }
        Rights {
            user: self.name,
            publish: without_covered(grants),
            deny,
            subscribe: inbox(self.name),
            tells: self
                .tells
                .iter()
                .map(|work| format!("{PROGRESS}{work}"))
                .collect(),
            hears: self.hears,
        }
    }

    pub(crate) fn writes(&self) -> impl Iterator<Item = &'static str> {
        let shared = TAG_OPERATION.iter().filter(|_| self.tags);
        self.writes.iter().chain(shared).copied()
    }
}

/// Returns what a stage does with its messages: take and settle them, put them off, bury them.
fn own_work(stage: &Stage) -> Vec<Grant> {
    let name = stage.name;
    let mut grants = vec![
        one(format!("sluice.dead.{name}")),
        // How its last search went.
        one(format!("$KV.reconciliations.{name}")),
    ];
    for (stream, _) in stage.sources() {
        grants.extend([
            api(&format!("CONSUMER.INFO.{stream}.{name}")),
            many(format!("{API}CONSUMER.MSG.NEXT.{stream}.{name}")),
            one(format!("$JS.ACK.{stream}.{name}.>")),
            // As newer servers write it, with a domain and an account.
            one(format!("$JS.ACK.*.*.{stream}.{name}.>")),
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
    grants.extend(stage.schedule_subjects().into_iter().map(one));
    grants.push(api(&format!("STREAM.MSG.GET.{schedules}")));
    grants.push(api(&format!("STREAM.PURGE.{schedules}")));
    grants
}

/// Returns what reading a whole stream takes: consumers that live for as long as the reading.
///
/// Only for streams that no stage consumes: a request that does not name the consumer in its subject may name it in its
/// body, and would replace that of a stage.
fn listing(stream: &str) -> Vec<Grant> {
    let mut grants = named_listing(stream, ">");
    grants.push(api(&format!("CONSUMER.CREATE.{stream}")));
    grants
}

/// Returns what reading part of a stream takes, by consumers that are named in the subject.
fn named_listing(stream: &str, part: &str) -> Vec<Grant> {
    vec![
        api(&format!("CONSUMER.CREATE.{stream}.{part}")),
        api(&format!("CONSUMER.INFO.{stream}.*")),
        api(&format!("CONSUMER.DELETE.{stream}.*")),
        many(format!("{API}CONSUMER.MSG.NEXT.{stream}.*")),
        one(format!("$JS.FC.{stream}.>")),
    ]
}

/// Returns what storing, reading and removing objects takes.
fn storing(stream: &str) -> Vec<Grant> {
    let mut grants = listing(stream);
    grants.extend([
        api(&format!("DIRECT.GET.{stream}.>")),
        api(&format!("STREAM.MSG.GET.{stream}")),
        api(&format!("STREAM.PURGE.{stream}")),
    ]);
    grants
}

/// Returns what reading the log and the dead letters takes, and looking how far behind the stages are and how full the
/// streams.
fn watching() -> Vec<Grant> {
    let mut grants = listing(DEAD_LETTERS);
    for stream in [EVENTS, PULLS, DEAD_LETTERS, WORK, AUDIT] {
        grants.push(api(&format!("STREAM.INFO.{stream}")));
    }
    for stage in STAGES {
        grants.push(api(&format!("STREAM.INFO.{}", stage.schedules)));
        // What waits for a later attempt, and for what.
        grants.push(api(&format!("STREAM.MSG.GET.{}", stage.schedules)));
        for (stream, _) in stage.sources() {
            grants.push(api(&format!("CONSUMER.INFO.{stream}.{}", stage.name)));
        }
    }
    grants
}

/// Returns what forgetting entries takes, and reports with them: no request that would write any.
fn forgetting(buckets: &[&str]) -> Vec<Grant> {
    let purge = |bucket: &&str| api(&format!("STREAM.PURGE.KV_{bucket}"));
    let mut grants: Vec<Grant> = buckets.iter().map(purge).collect();
    if !grants.is_empty() {
        let objects = format!("OBJ_{REPORTS}");
        grants.extend(named_listing(&objects, &format!("*.$O.{REPORTS}.M.>")));
        grants.push(api(&format!("STREAM.PURGE.{objects}")));
    }
    grants
}

/// Returns what would take messages away from other stages, or change how any gets them; or tell how far they are.
fn consumers_of_stages(stream: &str, own: &str, may_look: bool) -> Vec<String> {
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
            if !may_look {
                subjects.push(format!("{API}CONSUMER.INFO.{consumer}"));
            }
        }
    }
    subjects
}

/// Leaves out what another grant covers: a message that matches two would arrive twice.
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
