//! Images as real tools make them: none is refused, and clients unpack them as they were scanned.

mod made;
mod tools;

use sluice_tests::{Database, Stack, Upstream, wait_for};

use crate::{Clients, Outcome, described, outcomes};

/// Where the images are published, and where they are mirrored to.
const UPSTREAM: &str = "library/real";
const RESOURCES: &str = "---
kind: Repository
name: hub/*
visibility: private
---
kind: Repository
name: official/*
visibility: public
---
kind: PromotionPolicy
name: covered
from: hub/*
to: official/{name}
when: \"true\"
";
/// What the database of these tests knows beside the project's own advisories.
const ADVISORIES: &str = r#"{"id":"CVE-2023-42364","ecosystem":"alpine 3.20","package":"busybox","fixed":"1.36.1-r29","severity":"medium","published":"2023-11-27","title":"busybox: use after free in awk"}
{"id":"CVE-2024-45337","ecosystem":"go","package":"golang.org/x/crypto","affected":["<0.31.0"],"fixed":["0.31.0"],"severity":"critical","published":"2024-12-11","title":"golang.org/x/crypto/ssh: misuse of ServerConfig.PublicKeyCallback"}
"#;

/// What is published: images, each with a tag that says how it was made.
struct Publisher {
    registry: Upstream,
    host: String,
    tags: Vec<&'static str>,
}

impl Publisher {
    /// Returns the reference of a tag for tools, and counts it among what was published.
    fn reference(&mut self, tag: &'static str) -> String {
        self.tags.push(tag);
        format!("{}/{UPSTREAM}:{tag}", self.host)
    }

    fn digest(&self, tag: &str) -> String {
        let document = self.registry.get(UPSTREAM, tag);
        sluice_tests::hostile::image::digest(
            &document.unwrap_or_else(|| panic!("`{tag}` was not published")),
        )
    }
}

fn gate() -> Stack {
    let mut stack = Stack::start(7_200);
    Database::with("2020-01-02T00:00:00Z", ADVISORIES).publish(&stack);
    for service in ["poller", "mirror-worker", "promoter"] {
        stack.service(service, &[]);
    }
    stack.scanner(&[]);
    stack
}

#[test]
fn no_real_image_is_refused_and_clients_unpack_what_was_scanned() {
    let stack = gate();
    let mut publisher = Publisher {
        registry: stack.publisher(),
        host: stack.upstream.host.clone(),
        tags: Vec::new(),
    };
    made::publish(&mut publisher);
    tools::publish(&mut publisher, stack.folder());
    let mirror = stack.mirror("real", UPSTREAM, "hub/real", "every: 2s\n");
    stack.apply(&format!("{}{mirror}{RESOURCES}", stack.upstream_resource()));
    let digests: Vec<String> = publisher
        .tags
        .iter()
        .map(|tag| publisher.digest(tag))
        .collect();
    let all = wait_for("every image to be judged", 300, || {
        let outcomes = outcomes(&stack);
        let is_judged = |digest: &String| {
            outcomes
                .get(digest)
                .is_some_and(|outcome| outcome.is_promoted || outcome.is_denied)
        };
        digests.iter().all(is_judged).then_some(outcomes)
    });
    let verdict = |outcome: &Outcome| match outcome {
        Outcome {
            found: Some(_),
            is_promoted: true,
            ..
        } => "promoted".to_owned(),
        Outcome {
            unsupported,
            failed,
            ..
        } => format!("REFUSED: {unsupported:?} {failed:?}"),
    };
    let list: Vec<String> = publisher
        .tags
        .iter()
        .zip(&digests)
        .map(|(tag, digest)| format!("{tag}: {}", verdict(&all[digest])))
        .collect();
    let refused = list.iter().filter(|line| line.contains("REFUSED")).count();
    println!(
        "{refused} of {} real images refused\n{}",
        list.len(),
        list.join("\n")
    );
    assert_eq!(refused, 0, "\n{}", list.join("\n"));

    let (clients, reader) = (Clients::start(), stack.reader());
    let mut differences = Vec::new();
    for tag in &publisher.tags {
        let scanned = described(&reader, "hub/real", tag);
        let image = format!("{}/official/real:{tag}", stack.internal.host);
        differences.extend(clients.differences(&image, &scanned));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
