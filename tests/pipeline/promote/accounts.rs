//! What one service alone could do with its accounts at NATS and at the registry, if somebody else had them: nothing that
//! brings a refused image into a target, and nothing that keeps one there.
//!
//! Two may do more by their nature. The scanner says what is vulnerable, so it is tried with everything but verdicts; the
//! gateway applies resources and issues the registry's tokens, so it is tried with everything but resources.

use sluice_domain::SeverityCounts;
use sluice_events::commands::{JudgeImage, ScanImage};
use sluice_events::facts::{ScanSucceeded, TagPushed};
use sluice_events::wire::state::{
    Claim, Control, Decision, DecisionOutcome, ImageChild, ImageEntry, Promotion, Resource,
    TagEntry, UpstreamTag, Verdict, VerdictStatus,
};
use sluice_events::{Command, Event, time_to_wire};
use sluice_state::{Stored, key};
use sluice_tests::{BusClient, Image, Upstream, wait_for};

use super::CLEAN_TO_OFFICIAL;
use super::scene::{CLEAN, Scan, Scene};

/// Somebody who has the accounts of a service, and no others.
struct Intruder {
    service: &'static str,
    bus: BusClient,
    registry: Upstream,
}

impl Intruder {
    fn new(scene: &Scene, service: &'static str) -> Self {
        let password = scene.stack.keys.nats_password(service);
        let has_account = scene.stack.keys.password(service).exists();
        Self {
            service,
            bus: BusClient::of_user(&scene.stack.nats.url, service, password),
            registry: if has_account {
                scene.stack.as_service(service)
            } else {
                scene.stack.anonymous()
            },
        }
    }

    /// Writes an entry, if it may.
    fn entry<R: Stored>(&self, entries: &sluice_state::Entries<R>, key: &str, value: &R) -> bool {
        self.bus.run(entries.put(key, value)).is_ok()
    }

    /// Says of an image that it consists of something else.
    fn describe(&self, image: &Image, children: Vec<ImageChild>) -> bool {
        let entry = ImageEntry {
            digest: image.digest.clone(),
            media_type: image.media_type.to_owned(),
            children,
            ..Default::default()
        };
        let key = key::image(&image.digest.parse().unwrap());
        self.entry(&self.bus.state.images, &key, &entry)
    }

    /// Says of a tag that it names an image and where that came from.
    fn tag(&self, repository: &str, tag: &str, change: impl FnOnce(&mut TagEntry)) -> bool {
        let key = key::tag(&repository.parse().unwrap(), &tag.parse().unwrap());
        let before = self.bus.run(self.bus.state.tags.get(&key)).ok().flatten();
        let mut entry = before.map(|entry| entry.value).unwrap_or_default();
        entry.repository = repository.to_owned();
        entry.tag = tag.to_owned();
        change(&mut entry);
        self.entry(&self.bus.state.tags, &key, &entry)
    }

    /// Tries to have a refused image promoted, in every way that anything but the gate itself could.
    fn open_the_gate(&self, refused: &Image, clean: &Image) {
        let state = &self.bus.state;
        let child = |image: &Image| ImageChild {
            digest: image.digest.clone(),
            platform: "linux/amd64".to_owned(),
            ..Default::default()
        };
        let statement = ImageChild {
            attestation: true,
            ..child(refused)
        };
        self.describe(refused, vec![child(clean), statement]);
        let promotion = Promotion {
            policy: "clean".to_owned(),
            repository: "hub/app".to_owned(),
            tag: "1.0".to_owned(),
            decided_at: Some(time_to_wire(chrono::Utc::now())),
        };
        self.tag("official/app", "1.0", |entry| {
            entry.digest.clone_from(&refused.digest);
            entry.promoted_from = Some(promotion);
        });
        let digest = refused.digest.parse().unwrap();
        let (repository, tag) = ("hub/app".parse().unwrap(), "1.0".parse().unwrap());
        if self.service != "scanner-adapter" {
            let verdict = Verdict {
                digest: refused.digest.clone(),
                status: VerdictStatus::Covered.into(),
                counts: Some(sluice_events::wire::events::SeverityCounts::default()),
                packages: 12,
                ..Default::default()
            };
            assert!(!self.entry(&state.verdicts, &key::verdict(&digest), &verdict));
        }
        let name = "clean".parse().unwrap();
        let decision = Decision {
            policy: "clean".to_owned(),
            repository: "hub/app".to_owned(),
            tag: "1.0".to_owned(),
            digest: refused.digest.clone(),
            target: "official/app".to_owned(),
            target_tag: "1.0".to_owned(),
            outcome: DecisionOutcome::Allow.into(),
            ..Default::default()
        };
        let decided = key::decision(&name, &repository, &tag, &digest);
        assert!(!self.entry(&state.decisions, &decided, &decision));
        assert!(!self.entry(&state.control, "control", &Control::default()));
        if self.service != "gateway" {
            let policy = Resource {
                kind: "PromotionPolicy".to_owned(),
                name: "all".to_owned(),
                json: r#"{"name":"all","from":"hub/*","to":"official/{name}","when":"true"}"#
                    .to_owned(),
                ..Default::default()
            };
            let all = key::resource("PromotionPolicy", &"all".parse().unwrap());
            assert!(!self.entry(&state.resources, &all, &policy));
        }
        let upstream = key::upstream(&"none".parse().unwrap(), &tag);
        let wrote = self.entry(&state.upstream, &upstream, &UpstreamTag::default());
        assert_eq!(wrote, self.service == "poller");
        let scanned = ScanSucceeded {
            repository: repository.clone(),
            tag: Some(tag.clone()),
            digest: digest.clone(),
            scanner: key::SCANNER.parse().unwrap(),
            scanner_version: "1".to_owned(),
            database_version: "database 7".to_owned(),
            counts: SeverityCounts::default(),
            children: Vec::new(),
        };
        let pushed = TagPushed {
            registry: "registry.internal".parse().unwrap(),
            repository: "official/app".parse().unwrap(),
            tag: tag.clone(),
            digest: digest.clone(),
            media_type: String::new(),
            size_bytes: 0,
            actor: "promoter".to_owned(),
            at: chrono::Utc::now(),
        };
        for event in [Event::from(scanned), pushed.into()] {
            self.bus.try_publish(&event);
        }
        let judge = JudgeImage {
            repository: repository.clone(),
            tag: tag.clone(),
            digest: digest.clone(),
        };
        let scan = ScanImage {
            repository,
            tag: Some(tag),
            digest,
        };
        for command in [Command::from(judge), scan.into()] {
            self.bus.try_command(&command);
        }
        assert_eq!(self.registry.try_upload("official/app"), 401);
        for reference in ["1.0", "2.0", &refused.digest] {
            assert_eq!(
                self.registry.try_put("official/app", reference, refused),
                401
            );
        }
        assert_eq!(self.registry.try_delete("official/app", &clean.digest), 401);
    }

    /// Tries to keep a promoted image in its target, whatever is found in it.
    fn hold_up_recall(&self, promoted: &Image) {
        self.describe(promoted, Vec::new());
        // As if the policy had brought it to its source, and as if it had brought nothing to the target.
        let own = Promotion {
            policy: "clean".to_owned(),
            repository: "hub/other".to_owned(),
            tag: "1.0".to_owned(),
            decided_at: None,
        };
        self.tag("hub/app", "2.0", |entry| entry.promoted_from = Some(own));
        self.tag("official/app", "2.0", |entry| {
            entry.promoted_from = None;
            entry.digest = "sha256:".to_owned() + &"0".repeat(64);
            entry.claim = Some(Claim {
                digest: promoted.digest.clone(),
                holder: "promoter/somebody".to_owned(),
                until: Some(time_to_wire(
                    chrono::Utc::now() + chrono::TimeDelta::days(9_000),
                )),
                ..Default::default()
            });
        });
        // As if another tag still named it.
        self.tag("official/app", "kept", |entry| {
            entry.digest.clone_from(&promoted.digest);
        });
        // What may be deleted in staging is deleted there.
        self.registry.try_delete("hub/app", &promoted.digest);
    }
}

/// Somebody has the accounts of a service: no refused image gets into the target, and a bad one that is there goes.
fn nothing_bad_is_promoted_or_kept_by(service: &'static str) {
    let mut scene = Scene::start();
    scene.policy(&format!("{CLEAN_TO_OFFICIAL}recall: withdraw\n"));
    scene.stack.service("promoter", &[]);
    let refused = scene.arrived("app", "1.0", "vulnerable");
    let clean = scene.publish("app", "2.0", "clean");
    scene.mirrored("app", "2.0", &clean);
    scene.scan("app", "2.0", &clean, CLEAN);
    scene.events("image.promoted", 1);
    scene.quiet();

    let intruder = Intruder::new(&scene, service);
    intruder.open_the_gate(&refused, &clean);
    scene.scan("app", "1.0", &refused, Scan::Critical(1));
    scene.events("image.promotion_denied", 1);
    scene.stack.sluice(&["reconcile", "promoter"]);
    for reference in ["1.0", &refused.digest] {
        assert_eq!(scene.status("official/app", reference), 404, "{reference}");
    }
    assert_eq!(scene.stack.events("image.promoted").len(), 1);
    assert_eq!(scene.status("official/app", "2.0"), 200);

    intruder.hold_up_recall(&clean);
    scene.scan("app", "2.0", &clean, Scan::Critical(1));
    wait_for("the image to be withdrawn", 60, || {
        let references = ["2.0", clean.digest.as_str()];
        let is_gone = |reference: &&str| scene.status("official/app", reference) == 404;
        references.iter().all(is_gone).then_some(())
    });
    // What it asked for that it may not have given is nobody's to do.
    scene.stack.may_leave_messages();
    scene.stack.may_be_denied();
}

#[test]
fn the_accounts_of_the_poller_promote_and_keep_nothing() {
    nothing_bad_is_promoted_or_kept_by("poller");
}

#[test]
fn the_accounts_of_the_mirror_worker_promote_and_keep_nothing() {
    nothing_bad_is_promoted_or_kept_by("mirror-worker");
}

#[test]
fn the_accounts_of_the_scanner_promote_and_keep_nothing_without_a_verdict() {
    nothing_bad_is_promoted_or_kept_by("scanner-adapter");
}

#[test]
fn the_accounts_of_the_pruner_promote_and_keep_nothing() {
    nothing_bad_is_promoted_or_kept_by("pruner");
}

#[test]
fn the_accounts_of_the_webhook_dispatcher_promote_and_keep_nothing() {
    nothing_bad_is_promoted_or_kept_by("webhook-dispatcher");
}

#[test]
fn the_accounts_of_the_gateway_promote_and_keep_nothing_without_a_resource() {
    nothing_bad_is_promoted_or_kept_by("gateway");
}

#[test]
fn a_verdict_of_which_no_event_told_takes_an_image_back_with_the_next_search() {
    let mut scene = Scene::start();
    scene.policy(&format!("{CLEAN_TO_OFFICIAL}recall: withdraw\n"));
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "clean");
    scene.scan("app", "1.0", &image, CLEAN);
    scene.events("image.promoted", 1);
    scene.quiet();
    scene.verdict(&image, Scan::Critical(1));
    scene.stack.sluice(&["reconcile", "promoter"]);
    scene.events("image.withdrawn", 1);
    assert_eq!(scene.status("official/app", "1.0"), 404);
    assert_eq!(scene.status("official/app", &image.digest), 404);
    scene.quiet();
}
