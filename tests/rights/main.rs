//! What each user may do at NATS, subject by subject, on a real server with the configuration of an installation.
//!
//! The tables here are written from the services' rows in the architecture, and not from the code that grants.

mod confused_deputy;
mod credentials;
mod denied;
mod operator;
mod raw;
mod rotation;
mod subscribers;
mod tables;
mod tls;

use std::fs;
use std::path::PathBuf;

use sluice_bus::permissions::users;
use sluice_bus::{Bus, ProvisionOptions};
use sluice_gateway::KeyFolder;
use sluice_service::BusSettings;
use sluice_tests::Nats;
use tempfile::TempDir;

use crate::operator::Operator;
use crate::raw::Raw;
use crate::tables::{COMMANDS, READERS, SERVICES, WRITERS, buckets, publishers, streams};

/// A server with its users, and nobody else.
struct Scene {
    nats: Nats,
    keys: KeyFolder,
    folder: TempDir,
    operator: Option<Operator>,
}

impl Scene {
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// A server whose keys are changed before it starts.
    fn with(change: impl FnOnce(&KeyFolder)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::at(folder.path().join("keys"));
        keys.create().unwrap();
        change(&keys);
        let nats = Nats::configured(&keys, None, str::to_owned);
        let scene = Self {
            nats,
            keys,
            folder,
            operator: None,
        };
        scene.provision();
        scene
    }

    /// Makes one in which the users have JWTs of an operator, in one account.
    fn with_operator() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::at(folder.path().join("keys"));
        keys.create().unwrap();
        let operator = Operator::new();
        let config = operator.config(&[]);
        let nats = Nats::configured(&keys, None, |before| operator::configured(before, &config));
        for user in users().into_iter().filter(|user| *user != "system") {
            let file = folder.path().join(format!("{user}.creds"));
            fs::write(file, operator.issue(user).file()).unwrap();
        }
        let scene = Self {
            nats,
            keys,
            folder,
            operator: Some(operator),
        };
        scene.provision();
        scene
    }

    fn provision(&self) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let bus = Bus::connect(&self.settings("admin"), "test").await.unwrap();
            bus.provision(ProvisionOptions::default()).await.unwrap();
        });
    }

    fn credentials(&self, user: &str) -> PathBuf {
        self.folder.path().join(format!("{user}.creds"))
    }

    fn settings(&self, user: &str) -> BusSettings {
        let with_password = BusSettings {
            url: self.nats.url.clone(),
            user: user.to_owned(),
            password_file: Some(self.keys.nats_password(user)),
            credentials_file: None,
            ca_file: None,
            allow_plain_text: false,
        };
        match self.operator {
            None => with_password,
            Some(_) => BusSettings {
                user: String::new(),
                password_file: None,
                credentials_file: Some(self.credentials(user)),
                ..with_password
            },
        }
    }

    fn user(&self, name: &str) -> Raw {
        if let Some(operator) = &self.operator {
            return Raw::issued(&self.nats.url, name, &operator.issue(name));
        }
        Raw::service(&self.nats.url, name, &self.keys.nats_password(name))
    }

    /// Tries one subject as every service and as the command.
    fn each(&self, subject: &str, allowed: &[&str]) {
        self.each_of(std::slice::from_ref(&subject.to_owned()), |_| {
            allowed.to_vec()
        });
    }

    /// Tries many subjects as every service and as the command; `allowed` says who may.
    fn each_of<'a>(&self, subjects: &[String], allowed: impl Fn(&str) -> Vec<&'a str>) {
        let mut wrong = Vec::new();
        for user in SERVICES.into_iter().chain(["subscriber", "admin"]) {
            let mut raw = self.user(user);
            for subject in subjects {
                let may = allowed(subject).contains(&user);
                match raw.publish(subject, "") {
                    None if may => {}
                    Some(refusal) if !may => {
                        // It names what was refused; a request by the name that the account knows it by.
                        let named = subject.replace("$JS.API.", "sluice.api.");
                        let told = refusal.contains(subject.as_str()) || refusal.contains(&named);
                        assert!(told, "{user} on `{subject}`: {refusal}");
                    }
                    None => wrong.push(format!("{user} may publish on `{subject}`")),
                    Some(refusal) => wrong.push(format!("{user} may not: {refusal}")),
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

#[test]
fn nobody_gets_in_without_the_password_of_a_user() {
    let scene = Scene::new();
    let url = &scene.nats.url;
    for (user, password) in [
        ("", ""),
        ("poller", "wrong"),
        ("test", "test"),
        ("sluice", ""),
    ] {
        let refusal = Raw::login(url, user, password).err();
        assert!(
            refusal.unwrap().contains("Authorization Violation"),
            "{user}"
        );
    }
    let of_another = std::fs::read_to_string(scene.keys.nats_password("promoter")).unwrap();
    assert!(Raw::login(url, "poller", of_another.trim()).is_err());
    for user in users() {
        scene.user(user);
    }
}

#[test]
fn each_fact_is_published_by_its_one_service() {
    check_facts(&Scene::new());
}

#[test]
fn with_an_operator_each_fact_is_published_by_its_one_service() {
    check_facts(&Scene::with_operator());
}

fn check_facts(scene: &Scene) {
    for fact in sluice_events::Event::TYPES.iter().map(|fact| fact.name) {
        let mut allowed = publishers(fact);
        let [owner] = allowed[..] else {
            panic!("{fact} is published by {allowed:?}");
        };
        let subject = format!("sluice.v1.{fact}.hub.a");
        // The command stores resources as the gateway does.
        if fact == "resource.applied" {
            allowed.push("admin");
        }
        scene.each(&subject, &allowed);
        let arrived = scene.user(owner).ask(&subject, &[], "x").unwrap();
        let stream = if fact.ends_with(".pulled") {
            "PULLS"
        } else {
            "EVENTS"
        };
        assert!(
            arrived.body.contains(&format!("\"stream\":\"{stream}\"")),
            "{owner}: {}",
            arrived.body
        );
    }
    for subject in [
        "sluice.v1.scan",
        "sluice.v1.x",
        "sluice.v1.scan.succeeded",
        "sluice.v1.upstream.x.y.z",
    ] {
        scene.each(subject, &[]);
    }
}

#[test]
fn each_command_is_given_by_its_stage_or_for_a_person() {
    check_commands(&Scene::new());
}

#[test]
fn with_an_operator_each_command_is_given_by_its_stage_or_for_a_person() {
    check_commands(&Scene::with_operator());
}

fn check_commands(scene: &Scene) {
    let all: Vec<_> = COMMANDS
        .iter()
        .map(|(subject, _)| (*subject).to_owned())
        .collect();
    scene.each_of(&all, |subject| {
        let (_, givers) = COMMANDS.iter().find(|(name, _)| *name == subject).unwrap();
        givers.iter().copied().chain(["admin"]).collect()
    });
    for stage in SERVICES {
        scene.each(&format!("sluice.do.redrive.{stage}"), &["admin"]);
        scene.each(
            &format!("sluice.do.reconcile.{stage}"),
            &[stage, "gateway", "admin"],
        );
        scene.each(&format!("sluice.dead.{stage}"), &[stage]);
        scene.each(&format!("sluice.schedule.retry.{stage}.EVENTS.1"), &[stage]);
        scene.each(&format!("sluice.due.retry.{stage}"), &[]);
    }
    for (topic, owner) in [
        ("poll.a", "poller"),
        ("judge.a.b.c", "promoter"),
        ("prune.a", "pruner"),
    ] {
        scene.each(&format!("sluice.schedule.{topic}"), &[owner]);
        scene.each(&format!("sluice.due.{topic}"), &[]);
    }
}

#[test]
fn the_mirror_worker_alone_tells_how_a_copy_goes_on_and_people_alone_hear_it() {
    let scene = Scene::new();
    scene.each("sluice.progress.mirror.hub.a", &["mirror-worker"]);
    scene.each("sluice.progress.x", &[]);
    for user in SERVICES.into_iter().chain(["admin"]) {
        let refused = scene.user(user).subscribe("sluice.progress.>").is_some();
        assert_eq!(refused, !["admin", "gateway"].contains(&user), "{user}");
    }
    for user in ["gateway", "admin"] {
        let heard = scene.user(user).listen("sluice.progress.>", |hears| {
            // Its subscription is settled when this has been refused.
            assert!(hears.publish("sluice.x", "").is_some());
            let mut worker = scene.user("mirror-worker");
            let said = worker.publish("sluice.progress.mirror.hub.a", "half of it");
            assert_eq!(said, None);
        });
        assert_eq!(heard.body, "half of it", "{user}");
    }
}

#[test]
fn each_bucket_is_written_by_its_owner_and_read_by_who_needs_it() {
    check_buckets(&Scene::new());
}

#[test]
fn with_an_operator_each_bucket_is_written_by_its_owner_and_read_by_who_needs_it() {
    check_buckets(&Scene::with_operator());
}

fn check_buckets(scene: &Scene) {
    for bucket in buckets() {
        let row = |table: &[(&str, &'static [&'static str])]| {
            let row = table.iter().find(|(name, _)| *name == bucket);
            row.map(|(_, users)| users.to_vec()).unwrap_or_default()
        };
        let (writers, readers) = (row(&WRITERS), row(&READERS));
        for key in ["k", "a.b.c"] {
            scene.each(&format!("$KV.{bucket}.{key}"), &writers);
        }
        let readers: Vec<_> = readers
            .into_iter()
            .chain(writers.iter().copied())
            .chain(["admin"])
            .collect();
        for request in [
            format!("DIRECT.GET.KV_{bucket}.$KV.{bucket}.k"),
            format!("STREAM.MSG.GET.KV_{bucket}"),
            format!("CONSUMER.CREATE.KV_{bucket}"),
            format!("CONSUMER.CREATE.KV_{bucket}.x.$KV.{bucket}.>"),
            format!("CONSUMER.MSG.NEXT.KV_{bucket}.x"),
        ] {
            scene.each(&format!("$JS.API.{request}"), &readers);
        }
        scene.each(&format!("$JS.API.DIRECT.GET.KV_{bucket}"), &["admin"]);
        for writer in writers.iter().filter(|writer| **writer != "admin") {
            let arrived = scene
                .user(writer)
                .ask(&format!("$KV.{bucket}.k"), &[], "x")
                .unwrap();
            assert!(
                arrived
                    .body
                    .contains(&format!("\"stream\":\"KV_{bucket}\"")),
                "{}",
                arrived.body
            );
        }
    }
    for service in SERVICES {
        scene.each(&format!("$KV.reconciliations.{service}"), &[service]);
    }
    let reports = ["scanner-adapter"];
    scene.each("$O.reports.C.x", &reports);
    scene.each("$O.reports.M.x", &reports);
    let readers = ["scanner-adapter", "gateway", "admin"];
    // The promoter forgets what exists no longer, without a right to read or write any of it.
    let forgets = ["scanner-adapter", "promoter", "admin"];
    scene.each("$JS.API.STREAM.PURGE.OBJ_reports", &forgets);
    scene.each("$JS.API.DIRECT.GET.OBJ_reports.$O.reports.M.x", &readers);
}

/// The requests by which the promoter forgets what exists no longer.
const FORGOTTEN: [&str; 6] = [
    ".PURGE.KV_decisions",
    ".PURGE.KV_images",
    ".PURGE.KV_tags",
    ".PURGE.KV_upstream",
    ".PURGE.KV_verdicts",
    ".PURGE.OBJ_reports",
];

#[test]
fn no_service_makes_changes_empties_or_removes_a_stream_but_its_own_timers() {
    check_streams(&Scene::new());
}

#[test]
fn with_an_operator_no_service_makes_changes_empties_or_removes_a_stream_but_its_own_timers() {
    check_streams(&Scene::with_operator());
}

fn check_streams(scene: &Scene) {
    let mut subjects = Vec::new();
    for stream in streams() {
        for verb in [
            "CREATE",
            "UPDATE",
            "DELETE",
            "PURGE",
            "MSG.DELETE",
            "SNAPSHOT",
            "RESTORE",
            "LEADER.STEPDOWN",
        ] {
            subjects.push(format!("$JS.API.STREAM.{verb}.{stream}"));
        }
    }
    for request in [
        "INFO",
        "STREAM.NAMES",
        "STREAM.LIST",
        "STREAM.CREATE.NEW",
        "META.LEADER.STEPDOWN",
    ] {
        subjects.push(format!("$JS.API.{request}"));
    }
    // The command would carry it out; it is tried on nothing that is there.
    let mut wrong = Vec::new();
    for service in SERVICES {
        let mut raw = scene.user(service);
        for subject in &subjects {
            let own = subject == &format!("$JS.API.STREAM.PURGE.SCHEDULES_{service}");
            let reports =
                service == "scanner-adapter" && subject == "$JS.API.STREAM.PURGE.OBJ_reports";
            let forgets =
                service == "promoter" && FORGOTTEN.iter().any(|one| subject.ends_with(one));
            if raw.publish(subject, "").is_none() != (own || reports || forgets) {
                wrong.push(format!("{service}: {subject}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for verb in ["CREATE", "UPDATE", "DELETE", "PURGE", "SNAPSHOT", "RESTORE"] {
        assert_eq!(
            scene
                .user("admin")
                .publish(&format!("$JS.API.STREAM.{verb}.NONE"), ""),
            None
        );
    }
}

#[test]
fn no_service_touches_the_consumer_of_another() {
    check_consumers(&Scene::new());
}

#[test]
fn with_an_operator_no_service_touches_the_consumer_of_another() {
    check_consumers(&Scene::with_operator());
}

fn check_consumers(scene: &Scene) {
    for stage in SERVICES {
        for stream in tables::consumes(stage) {
            let consumer = format!("{stream}.{stage}");
            let api = |request: &str| format!("$JS.API.CONSUMER.{request}.{consumer}");
            scene.each(&api("INFO"), &[stage, "gateway", "admin"]);
            scene.each(&api("MSG.NEXT"), &[stage, "admin"]);
            scene.each(&format!("$JS.ACK.{consumer}.1.2.3.4.5"), &[stage]);
            scene.each(&format!("$JS.ACK._.hash.{consumer}.1.2.3.4.5"), &[stage]);
            // The server takes this for an acknowledgement of the promoter's consumer, whatever follows.
            scene.each(
                &format!("$JS.ACK.WORK.promoter.{consumer}.1.2.3"),
                &["promoter"],
            );
            for request in [
                "CREATE",
                "DURABLE.CREATE",
                "PAUSE",
                "UNPIN",
                "LEADER.STEPDOWN",
            ] {
                scene.each(&api(request), &["admin"]);
            }
            scene.each(&format!("{}.sluice.v1.>", api("CREATE")), &["admin"]);
            let mut wrong = Vec::new();
            for service in SERVICES {
                if scene.user(service).publish(&api("DELETE"), "").is_none() {
                    wrong.push(service);
                }
            }
            assert!(wrong.is_empty(), "{wrong:?} may delete {consumer}");
        }
    }
}

#[test]
fn the_gateway_reads_the_status_while_every_stage_waits_with_something() {
    let scene = Scene::new();
    for stage in SERVICES {
        let subject = format!("sluice.schedule.retry.{stage}.EVENTS.1");
        assert_eq!(scene.user(stage).publish(&subject, ""), None);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let status = runtime.block_on(async {
        let bus = Bus::connect(&scene.settings("gateway"), "test").await;
        bus.unwrap().stage_status().await.unwrap()
    });
    for stage in SERVICES {
        let later = status.iter().filter(|row| row.stage == stage);
        assert_eq!(later.map(|row| row.later).sum::<u64>(), 1, "{stage}");
    }
}

#[test]
fn a_subscriber_reads_the_events_and_takes_none_from_a_stage() {
    let scene = Scene::new();
    for (subject, may) in [
        (
            "$JS.API.CONSUMER.CREATE.EVENTS.mine.sluice.v1.image.promoted.>",
            true,
        ),
        ("$JS.API.CONSUMER.MSG.NEXT.EVENTS.mine", true),
        ("$JS.ACK.EVENTS.mine.1.2.3.4.5", true),
        ("$JS.API.CONSUMER.CREATE.EVENTS.promoter.sluice.v1.>", false),
        ("$JS.API.CONSUMER.MSG.NEXT.EVENTS.promoter", false),
        ("$JS.API.CONSUMER.DELETE.EVENTS.promoter", false),
        ("$JS.ACK.EVENTS.promoter.1.2.3.4.5", false),
        ("$JS.API.CONSUMER.CREATE.WORK.mine.sluice.do.>", false),
        ("$JS.API.CONSUMER.CREATE.EVENTS", false),
        ("sluice.v1.image.promoted.official.a", false),
        ("$KV.decisions.a", false),
    ] {
        let refused = scene.user("subscriber").publish(subject, "").is_some();
        assert_eq!(refused, !may, "{subject}");
    }
}

#[test]
fn nobody_listens_where_others_speak() {
    let scene = Scene::new();
    for user in users() {
        let mut raw = scene.user(user);
        let mut subjects = vec![
            "$JS.ACK.>".to_owned(),
            "_INBOX.>".to_owned(),
            "_R_.>".to_owned(),
        ];
        if user != "system" {
            let everything = [
                ">",
                "*",
                "sluice.>",
                "sluice.v1.>",
                "$KV.>",
                "$O.>",
                "$JS.>",
                "$SYS.>",
                "_INBOX_*.>",
            ];
            subjects.extend(everything.map(str::to_owned));
            subjects.extend(
                users()
                    .iter()
                    .filter(|other| **other != user)
                    .map(|other| format!("_INBOX_{other}.>")),
            );
            assert_eq!(raw.subscribe(&format!("_INBOX_{user}.x.*")), None, "{user}");
            for subject in subjects {
                assert!(
                    raw.subscribe(&subject).is_some(),
                    "{user} hears `{subject}`"
                );
            }
        }
    }
}
