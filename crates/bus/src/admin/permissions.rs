//! The permissions of each user at NATS: the subjects that follow from the table of stages, from the topology and from the
//! publishers of the events.
//!
//! It knows nothing of servers and files; `server_config` writes the configuration.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sluice_domain::stages::Rights;
use sluice_events::Event;

use super::subscribers::Subscriber;
use crate::streams::subject_patterns::covers;
use crate::topology::{
    API, AUDIT, BUCKETS, COMMAND, DEAD_LETTER, DEAD_LETTERS, EVENTS, PROGRESS, PULLS, REPORTS,
    REPORTS_STREAM, STAGES, Stage, WORK, schedule_subjects_of, sources_of,
};

/// The user of the `sluice` command: it provisions, applies resources, saves and restores.
pub const ADMIN: &str = "admin";
/// The user that monitors the server and sees no message of Sluice.
pub const SYSTEM: &str = "system";
/// The user of programs that read any events, with consumers that they create.
pub const SUBSCRIBER: &str = "subscriber";

/// The buckets that every service reads: resources and pauses.
const READ_BY_ALL: [&str; 2] = ["resources", "control"];
/// A service with a user of its own.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    /// Its stage, with consumers, schedules and dead letters.
    pub(crate) stage: Option<&'static Stage>,
    pub(crate) rights: Rights,
}

/// The other programs that follow the events.
const SUBSCRIBERS: Service = Service {
    name: SUBSCRIBER,
    stage: None,
    rights: Rights {
        reads_events: true,
        acknowledges: true,
        ..Rights::NONE
    },
};

/// Returns every service: the stages, and the subscribers.
pub(crate) fn all_services() -> impl Iterator<Item = Service> {
    let of_stage = |stage: &'static Stage| Service {
        name: stage.name,
        stage: Some(stage),
        rights: stage.rights,
    };
    STAGES.into_iter().map(of_stage).chain([SUBSCRIBERS])
}

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
    pub(crate) user: String,
    pub(crate) publish: Vec<Grant>,
    /// The subjects that are denied although `publish` covers them.
    pub(crate) deny: Vec<String>,
    pub(crate) subscribe: String,
    /// The subjects of its progress messages, which its own account exports.
    pub(crate) publishes_progress: Vec<String>,
    /// Whether it reads the progress messages of others.
    pub(crate) reads_progress: bool,
}

impl Permissions {
    /// Returns the subjects that the user may subscribe to.
    pub(crate) fn subscriptions(&self) -> Vec<String> {
        let progress = self.reads_progress.then(|| format!("{PROGRESS}>"));
        [self.subscribe.clone()]
            .into_iter()
            .chain(progress)
            .collect()
    }
}

/// Returns the name of every user; each has a password of its own.
#[must_use]
pub fn users() -> Vec<&'static str> {
    let services = all_services().map(|service| service.name);
    services.chain([ADMIN, SYSTEM]).collect()
}

/// Returns the permissions of a user as the claims of a JWT have them, for one account with all users; nothing for a user
/// without any.
#[must_use]
pub fn claims(user: &str, subscribers: &[Subscriber]) -> Option<Value> {
    let all = services_and_subscribers(subscribers).into_iter();
    let mut all = all.chain([admin()]);
    let permissions = all.find(|permissions| permissions.user == user)?;
    let granted = permissions.publish.iter().map(|grant| &grant.subject);
    let allowed: Vec<_> = granted.chain(&permissions.publishes_progress).collect();
    Some(json!({
        "pub": { "allow": allowed, "deny": permissions.deny },
        "sub": { "allow": permissions.subscriptions() },
    }))
}

/// Returns the permissions of the `sluice` command.
pub(crate) fn admin() -> Permissions {
    Permissions {
        user: ADMIN.to_owned(),
        publish: ADMIN_SUBJECTS.into_iter().map(grant).collect(),
        deny: Vec::new(),
        subscribe: inbox(ADMIN),
        publishes_progress: Vec::new(),
        reads_progress: true,
    }
}

/// Returns the permissions of every service, none of which may use the consumers of subscribers, and of every subscriber.
pub(crate) fn services_and_subscribers(subscribers: &[Subscriber]) -> Vec<Permissions> {
    let services = all_services().map(|service| service.permissions(subscribers));
    services.chain(subscribers.iter().map(subscriber)).collect()
}

/// Returns the permissions of a subscriber: its own consumers, whose subjects it cannot change.
fn subscriber(subscriber: &Subscriber) -> Permissions {
    let user = subscriber.user();
    // Of both streams, so that it can find out where it has a consumer.
    let grants = [EVENTS, PULLS].map(|stream| consumer_grants(stream, &user));
    Permissions {
        publish: grants.into_iter().flatten().collect(),
        deny: Vec::new(),
        subscribe: inbox(&user),
        publishes_progress: Vec::new(),
        reads_progress: false,
        user,
    }
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
    fn permissions(&self, subscribers: &[Subscriber]) -> Permissions {
        let mut grants = BTreeSet::new();
        let facts = Event::TYPES.iter();
        let own = facts.filter(|fact| fact.publisher == self.name);
        grants.extend(own.map(|fact| grant(format!("sluice.v1.{}.>", fact.name))));
        grants.extend(
            self.rights
                .commands
                .iter()
                .map(|name| grant(format!("{COMMAND}{name}"))),
        );
        if let Some(stage) = self.stage {
            grants.extend(stage_grants(stage));
        }
        grants.extend(self.bucket_grants());
        if self.rights.stores_reports || self.rights.reads_reports {
            grants.extend(object_reading_grants(REPORTS_STREAM));
        }
        if self.rights.stores_reports {
            grants.insert(api(&format!("STREAM.PURGE.{REPORTS_STREAM}")));
            grants.insert(grant(format!("$O.{REPORTS}.>")));
        }
        grants.extend(purge_grants(self.rights.purges));
        for fact in self.rights.reads_last_events {
            grants.insert(api(&format!("DIRECT.GET.{EVENTS}.sluice.v1.{fact}.>")));
        }
        if let Some(stage) = self.stage.filter(|_| self.rights.reads_dead_letters) {
            let part = format!("*.sluice.dead.{}", stage.name);
            grants.extend(named_listing(DEAD_LETTERS, &part));
        }
        if self.rights.monitors {
            grants.extend(monitoring_grants());
        }
        let mut logged: Vec<&str> = self
            .rights
            .reads_events
            .then_some("sluice.v1.>")
            .into_iter()
            .collect();
        if let Some(stage) = self.stage.filter(|_| self.rights.reads_backlog) {
            logged.extend(stage.events);
        }
        let mut deny = Vec::new();
        for part in logged {
            grants.extend(named_listing(EVENTS, &format!("*.{part}")));
            deny = self.foreign_consumer_subjects(EVENTS, subscribers);
        }
        if self.rights.reads_events {
            grants.extend(named_listing(PULLS, "*.sluice.v1.>"));
            deny.extend(self.foreign_consumer_subjects(PULLS, subscribers));
        }
        if self.rights.acknowledges {
            for stream in [EVENTS, PULLS] {
                let consumers = [format!("$JS.ACK.{stream}"), format!("$JS.ACK._.*.{stream}")];
                for consumer in consumers {
                    grants.insert(grant(format!("{consumer}.*.>")));
                    let stages = STAGES.into_iter().map(|stage| stage.name.to_owned());
                    let others = stages.chain(subscribers.iter().map(Subscriber::user));
                    deny.extend(others.map(|other| format!("{consumer}.{other}.>")));
                }
            }
        }
        Permissions {
            user: self.name.to_owned(),
            publish: without_covered(grants),
            deny,
            subscribe: inbox(self.name),
            publishes_progress: self
                .rights
                .publishes_progress
                .iter()
                .map(|work| format!("{PROGRESS}{work}"))
                .collect(),
            reads_progress: self.rights.reads_progress,
        }
    }

    /// Returns the grants for reading and writing buckets.
    fn bucket_grants(&self) -> Vec<Grant> {
        let mut grants = Vec::new();
        let mut read: Vec<&str> = self
            .rights
            .reads
            .iter()
            .copied()
            .chain(self.rights.written_buckets())
            .collect();
        if self.stage.is_some() {
            // Opening a bucket shows its keys, but no value.
            grants.extend(BUCKETS.map(|bucket| api(&format!("STREAM.INFO.{}", bucket.stream))));
            grants.push(api(&format!("STREAM.INFO.OBJ_{REPORTS}")));
            read.extend(READ_BY_ALL);
        }
        for bucket in self.rights.written_buckets() {
            grants.push(grant(format!("$KV.{bucket}.>")));
        }
        for bucket in read {
            let stream = format!("KV_{bucket}");
            grants.extend(listing(&stream));
            grants.push(api(&format!("DIRECT.GET.{stream}.>")));
            // Of a bucket with replicas.
            grants.push(api(&format!("STREAM.MSG.GET.{stream}")));
        }
        grants
    }

    /// Returns the subjects by which it could pull the messages of other stages and of subscribers, change their
    /// consumers or those of its own stage, or read the position of others.
    fn foreign_consumer_subjects(
        &self,
        stream: &'static str,
        subscribers: &[Subscriber],
    ) -> Vec<String> {
        let consumes = |stage: &&Stage| sources_of(stage).iter().any(|(name, _)| *name == stream);
        let stages = STAGES.into_iter().filter(consumes);
        let stages = stages.map(|stage| (stage.name.to_owned(), self.rights.monitors));
        let subscribers = subscribers.iter().map(|one| (one.user(), false));
        let mut subjects = Vec::new();
        for (name, may_monitor) in stages.chain(subscribers) {
            let consumer = format!("{stream}.{name}");
            subjects.extend([
                format!("{API}CONSUMER.CREATE.{consumer}"),
                format!("{API}CONSUMER.CREATE.{consumer}.>"),
                format!("{API}CONSUMER.DELETE.{consumer}"),
            ]);
            if name != self.name {
                subjects.push(format!("{API}CONSUMER.MSG.NEXT.{consumer}"));
                if !may_monitor {
                    subjects.push(format!("{API}CONSUMER.INFO.{consumer}"));
                }
            }
        }
        subjects
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
    for (stream, _) in sources_of(stage) {
        grants.extend(consumer_grants(stream, name));
    }
    let schedules = stage.schedules;
    let pulls = (!stage.pulls.is_empty()).then_some(PULLS);
    for stream in [EVENTS, WORK, DEAD_LETTERS, schedules]
        .into_iter()
        .chain(pulls)
    {
        grants.push(api(&format!("STREAM.INFO.{stream}")));
    }
    grants.extend(schedule_subjects_of(stage).into_iter().map(grant));
    grants.push(api(&format!("STREAM.MSG.GET.{schedules}")));
    grants.push(api(&format!("STREAM.PURGE.{schedules}")));
    grants
}

/// Returns the grants for pulling and acknowledging the messages of a consumer that exists.
fn consumer_grants(stream: &str, consumer: &str) -> [Grant; 4] {
    [
        api(&format!("CONSUMER.INFO.{stream}.{consumer}")),
        streaming_grant(format!("{API}CONSUMER.MSG.NEXT.{stream}.{consumer}")),
        grant(format!("$JS.ACK.{stream}.{consumer}.>")),
        // The form of newer servers: a domain, `_` for none, and an account. With a wildcard for the domain it would be the
        // older form of any other consumer too.
        grant(format!("$JS.ACK._.*.{stream}.{consumer}.>")),
    ]
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

/// Returns the grants for reading objects.
fn object_reading_grants(stream: &str) -> Vec<Grant> {
    let mut grants = listing(stream);
    grants.extend([
        api(&format!("DIRECT.GET.{stream}.>")),
        api(&format!("STREAM.MSG.GET.{stream}")),
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
        for (stream, _) in sources_of(stage) {
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
        grants.extend(named_listing(
            REPORTS_STREAM,
            &format!("*.$O.{REPORTS}.M.>"),
        ));
        grants.push(api(&format!("STREAM.PURGE.{REPORTS_STREAM}")));
    }
    grants
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
