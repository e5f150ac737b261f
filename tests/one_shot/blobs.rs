//! What it costs to learn that a destination lacks a blob, or has it.

use sluice_tests::Upstream;
use sluice_tests::dishonest_registry::{Liar, Lie};

use super::{Scene, error};

/// How many tags there are, of two blobs each, and of how many of them the destination has the blobs.
const TAGS: usize = 20;
const THERE: usize = 4;

/// Requests for blobs at the destination.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    looks: usize,
    uploads: usize,
}

/// Syncs tags one after the other to a host that stands for the destination.
fn sync(scene: &Scene, host: &str) -> Asked {
    let (upstream, destination) = (scene.upstream(), Upstream::new(&scene.destination.host));
    for number in 0..TAGS {
        let image = upstream.image("app", "amd64", &format!("content {number}"));
        upstream.put("app", &number.to_string(), &image);
        // An interrupted copy leaves blobs without the manifest that would prove them.
        if number >= TAGS - THERE {
            let image = destination.image("hub/app", "amd64", &format!("content {number}"));
            destination.delete("hub/app", &image.digest);
        }
    }
    let before = scene.destination.requests().len();
    let file = scene.mirrors(&[("app", "")]);
    let sync = ["sync", "-f", &file, "--to", host, "--parallel", "1"];
    let output = scene.sluice(&[&sync[..], &["--plain-http", host]].concat());
    assert!(output.status.success(), "{}", error(&output));
    for number in 0..TAGS {
        let tag = number.to_string();
        assert_eq!(scene.there("hub/app", &tag), upstream.get("app", &tag));
    }
    let asked = scene.destination.requests().split_off(before);
    let count = |begin: &str| {
        asked
            .iter()
            .filter(|asked| asked.starts_with(begin))
            .count()
    };
    Asked {
        looks: count("HEAD /v2/hub/app/blobs/"),
        uploads: count("PUT /v2/hub/app/blobs/uploads/"),
    }
}

#[test]
fn a_blob_that_is_missing_costs_no_look_where_the_registry_mounts_from_the_repository_itself() {
    let scene = Scene::start();
    let asked = sync(&scene, &scene.destination.host);
    assert_eq!(asked.uploads, 2 * (TAGS - THERE), "{asked:?}");
    // Whichever tags came first; after some uploads no blob is looked for.
    assert!(asked.looks <= 2 * THERE + 10, "{asked:?}");
}

#[test]
fn a_registry_that_does_not_is_asked_for_each_blob_and_gets_none_twice() {
    let scene = Scene::start();
    let destination = Liar::before(&scene.destination.host);
    destination.lie("mount=", Lie::Status(405, None));
    let asked = sync(&scene, &destination.host);
    let wanted = Asked {
        looks: 2 * TAGS,
        uploads: 2 * (TAGS - THERE),
    };
    assert_eq!(asked, wanted);
}
