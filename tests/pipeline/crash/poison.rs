//! One message that cannot be done, and twenty neighbours that can: it ends as a dead letter, and they go through.

use std::process::Command;

use sluice_events::Event;
use sluice_tests::endpoint::{Endpoint, webhook};
use sluice_tests::{Image, python, root, wait_for};

use super::Play;
use super::mirror::moved;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const NEIGHBOURS: usize = 20;

/// A mirror worker with a poison among its messages, and an endpoint that is told everything.
struct Scene {
    play: Play,
    good: Image,
    endpoint: Endpoint,
}

impl Scene {
    fn start() -> Self {
        let mut play = Play::of("mirror-worker");
        play.stack.may_leave_messages();
        let good = play.stack.publisher().image("library/app", "amd64", "good");
        let folder = play.stack.folder().to_owned();
        let endpoint = Endpoint::own(&folder, "hook", SECRET, &[]);
        let wanted = "events: ['upstream.*', 'tag.mirrored']\n";
        let hook = webhook(&folder, "hook", &endpoint.url, SECRET, wanted);
        play.stack
            .apply(&format!("{}{hook}", play.stack.upstream_resource()));
        play.stack.service("webhook-dispatcher", &[]);
        Self {
            play,
            good,
            endpoint,
        }
    }

    /// Tells half of the neighbours, then the poison, then the others.
    fn tell(&self, poison: impl FnOnce(&Play)) {
        let mut poison = Some(poison);
        for number in 0..NEIGHBOURS {
            if number == NEIGHBOURS / 2
                && let Some(poison) = poison.take()
            {
                poison(&self.play);
            }
            let fact = moved(&self.play, &format!("n{number}"), &self.good);
            self.play.bus.publish(fact, "1");
        }
    }

    fn mirrored(&self) -> usize {
        self.play.events("tag.mirrored").len()
    }

    /// Waits until the neighbours went through and there is one letter of the mirror worker; returns its number.
    fn buried(&self, reason: &str) -> u64 {
        wait_for("the neighbours to go through", 60, || {
            (self.mirrored() == NEIGHBOURS).then_some(())
        });
        let letters = wait_for("the dead letter", 60, || {
            Some(self.letters("mirror-worker")).filter(|letters| !letters.is_empty())
        });
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert!(letters[0].1.contains(reason), "{letters:?}");
        let reader = self.play.stack.reader();
        for number in 0..NEIGHBOURS {
            let raw = reader.get("hub/app", &format!("n{number}"));
            assert_eq!(raw.unwrap(), self.good.raw);
        }
        letters[0].0
    }

    /// Returns the letters of a stage, each with its number and reason.
    fn letters(&self, stage: &str) -> Vec<(u64, String)> {
        let bus = &self.play.bus;
        let letters = bus.run(bus.bus.dead_letters(100)).unwrap().into_iter();
        letters
            .filter(|letter| letter.stage == stage)
            .map(|letter| (letter.sequence, letter.reason))
            .collect()
    }

    /// Waits until the endpoint was told so many facts, each once.
    fn delivered(&self, count: usize) {
        wait_for("the deliveries", 60, || {
            (self.endpoint.taken().len() == count).then_some(())
        });
        let taken = self.endpoint.taken();
        assert!(taken.values().all(|times| *times == 1), "{taken:?}");
    }
}

#[test]
fn what_cannot_be_decoded_is_kept_and_driven_again_where_it_failed_only() {
    let mut scene = Scene::start();
    scene.tell(|play| {
        let told = Command::new(python())
            .arg(root().join("tests/fixtures/raw_publish.py"))
            .args([
                &play.stack.nats.url,
                "sluice.v1.upstream.tag_moved.hub.app",
                "ffff",
            ])
            .args(["ce-id=poison", "ce-type=sluice.events.v1.UpstreamTagMoved"])
            .status();
        assert!(told.unwrap().success());
    });
    scene.play.run("", &[]);
    let first = scene.buried("cannot be decoded");
    scene.delivered(2 * NEIGHBOURS);
    // The dispatcher reacts to the same fact, and has a letter of its own.
    let others = scene.letters("webhook-dispatcher");
    assert_eq!(others.len(), 1, "{others:?}");
    scene
        .play
        .stack
        .sluice(&["dead-letters", "retry", &first.to_string()]);
    let again = wait_for("it to fail again", 30, || {
        let letters = scene.letters("mirror-worker");
        letters.into_iter().find(|letter| letter.0 != first)
    });
    assert!(again.1.contains("cannot be decoded"), "{again:?}");
    assert_eq!(scene.letters("mirror-worker").len(), 1);
    assert_eq!(scene.letters("webhook-dispatcher"), others);
    scene.delivered(2 * NEIGHBOURS);
}

#[test]
fn an_upstream_that_serves_other_bytes_is_found_out_and_its_image_arrives_once_it_is_repaired() {
    let mut scene = Scene::start();
    let publisher = scene.play.stack.publisher();
    let image = publisher.image("library/app", "amd64", "what the publisher made");
    let manifest: serde_json::Value = serde_json::from_slice(&image.raw).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let genuine = scene.play.stack.upstream.forge(layer);
    scene.tell(|play| {
        play.bus.publish(moved(play, "poison", &image), "1");
    });
    scene.play.run("", &[]);
    scene.buried("sha256:");
    assert_eq!(scene.play.events("tag.mirror_failed").len(), 1);
    let reader = scene.play.stack.reader();
    assert_eq!(reader.get("hub/app", "poison"), None);
    assert_eq!(reader.get("hub/app", &image.digest), None);
    scene.delivered(2 * NEIGHBOURS + 1);

    genuine.restore();
    scene.play.stack.sluice(&["dead-letters", "retry", "--all"]);
    wait_for("the image to arrive after all", 60, || {
        (scene.mirrored() == NEIGHBOURS + 1).then_some(())
    });
    assert_eq!(reader.get("hub/app", "poison").unwrap(), image.raw);
    assert!(scene.letters("mirror-worker").is_empty());
    // Nothing but the arrival is told anew.
    scene.delivered(2 * NEIGHBOURS + 2);
    assert_eq!(
        scene.play.events("upstream.tag_moved").len(),
        NEIGHBOURS + 1
    );
}

#[test]
fn a_message_that_crashes_its_process_each_time_is_given_up_and_takes_no_neighbour_with_it() {
    let mut scene = Scene::start();
    let at = "mirror-worker.copied=poison";
    scene.tell(|play| {
        play.bus.publish(moved(play, "poison", &scene.good), "1");
    });
    let mut worker = scene.play.stack.begin_dying("mirror-worker", at, &[]);
    let mut deaths = 0;
    // As a supervisor does it, until the message is no longer tried.
    wait_for("the message to be given up", 120, || {
        if scene.play.stack.is_dead(worker) {
            scene.play.stack.until_dead(worker, at);
            deaths += 1;
            worker = scene.play.stack.begin_dying("mirror-worker", at, &[]);
        }
        (!scene.letters("mirror-worker").is_empty()).then_some(())
    });
    scene.buried("attempts came to an end");
    assert_eq!(deaths, 8);
    scene.delivered(2 * NEIGHBOURS + 1);

    // The cause is gone.
    scene.play.stack.kill(worker);
    scene.play.run("", &[]);
    scene.play.stack.sluice(&["dead-letters", "retry", "--all"]);
    wait_for("the image to arrive after all", 60, || {
        (scene.mirrored() == NEIGHBOURS + 1).then_some(())
    });
    let arrived = scene.play.events("tag.mirrored").into_iter();
    let named = arrived.filter(|event| match event {
        Event::TagMirrored(fact) => fact.tag.as_str() == "poison",
        _ => false,
    });
    assert_eq!(named.count(), 1);
    scene.delivered(2 * NEIGHBOURS + 2);
    assert!(scene.letters("mirror-worker").is_empty());
}
