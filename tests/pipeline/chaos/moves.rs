//! A tag that moves there and back within a second.

use std::time::Duration;

use sluice_events::commands::PollMirror;
use sluice_state::key;
use sluice_tests::content::{NEW_LIBC, debian};
use sluice_tests::proxy::Silence;
use sluice_tests::{BusClient, Database, Faults, Image, Proxy, Stack, pass, wait_for};

const POLICY: &str = "---
kind: PromotionPolicy
name: clean
from: hub/*
to: official/{name}
when: scan.critical == 0 && scan.high == 0
";
/// Longer than a tag stays claimed.
const CLAIM: Duration = Duration::from_secs(31);

struct Mirrored {
    stack: Stack,
    bus: BusClient,
    images: [Image; 2],
}

impl Mirrored {
    /// Starts everything but a mirror worker, with `library/app:1` on nothing yet.
    fn start() -> Self {
        let mut stack = Stack::start(7_200);
        Database::of("2020-01-02T00:00:00Z").publish(&stack);
        for stage in ["poller", "promoter"] {
            stack.service(stage, &[]);
        }
        stack.scanner(&[]);
        let publisher = stack.publisher();
        let images = ["a", "b"].map(|note| {
            let files = debian(&[NEW_LIBC, ("note", note)]);
            publisher.files("library/app", "amd64", &files)
        });
        let bus = stack.bus();
        Self { stack, bus, images }
    }

    fn apply(&self) {
        let mirror = self
            .stack
            .mirror("app", "library/app", "hub/app", "every: 1h\n");
        let upstream = self.stack.upstream_resource();
        self.stack.apply(&format!("{upstream}{mirror}{POLICY}"));
    }

    /// Moves the tag upstream and waits until that move was told.
    fn move_to(&self, image: usize, number: usize) {
        let publisher = self.stack.publisher();
        publisher.put("library/app", "1", &self.images[image]);
        let mut ticks = 0;
        wait_for("the move to be told", 30, || {
            if ticks % 5 == 0 {
                self.bus.command(PollMirror {
                    mirror: "app".parse().unwrap(),
                    urgent: false,
                });
            }
            ticks += 1;
            let moved = self.stack.events("upstream.tag_moved");
            let is_last = moved.last()?["data"]["digest"] == self.images[image].digest.as_str();
            (is_last && moved.len() >= number).then_some(())
        });
    }

    /// Returns what has the claim on the tag in staging.
    fn claimed(&self) -> Option<String> {
        let key = key::tag(&"hub/app".parse().unwrap(), &"1".parse().unwrap());
        let entry = self.bus.run(self.bus.state.tags.get(&key)).unwrap()?;
        Some(entry.value.claim?.digest)
    }

    fn is_at(&self, repository: &str, image: &Image) -> bool {
        self.stack.reader().get(repository, "1").as_ref() == Some(&image.raw)
    }

    /// Everything is at A in the end, and told in that order.
    fn ends_at_the_first(&self) {
        let [first, second] = &self.images;
        wait_for("every stage to be done", 180, || {
            self.stack.is_quiet().then_some(())
        });
        for repository in ["hub/app", "official/app"] {
            assert!(self.is_at(repository, first), "{repository}");
        }
        let told = |name: &str| -> Vec<String> {
            let facts = self.stack.events(name);
            let digest =
                |fact: &serde_json::Value| fact["data"]["digest"].as_str().unwrap().to_owned();
            facts.iter().map(digest).collect()
        };
        let (a, b) = (first.digest.as_str(), second.digest.as_str());
        // However many polls overlap, one move is told once.
        assert_eq!(told("upstream.tag_moved"), [a, b, a]);
        let numbers: Vec<_> = self
            .stack
            .events("tag.mirrored")
            .iter()
            .map(|fact| fact["data"]["moveNumber"].to_string())
            .collect();
        assert!(numbers.is_sorted() && !numbers.is_empty(), "{numbers:?}");
        assert_eq!(told("tag.mirrored").last().unwrap(), a);
        assert_eq!(told("image.promoted").last().unwrap(), a);
        assert_eq!(self.claimed(), None);
    }
}

#[test]
fn a_tag_that_moves_there_and_back_within_a_second_ends_where_it_was() {
    let mut scene = Mirrored::start();
    for _ in 0..2 {
        scene.stack.service("mirror-worker", &[]);
    }
    scene
        .stack
        .publisher()
        .put("library/app", "1", &scene.images[0]);
    scene.apply();
    scene.move_to(0, 1);
    scene.move_to(1, 2);
    scene.move_to(0, 3);
    scene.ends_at_the_first();
}

#[test]
fn a_worker_that_writes_late_does_not_win() {
    let mut scene = Mirrored::start();
    let proxy = Proxy::between(&scene.stack.internal.host);
    let slow = format!("http://{}", proxy.host);
    let one = ("SLUICE__MIRROR__CONCURRENCY", "1");
    let late = scene
        .stack
        .service("mirror-worker", &[("SLUICE__REGISTRY__URL", &slow), one]);
    scene
        .stack
        .publisher()
        .put("library/app", "1", &scene.images[0]);
    scene.apply();
    scene.move_to(0, 1);
    let [first, second] = scene.images.clone();
    wait_for("the first move to be promoted", 60, || {
        scene.is_at("official/app", &first).then_some(())
    });
    // Slow enough for the test to see the claim before the registry sees the tag.
    proxy.set(Faults {
        latency: Duration::from_millis(400),
        ..Faults::default()
    });
    scene.move_to(1, 2);
    wait_for("the slow worker to have the claim", 60, || {
        (scene.claimed()? == second.digest).then_some(())
    });
    proxy.set(Faults {
        silence: Some(Silence::Stall),
        ..Faults::default()
    });
    scene.stack.service("mirror-worker", &[one]);
    scene.move_to(0, 3);
    pass(CLAIM);
    wait_for("the other worker to have finished", 60, || {
        let mirrored = scene.stack.events("tag.mirrored");
        let last = &mirrored.last()?["data"];
        let is_back = last["digest"] == first.digest.as_str();
        (is_back && last["moveNumber"].as_u64()? >= 3).then_some(())
    });
    assert!(scene.is_at("hub/app", &first));
    // What the slow worker has sent arrives only now.
    proxy.heal();
    scene.ends_at_the_first();
    let log = scene.stack.log_of(late);
    assert!(
        log.contains("restoring the digest"),
        "it was not written late: {log}"
    );
}
