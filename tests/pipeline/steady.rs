//! What is asked of others when nothing changes, what it takes to believe that a tag is gone, and tags that stay.

mod audit;
mod immutable;

use sluice_state::key;
use sluice_tests::dishonest_registry::{Liar, Lie, Requested};
use sluice_tests::{BusClient, Image, Stack, wait_for};

/// A mirror of `library/app` into `hub/app`, with what is asked of both registries counted.
struct Scene {
    stack: Stack,
    bus: BusClient,
    /// In front of the upstream.
    upstream: Liar,
    /// In front of the internal registry, as the mirror worker sees it.
    internal: Liar,
    images: Vec<Image>,
}

impl Scene {
    /// Mirrors this many tags, `1.0` and so on, each an image of its own.
    fn start(tags: usize, more: &str) -> Self {
        Self::on(Stack::start(7_200), tags, more)
    }

    fn on(mut stack: Stack, tags: usize, more: &str) -> Self {
        let publisher = stack.publisher();
        let images: Vec<Image> = (0..tags)
            .map(|tag| {
                let image = publisher.image("library/app", "amd64", &format!("content {tag}"));
                publisher.put("library/app", &format!("1.{tag}"), &image);
                image
            })
            .collect();
        let upstream = Liar::before(&stack.upstream.host);
        let internal = Liar::before(&stack.internal.host);
        stack.service("poller", &[]);
        let registry = format!("http://{}", internal.host);
        stack.service("mirror-worker", &[("SLUICE__REGISTRY__URL", &registry)]);
        stack.apply(&format!(
            "kind: Registry\nname: upstream\nhost: {0}\nplain_http: true\n---\n\
             kind: Mirror\nname: app\nfrom: {0}/library/app\nto: hub/app\nevery: 1h\n{more}",
            upstream.host
        ));
        let bus = stack.bus();
        let scene = Self {
            stack,
            bus,
            upstream,
            internal,
            images,
        };
        wait_for("every tag to arrive", 60, || {
            (scene.stack.events("tag.mirrored").len() == tags).then_some(())
        });
        scene.quiet();
        scene.upstream.requested();
        scene.internal.requested();
        scene
    }

    fn quiet(&self) {
        wait_for("every stage to be done", 60, || {
            self.stack.is_quiet().then_some(())
        });
    }

    /// Polls, and waits for all that follows; returns what went wrong, if something did.
    fn poll(&self) -> String {
        let key = key::poll(&"app".parse().unwrap());
        let read = || self.bus.run(self.bus.state.polls.get(&key)).unwrap();
        let before = read().map(|entry| entry.revision);
        self.stack.sluice(&["poll", "app"]);
        let poll = wait_for("the poll to end", 60, || {
            read().filter(|poll| Some(poll.revision) != before)
        });
        self.quiet();
        poll.value.reason
    }

    fn count(&self, fact: &str) -> usize {
        self.stack.events(fact).len()
    }

    /// Returns what a tag names in staging.
    fn at(&self, tag: &str) -> Option<Vec<u8>> {
        self.stack.reader().get("hub/app", tag)
    }
}

/// Counts the requests with this method whose path has this part.
fn of(requested: &[Requested], method: &str, part: &str) -> usize {
    let of = |(asked, path): &&Requested| asked == method && path.contains(part);
    requested.iter().filter(of).count()
}

#[test]
fn an_unchanged_tag_costs_one_head_upstream_and_a_moved_one_what_it_brings() {
    let scene = Scene::start(6, "");
    assert_eq!(scene.poll(), "");
    let asked = scene.upstream.requested();
    assert_eq!(of(&asked, "HEAD", "/manifests/1."), 6, "{asked:?}");
    assert_eq!(of(&asked, "GET", "/tags/list"), 1, "{asked:?}");
    assert_eq!(asked.len(), 7, "nothing else is asked: {asked:?}");
    assert_eq!(scene.internal.requested(), []);
    assert_eq!(scene.count("upstream.tag_moved"), 6);

    let publisher = scene.stack.publisher();
    let moved = publisher.image("library/app", "amd64", "moved");
    publisher.put("library/app", "1.3", &moved);
    assert_eq!(scene.poll(), "");
    assert_eq!(scene.at("1.3").unwrap(), moved.raw);
    let asked = scene.upstream.requested();
    assert_eq!(of(&asked, "HEAD", "/manifests/1."), 6, "{asked:?}");
    // The manifest, its layer, and its configuration, which the first six share.
    assert_eq!(of(&asked, "GET", "/manifests/"), 1, "{asked:?}");
    assert!(of(&asked, "GET", "/blobs/") <= 2, "{asked:?}");
    let other = scene.images[0].digest.as_str();
    let here = scene.internal.requested();
    assert_eq!(of(&here, "HEAD", other) + of(&here, "GET", other), 0);
    let tags = ["1.0", "1.1", "1.2", "1.4", "1.5"];
    for tag in tags {
        let part = format!("/manifests/{tag}");
        assert!(here.iter().all(|(_, path)| !path.ends_with(&part)));
    }
}

#[test]
fn no_tag_goes_by_a_listing_that_failed_is_empty_or_lacks_what_is_there() {
    let scene = Scene::start(12, "on_delete: delete\n");
    let lies: [(&str, Vec<Lie>, bool); 5] = [
        ("empty", vec![Lie::Tags(vec![], false)], true),
        ("refused", vec![Lie::Status(404, None)], false),
        ("broken", vec![Lie::Status(500, None)], false),
        (
            "cut between pages",
            vec![Lie::Status(500, None), Lie::Tags(vec!["1.0"], true)],
            false,
        ),
        ("much shorter", vec![Lie::Tags(vec!["1.0"], false)], true),
    ];
    for (what, lies, is_well) in lies {
        let mut parts = ["last=x", "/tags/list?n="].into_iter().rev();
        for lie in lies.into_iter().rev() {
            scene.upstream.lie(parts.next().unwrap(), lie);
        }
        assert_eq!(scene.poll().is_empty(), is_well, "{what}");
        scene.upstream.confess();
        assert_eq!(scene.count("upstream.tag_gone"), 0, "{what}");
    }
    // A tag that the listing lacks is asked for, and what cannot be told is not gone.
    scene.upstream.requested();
    let publisher = scene.stack.publisher();
    publisher.delete("library/app", &scene.images[7].digest);
    publisher.delete("library/app", &scene.images[8].digest);
    scene.upstream.lie("/manifests/1.8", Lie::Status(500, None));
    assert!(!scene.poll().is_empty());
    wait_for("the one tag to go", 30, || {
        scene.at("1.7").is_none().then_some(())
    });
    let asked = scene.upstream.requested();
    assert_eq!(of(&asked, "HEAD", "/manifests/1.7"), 1, "{asked:?}");
    assert_eq!(scene.at("1.8").unwrap(), scene.images[8].raw);
    scene.upstream.confess();
    scene.upstream.requested();
    assert_eq!(scene.poll(), "");
    assert_eq!(scene.at("1.8"), None);
    scene.upstream.requested();
    // What is known to be gone is not asked for again.
    assert_eq!(scene.poll(), "");
    let asked = scene.upstream.requested();
    assert_eq!(of(&asked, "HEAD", "/manifests/"), 10, "{asked:?}");
    assert_eq!(scene.count("upstream.tag_gone"), 2);
}

#[test]
fn what_a_tag_pointed_to_and_since_when_is_kept_and_shown() {
    let scene = Scene::start(1, "");
    let publisher = scene.stack.publisher();
    let second = publisher.image("library/app", "amd64", "second");
    publisher.put("library/app", "1.0", &second);
    scene.poll();
    publisher.put("library/app", "1.0", &scene.images[0]);
    scene.poll();
    // The log may be gone; what is shown is in the state.
    scene.stack.nats.purge("EVENTS");
    let told = scene
        .stack
        .sluice(&["explain", "hub/app:1.0", "-o", "json"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let upstream = &told["upstream"][0];
    assert_eq!(upstream["mirror"], "app");
    let moves = upstream["moves"].as_array().unwrap();
    let digests: Vec<_> = moves
        .iter()
        .map(|moved| moved["digest"].as_str().unwrap())
        .collect();
    let (a, b) = (scene.images[0].digest.as_str(), second.digest.as_str());
    assert_eq!(digests, [a, b, a]);
    assert_eq!(moves[2]["moveNumber"], 3);
    assert_eq!(moves[2]["firstSeenAt"], moves[0]["firstSeenAt"]);
    assert!(moves[1]["at"].as_str() >= moves[0]["at"].as_str());
    let shown = scene.stack.sluice(&["explain", "hub/app:1.0"]);
    for part in ["UPSTREAM", "FIRST SEEN", b] {
        assert!(shown.contains(part), "{shown}");
    }
    scene.quiet();
}
