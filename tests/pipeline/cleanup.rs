//! What is known of what exists no longer is forgotten after its time, and only that.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sluice_bus::topology::PROMOTER;
use sluice_events::commands::Reconcile;
use sluice_events::time_to_wire;
use sluice_events::wire::state::{
    Decision, DecisionInput, DecisionOutcome, FormerReport, ImageChild, ImageEntry, Move, TagEntry,
    UpstreamPoll, UpstreamTag, Verdict, VerdictStatus,
};
use sluice_state::key;
use sluice_state::reconcile::{self, reason};
use sluice_tests::bus::digest;
use sluice_tests::registry_storage::Many;
use sluice_tests::{BusClient, Nats, Stack, pass, wait_for};

/// The image that `hub/gone:1.0` named until long ago, and what it consists of.
const GONE: [u8; 2] = [1, 2];
/// The image that `hub/recent:1.0` named until yesterday, and what it consists of.
const RECENT: [u8; 2] = [3, 4];
/// Reports: of the verdict, of the one before it, one that a decision cites, two that nothing cites, and the findings of
/// the first two.
const NEWEST: u8 = 10;
const FORMER: u8 = 11;
const CITED: u8 = 12;
const UNCITED: u8 = 13;
const UNCITED_TODAY: u8 = 14;
const FINDINGS: u8 = 15;
const FORMER_FINDINGS: u8 = 16;

/// What is known of a stack that has run for long.
pub(super) struct Past<'a> {
    bus: &'a BusClient,
    /// The image that is there still.
    there: String,
}

impl<'a> Past<'a> {
    /// Writes everything down.
    pub(super) fn of(stack: &Stack, bus: &'a BusClient) -> Self {
        // Nobody is told of it, so nobody writes down anything else.
        let many = Many::in_storage(stack.internal.storage(), 1);
        many.repository("hub/app", ["1.0".to_owned()], 0);
        let there = many.digest(0);
        let past = Self { bus, there };
        let (old, yesterday) = (days_ago(100), days_ago(1));
        past.tag("hub/app", "1.0", &past.there, "", old);
        past.image([&past.there, &past.there], old);
        past.verdict(&past.there, old);
        past.decision("hub/app", &past.there, Some(CITED), old);
        for (repository, [top, child], at) in
            [("hub/gone", GONE, old), ("hub/recent", RECENT, yesterday)]
        {
            past.tag(repository, "1.0", "", &digest(top), at);
            past.image([&digest(top), &digest(child)], old);
            past.verdict(&digest(child), old);
            past.decision(repository, &digest(top), None, at);
        }
        past.upstream(old);
        for (report, at) in [
            (NEWEST, old),
            (FORMER, old),
            (CITED, old),
            (UNCITED, old),
            (UNCITED_TODAY, Utc::now()),
            (FINDINGS, old),
            (FORMER_FINDINGS, old),
        ] {
            put_report(&stack.nats, &digest(report), at);
        }
        past
    }

    fn tag(&self, repository: &str, tag: &str, digest: &str, previous: &str, at: DateTime<Utc>) {
        let entry = TagEntry {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            digest: digest.to_owned(),
            previous: previous.to_owned(),
            generation: 2,
            arrived_at: Some(time_to_wire(at)),
            arrived_by: "mirror-worker".to_owned(),
            ..Default::default()
        };
        let key = key::tag(&repository.parse().unwrap(), &tag.parse().unwrap());
        self.bus.run(self.bus.state.tags.put(&key, &entry)).unwrap();
    }

    /// Writes what `hub/gone:1.0` was upstream, of a mirror that nobody applies any more.
    fn upstream(&self, at: DateTime<Utc>) {
        let moved = Move {
            digest: digest(GONE[0]),
            move_number: 1,
            at: Some(time_to_wire(at)),
        };
        let entry = UpstreamTag {
            mirror: "left".to_owned(),
            repository: "hub/gone".to_owned(),
            tag: "1.0".to_owned(),
            digest: digest(GONE[0]),
            move_number: 1,
            history: vec![moved],
            ..Default::default()
        };
        let key = key::upstream(&"left".parse().unwrap(), &"1.0".parse().unwrap());
        let upstream = &self.bus.state.upstream;
        self.bus.run(upstream.put(&key, &entry)).unwrap();
        let poll = UpstreamPoll {
            mirror: entry.mirror,
            polled_at: Some(time_to_wire(at)),
            ..Default::default()
        };
        let key = key::poll(&"left".parse().unwrap());
        self.bus.run(self.bus.state.polls.put(&key, &poll)).unwrap();
    }

    fn image(&self, [top, child]: [&str; 2], at: DateTime<Utc>) {
        let entry = ImageEntry {
            digest: top.to_owned(),
            children: vec![ImageChild {
                platform: "linux/amd64".to_owned(),
                digest: child.to_owned(),
                ..Default::default()
            }],
            described_at: Some(time_to_wire(at)),
            ..Default::default()
        };
        let key = key::image(&top.parse().unwrap());
        let images = &self.bus.state.images;
        self.bus.run(images.put(&key, &entry)).unwrap();
    }

    fn verdict(&self, digest_of: &str, at: DateTime<Utc>) {
        let verdict = Verdict {
            digest: digest_of.to_owned(),
            scanner: key::SCANNER.to_owned(),
            status: VerdictStatus::Unsupported.into(),
            scanned_at: Some(time_to_wire(at)),
            report_key: digest(NEWEST),
            findings_key: digest(FINDINGS),
            former_reports: vec![FormerReport {
                report_key: digest(FORMER),
                findings_key: digest(FORMER_FINDINGS),
                ..Default::default()
            }],
            ..Default::default()
        };
        let key = key::verdict(&digest_of.parse().unwrap());
        let verdicts = &self.bus.state.verdicts;
        self.bus.run(verdicts.put(&key, &verdict)).unwrap();
    }

    fn decision(&self, repository: &str, digest_of: &str, cites: Option<u8>, at: DateTime<Utc>) {
        let decision = Decision {
            policy: "clean".to_owned(),
            repository: repository.to_owned(),
            tag: "1.0".to_owned(),
            digest: digest_of.to_owned(),
            target: repository.replace("hub", "official"),
            target_tag: "1.0".to_owned(),
            outcome: DecisionOutcome::Deny.into(),
            decided_at: Some(time_to_wire(at)),
            published: true,
            inputs: vec![DecisionInput {
                digest: digest_of.to_owned(),
                report_key: cites.map(digest).unwrap_or_default(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let key = key::decision(
            &"clean".parse().unwrap(),
            &repository.parse().unwrap(),
            &"1.0".parse().unwrap(),
            &digest_of.parse().unwrap(),
        );
        let decisions = &self.bus.state.decisions;
        self.bus.run(decisions.put(&key, &decision)).unwrap();
    }

    /// Returns what is known, in words.
    fn known(&self) -> BTreeSet<String> {
        let state = &self.bus.state;
        let mut known = BTreeSet::new();
        let named = |digest_of: &str| {
            let number = digest_of[7..9].to_owned();
            if digest_of == self.there {
                "there".to_owned()
            } else {
                number
            }
        };
        self.bus.run(async {
            for entry in state.tags.list(">").await.unwrap() {
                known.insert(format!(
                    "tag {}:{}",
                    entry.value.repository, entry.value.tag
                ));
            }
            for entry in state.upstream.list("*.*").await.unwrap() {
                known.insert(format!("upstream {}", entry.value.mirror));
            }
            for entry in state.polls.list("*").await.unwrap() {
                known.insert(format!("poll {}", entry.value.mirror));
            }
            for entry in state.decisions.list(">").await.unwrap() {
                known.insert(format!("decision {}", entry.value.repository));
            }
            for entry in state.images.list(">").await.unwrap() {
                known.insert(format!("image {}", named(&entry.value.digest)));
            }
            for entry in state.verdicts.list(">").await.unwrap() {
                known.insert(format!("verdict {}", named(&entry.value.digest)));
            }
            let reports = state.reports.for_each(|object| {
                known.insert(format!("report {}", &object.name[7..9]));
                std::ops::ControlFlow::Continue(())
            });
            reports.await.unwrap();
        });
        known
    }

    /// Asserts that what there was is known, but for this.
    pub(super) fn is_known_but_for(&self, forgotten: &[&str]) {
        let mut all = BTreeSet::from(ALL.map(str::to_owned));
        for one in forgotten {
            assert!(all.remove(*one), "{one} was not known");
        }
        assert_eq!(self.known(), all);
    }

    /// Asks for a cleanup from one of its steps on.
    fn ask_from(&self, step: u64) {
        self.bus.command(Reconcile {
            scan: step,
            run: format!("test-{step}"),
            ..reconcile::command(&PROMOTER, reason::CLEANUP)
        });
    }

    /// Asks for a cleanup.
    pub(super) fn ask(&self) {
        self.ask_from(0);
    }

    /// Waits until a cleanup has ended.
    pub(super) fn until_clean(&self) {
        wait_for("the cleanup to end", 60, || {
            self.bus
                .run(self.bus.state.cleanups.get(key::CLEANUP))
                .unwrap()
        });
    }
}

/// Everything that is known at first.
const ALL: [&str; 21] = [
    "tag hub/app:1.0",
    "tag hub/gone:1.0",
    "tag hub/recent:1.0",
    "upstream left",
    "poll left",
    "decision hub/app",
    "decision hub/gone",
    "decision hub/recent",
    "image there",
    "image 01",
    "image 03",
    "verdict there",
    "verdict 02",
    "verdict 04",
    "report 0a",
    "report 0b",
    "report 0c",
    "report 0d",
    "report 0e",
    "report 0f",
    "report 10",
];
/// What goes of that.
pub(super) const FORGOTTEN: [&str; 7] = [
    "tag hub/gone:1.0",
    "upstream left",
    "poll left",
    "decision hub/gone",
    "image 01",
    "verdict 02",
    "report 0d",
];

fn days_ago(days: i64) -> DateTime<Utc> {
    Utc::now() - TimeDelta::days(days)
}

/// Stores an empty report, as if that had been then.
fn put_report(nats: &Nats, name: &str, at: DateTime<Utc>) {
    let body = json!({
        "name": name, "bucket": "reports", "nuid": name[7..].to_owned(), "mtime": at.to_rfc3339(),
    });
    let subject = format!("$O.reports.M.{}", base64url(name.as_bytes()));
    nats.publish_raw(&subject, &[], &body.to_string());
}

fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(word);
        for place in 0..4 {
            let letter = LETTERS[usize::try_from(word >> (18 - 6 * place) & 63).unwrap()];
            text.push(if place > chunk.len() {
                '='
            } else {
                char::from(letter)
            });
        }
    }
    text
}

#[test]
fn what_exists_no_longer_is_forgotten_after_its_time_and_nothing_else() {
    let mut stack = Stack::start(7_200);
    let promoter = stack.service("promoter", &[]);
    let bus = stack.bus();
    let past = Past::of(&stack, &bus);
    past.is_known_but_for(&[]);
    past.ask();
    past.until_clean();
    past.is_known_but_for(&FORGOTTEN);
    let metrics = stack.metrics("promoter", promoter);
    let kinds = [("decision", 1), ("tag", 1), ("upstream", 2)];
    for (kind, count) in kinds
        .into_iter()
        .chain([("image", 1), ("verdict", 1), ("report", 1)])
    {
        let line = metrics.lines().find(|line| {
            line.starts_with("sluice_state_removed_total") && line.contains(&format!("\"{kind}\""))
        });
        assert!(line.unwrap().ends_with(&format!(" {count}")), "{line:?}");
    }
    assert!(
        metrics.contains("sluice_state_entries{kind=\"report\"} 6"),
        "{metrics}"
    );
}

#[test]
fn nothing_is_forgotten_before_its_time() {
    let mut stack = Stack::start(7_200);
    stack.service(
        "promoter",
        &[("SLUICE__PROMOTER__FORGET_AFTER_DAYS", "101")],
    );
    let bus = stack.bus();
    let past = Past::of(&stack, &bus);
    past.ask();
    past.until_clean();
    past.is_known_but_for(&[]);
}

#[test]
fn a_registry_that_does_not_answer_lets_everything_stay() {
    let mut stack = Stack::start(7_200);
    let bus = stack.bus();
    let past = Past::of(&stack, &bus);
    stack.internal.stop();
    stack.service("promoter", &[]);
    // Each step by itself, so that none of them hides behind the first.
    for step in 0..5 {
        past.ask_from(step);
    }
    wait_for("every step to wait", 60, || {
        let status = bus.run(bus.bus.stage_status()).unwrap();
        let waits = status.iter().filter(|one| one.stage == "promoter");
        (waits.map(|one| one.later).sum::<u64>() >= 5).then_some(())
    });
    // Whether there is a mirror its resource says, and no registry.
    past.is_known_but_for(&["poll left"]);
    stack.internal.restart();
    wait_for("everything to be forgotten", 90, || {
        (past.known().len() == ALL.len() - FORGOTTEN.len()).then_some(())
    });
    past.is_known_but_for(&FORGOTTEN);
}

#[test]
fn a_registry_that_does_not_list_what_there_is_lets_images_and_verdicts_stay() {
    let mut stack = Stack::start(7_200);
    stack.service("promoter", &[]);
    let bus = stack.bus();
    let past = Past::of(&stack, &bus);
    // Its entry says that it is there.
    past.tag("hub/app2", "1.0", &past.there, "", days_ago(100));
    past.ask();
    past.until_clean();
    let known = past.known();
    for stays in ["image 01", "verdict 02"] {
        assert!(known.contains(stays), "{known:?}");
    }
    for goes in ["tag hub/gone:1.0", "decision hub/gone", "upstream left"] {
        assert!(!known.contains(goes), "{known:?}");
    }
}

#[test]
fn what_came_back_stays() {
    let mut stack = Stack::start(7_200);
    stack.service("promoter", &[]);
    let bus = stack.bus();
    let past = Past::of(&stack, &bus);
    past.tag("hub/app", "again", &digest(GONE[0]), "", Utc::now());
    past.ask();
    past.until_clean();
    let known = past.known();
    for stays in ["image 01", "verdict 02", "tag hub/app:again"] {
        assert!(known.contains(stays), "{known:?}");
    }
    assert!(!known.contains("decision hub/gone"), "{known:?}");
}

#[test]
fn a_tag_that_retention_removed_is_remembered_while_its_mirror_selects_it() {
    let mut stack = Stack::start(7_200);
    let mirror = stack.mirror("left", "library/gone", "hub/gone", "every: 24h\n");
    stack.apply(&format!("{}{mirror}", stack.upstream_resource()));
    stack.service("promoter", &[]);
    let bus = stack.bus();
    let past = Past::of(&stack, &bus);
    past.ask();
    past.until_clean();
    let known = past.known();
    for stays in [
        "tag hub/gone:1.0",
        "upstream left",
        "poll left",
        "image 01",
        "verdict 02",
    ] {
        assert!(known.contains(stays), "{known:?}");
    }
}

#[test]
fn nothing_is_forgotten_during_a_pause() {
    let mut stack = Stack::start(7_200);
    stack.may_leave_messages();
    stack.service("promoter", &[]);
    let bus = stack.bus();
    let past = Past::of(&stack, &bus);
    stack.sluice(&["pause", "test"]);
    past.ask();
    pass(std::time::Duration::from_secs(2));
    past.is_known_but_for(&[]);
    stack.sluice(&["resume"]);
    past.until_clean();
    past.is_known_but_for(&FORGOTTEN);
}
