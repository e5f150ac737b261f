//! What clients do in the internal registry is told once, and what Sluice does to delete a tag is not told twice.

use std::fs;

use serde_json::{Value, json};
use sluice_tests::{Stack, Upstream, skopeo, wait_for};

/// The names of the six facts that the registry's notifications are.
const SIX: [&str; 6] = [
    "tag.pushed",
    "manifest.pushed",
    "tag.pulled",
    "manifest.pulled",
    "tag.deleted",
    "manifest.deleted",
];

fn counts(stack: &Stack) -> [usize; 6] {
    let lines = stack.sluice(&["events"]);
    let facts: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    SIX.map(|name| facts.iter().filter(|fact| fact["event"] == name).count())
}

fn wait_for_counts(stack: &Stack, expected: [usize; 6]) {
    let mut seen = [0; 6];
    wait_for(
        &format!("{SIX:?} to be told {expected:?} times"),
        20,
        || {
            seen = counts(stack);
            let more = seen
                .iter()
                .zip(expected)
                .any(|(seen, expected)| *seen > expected);
            assert!(!more, "{SIX:?}: {seen:?}");
            (seen == expected).then_some(())
        },
    );
}

#[test]
fn what_skopeo_does_is_told_once_with_the_account() {
    let stack = Stack::start(7_200);
    let image = stack.publisher().image("library/app", "amd64", "content");
    stack.publisher().put("library/app", "1.0", &image);
    let account = stack.account("ci", "push: ['team/*']\n");
    stack.apply(account.trim_start_matches("---\n"));
    let ci = Upstream::with_account(&stack.internal.host, "ci", "cici");
    wait_for("the gateway to know the account", 20, || {
        (ci.try_upload("team/app") == 202).then_some(())
    });
    let source = format!("docker://{}/library/app:1.0", stack.upstream.host);
    let own = format!("docker://{}/team/app:1.0", stack.internal.host);
    let folder = format!("dir:{}", stack.folder().join("pulled").display());
    let run = |command: &str, options: &[&str], images: &[&str]| {
        let output = skopeo(command, options, images);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "skopeo {command}: {complaint}");
    };

    let plain = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    let push = [
        &plain[..],
        &["--preserve-digests", "--dest-creds", "ci:cici"],
    ]
    .concat();
    run("copy", &push, &[&source, &own]);
    wait_for_counts(&stack, [1, 1, 0, 0, 0, 0]);
    let pull = [&plain[..], &["--src-creds", "ci:cici"]].concat();
    run("copy", &pull, &[&own, &folder]);
    wait_for_counts(&stack, [1, 1, 1, 1, 0, 0]);
    // A service reads it too, a layer is deleted, and of neither anybody is told.
    assert_eq!(stack.reader().get("team/app", "1.0").unwrap(), image.raw);
    let manifest: Value = serde_json::from_slice(&image.raw).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    assert_eq!(ci.try_delete_blob("team/app", layer), 202);
    // skopeo asks for the manifest to learn the digest that it deletes.
    run(
        "delete",
        &["--tls-verify=false", "--creds", "ci:cici"],
        &[&own],
    );
    wait_for_counts(&stack, [1, 1, 2, 2, 1, 1]);

    for name in SIX {
        for fact in stack.events(name) {
            let data = &fact["data"];
            assert_eq!(data["actor"], "ci", "{fact}");
            assert_eq!(data["repository"], "team/app", "{fact}");
            assert_eq!(data["registry"], stack.internal.host, "{fact}");
            if name.starts_with("tag.") {
                assert_eq!(data["tag"], "1.0", "{fact}");
            }
            if name != "tag.deleted" {
                assert_eq!(data["digest"], image.digest, "{fact}");
            }
        }
    }
}

#[test]
fn a_tag_that_sluice_deletes_is_told_and_its_tombstone_is_not() {
    let mut stack = Stack::start(7_200);
    let publisher = stack.publisher();
    let images = ["gone", "stays"].map(|tag| {
        let image = publisher.image("library/app", "amd64", tag);
        publisher.put("library/app", tag, &image);
        image
    });
    stack.service("poller", &[]);
    stack.service("mirror-worker", &[]);
    let mirror = stack.mirror(
        "app",
        "library/app",
        "hub/app",
        "every: 2s\non_delete: delete\n",
    );
    stack.apply(&format!("{}{mirror}", stack.upstream_resource()));
    wait_for("both tags to arrive", 30, || {
        (stack.events("tag.pushed").len() == 2).then_some(())
    });
    publisher.delete("library/app", &images[0].digest);
    let deleted = wait_for("the deletion to be told", 30, || {
        Some(stack.events("tag.deleted")).filter(|facts| !facts.is_empty())
    });
    assert_eq!(deleted.len(), 1);
    assert_eq!(deleted[0]["data"]["tag"], "gone");
    assert_eq!(deleted[0]["data"]["actor"], "mirror-worker");
    // The registry notifies in order: what led to the deletion of the tag would be in the log by now.
    assert_eq!(stack.events("manifest.deleted"), Vec::<Value>::new());
    assert_eq!(stack.events("tag.pushed").len(), 2);
    let digests = images.each_ref().map(|image| image.digest.as_str());
    for fact in stack.events("manifest.pushed") {
        let digest = fact["data"]["digest"].as_str().unwrap();
        assert!(digests.contains(&digest), "{fact}");
    }
    // Had the registry deleted the tag by the digest of the image, the image would be gone.
    let reader = stack.reader();
    assert_eq!(reader.get("hub/app", digests[0]).unwrap(), images[0].raw);
    assert_eq!(reader.get("hub/app", "gone"), None);
}

/// A notification as the registry sends it, with this id.
fn notification(id: &str) -> Value {
    json!({ "events": [{
        "id": id, "timestamp": "2026-11-23T22:01:52.846817515Z", "action": "push",
        "target": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 427,
            "digest": format!("sha256:{}", "d6".repeat(32)), "repository": "hub/app", "tag": "v1"
        },
        "request": { "method": "PUT" }, "actor": { "name": "ci" }
    }] })
}

fn notify(stack: &Stack, secret: &str, body: String) -> u16 {
    let client = reqwest::blocking::Client::builder().timeout(None).build();
    let request = client
        .unwrap()
        .post(format!("http://{}/notifications", stack.tokens))
        .header(
            "content-type",
            "application/vnd.docker.distribution.events.v1+json",
        )
        .header("authorization", format!("Bearer {secret}"));
    request.body(body).send().unwrap().status().as_u16()
}

#[test]
fn a_notification_that_comes_again_is_stored_once() {
    let stack = Stack::start(7_200);
    let secret = fs::read_to_string(stack.keys.notifications()).unwrap();
    for _ in 0..3 {
        assert_eq!(notify(&stack, &secret, notification("a").to_string()), 200);
    }
    assert_eq!(counts(&stack), [1, 1, 0, 0, 0, 0]);
    // The same happening again has another id.
    assert_eq!(notify(&stack, &secret, notification("b").to_string()), 200);
    assert_eq!(counts(&stack), [2, 2, 0, 0, 0, 0]);
}

#[test]
fn what_can_never_be_understood_is_taken_and_what_is_not_ours_is_refused() {
    let stack = Stack::start(7_200);
    let secret = fs::read_to_string(stack.keys.notifications()).unwrap();
    let good = notification("a");
    for wrong in ["", "hunter2"] {
        assert_eq!(notify(&stack, wrong, good.to_string()), 401);
    }
    let mut half = good.clone();
    let mut wrong = good["events"][0].clone();
    wrong["target"]["repository"] = "NO/REPOSITORY".into();
    half["events"].as_array_mut().unwrap().insert(0, wrong);
    let large = format!("{good}{}", " ".repeat(2 << 20));
    for garbage in ["", "{}", "no JSON", r#"{"events":[{}]}"#, &large] {
        let status = notify(&stack, &secret, garbage.to_owned());
        assert_eq!(status, 202, "{} bytes", garbage.len());
    }
    assert_eq!(counts(&stack), [0; 6]);
    // One that cannot be understood does not keep its neighbour from being told.
    assert_eq!(notify(&stack, &secret, half.to_string()), 200);
    assert_eq!(counts(&stack), [1, 1, 0, 0, 0, 0]);
}

#[test]
fn a_notification_is_not_taken_before_the_stream_holds_it() {
    let stack = Stack::start(7_200);
    let secret = fs::read_to_string(stack.keys.notifications()).unwrap();
    stack.nats.freeze(true);
    let status = notify(&stack, &secret, notification("a").to_string());
    stack.nats.freeze(false);
    assert_eq!(status, 503);
    assert_eq!(notify(&stack, &secret, notification("a").to_string()), 200);
    assert_eq!(counts(&stack), [1, 1, 0, 0, 0, 0]);
}

/// A notification of a push behind many pulls.
fn mixed(pulls: usize) -> String {
    let mut all = notification("push");
    let pull = |number: usize| {
        let mut event = all["events"][0].clone();
        event["id"] = format!("pull-{number}").into();
        event["action"] = "pull".into();
        event["request"]["method"] = "GET".into();
        event
    };
    let mut events: Vec<Value> = (0..pulls).map(pull).collect();
    events.push(all["events"][0].take());
    all["events"] = events.into();
    all.to_string()
}

#[test]
fn a_push_behind_pulls_is_told_and_taken_although_nothing_takes_the_pulls() {
    let stack = Stack::start(7_200);
    let secret = fs::read_to_string(stack.keys.notifications()).unwrap();
    stack.nats.remove_stream("PULLS");
    assert_eq!(notify(&stack, &secret, mixed(500)), 200);
    let pushed = stack.sluice(&["events", "--subject", "sluice.v1.tag.pushed.>"]);
    assert_eq!(pushed.lines().count(), 1, "{pushed}");
    stack.sluice(&["provision"]);
}

#[test]
fn every_pull_of_a_notification_is_told_in_the_background_and_in_its_own_stream() {
    let stack = Stack::start(7_200);
    let secret = fs::read_to_string(stack.keys.notifications()).unwrap();
    for _ in 0..2 {
        assert_eq!(notify(&stack, &secret, mixed(50)), 200);
    }
    wait_for_counts(&stack, [1, 1, 50, 50, 0, 0]);
    let streams = stack
        .events("tag.pulled")
        .into_iter()
        .map(|fact| fact["stream"].clone());
    assert!(streams.into_iter().all(|stream| stream == "PULLS"));
}

#[test]
fn pulls_can_be_turned_off() {
    let mut stack = Stack::start(7_200);
    let (edge, _) = stack.gateway(&[("SLUICE__NOTIFICATIONS__PULLS_ONE_IN", "0")]);
    assert_ne!(edge, stack.tokens, "another gateway");
    stack.tokens = edge;
    let secret = fs::read_to_string(stack.keys.notifications()).unwrap();
    assert_eq!(notify(&stack, &secret, mixed(50)), 200);
    wait_for_counts(&stack, [1, 1, 0, 0, 0, 0]);
}
