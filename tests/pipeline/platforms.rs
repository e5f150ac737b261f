//! Mirrors of some platforms: a part of an index, the same each time, that says what it is a part of.

use serde_json::Value;
use sluice_tests::{Image, Stack, Upstream, skopeo, wait_for};

/// Pushes an index of two platforms under a tag, and returns it with its children.
fn publish(publisher: &Upstream, tag: &str) -> (Image, [Image; 2]) {
    let [amd64, arm64] = ["amd64", "arm64"].map(|architecture| {
        let content = format!("{tag} for {architecture}");
        publisher.image("library/multi", architecture, &content)
    });
    let index = publisher.index("library/multi", &[("amd64", &amd64), ("arm64", &arm64)]);
    publisher.put("library/multi", tag, &index);
    (index, [amd64, arm64])
}

fn children(index: &[u8]) -> Vec<String> {
    let index: Value = serde_json::from_slice(index).unwrap();
    let children = index["manifests"].as_array().unwrap().iter();
    let digest = |child: &Value| child["digest"].as_str().unwrap().to_owned();
    children.map(digest).collect()
}

#[test]
fn a_part_of_an_index_is_mirrored_once_and_again_when_the_list_changes() {
    let mut stack = Stack::start(7_200);
    let publisher = stack.publisher();
    let (whole, [amd64, arm64]) = publish(&publisher, "1.0");
    stack.service("poller", &[]);
    stack.service("mirror-worker", &[]);
    let mirror = |platforms: &str| {
        let more = format!("every: 2s\nplatforms: [{platforms}]\n");
        let mirror = stack.mirror("multi", "library/multi", "hub/multi", &more);
        format!("{}{mirror}", stack.upstream_resource())
    };
    stack.apply(&mirror("linux/amd64"));
    let reader = stack.reader();
    let arrived = |tag: &str| wait_for("the part to arrive", 60, || reader.get("hub/multi", tag));
    let part = arrived("1.0");
    assert_eq!(children(&part), std::slice::from_ref(&amd64.digest));
    let told: Value = serde_json::from_slice(&part).unwrap();
    assert_eq!(
        told["annotations"]["dev.sluice.source-digest"],
        whole.digest
    );
    assert_eq!(reader.get("hub/multi", &arm64.digest), None);
    // Two more polls, the last of which is over when what it found has arrived.
    for tag in ["2.0", "3.0"] {
        publish(&publisher, tag);
        arrived(tag);
    }
    wait_for("the facts", 20, || {
        (stack.events("tag.mirrored").len() == 3).then_some(())
    });
    assert_eq!(stack.events("upstream.tag_moved").len(), 3);
    let facts = stack.events("tag.mirrored");
    assert_eq!(facts[0]["data"]["sourceDigest"], whole.digest);
    assert_eq!(reader.get("hub/multi", "1.0").unwrap(), part);
    let account = stack.account("ci", "pull: ['hub/*']\n");
    stack.apply(account.trim_start_matches("---\n"));
    let image = format!("docker://{}/hub/multi:1.0", stack.internal.host);
    let options = [
        "--tls-verify=false",
        "--creds=ci:cici",
        "--override-arch=amd64",
    ];
    wait_for("skopeo to read the part", 20, || {
        let output = skopeo("inspect", &options, &[&image]);
        output.status.success().then_some(())
    });
    // What is there already is made to what the list says now.
    stack.apply(&mirror("linux/arm64"));
    stack.sluice(&["reconcile", "mirror-worker"]);
    wait_for("the other part to arrive", 60, || {
        let part = reader.get("hub/multi", "1.0")?;
        (children(&part) == [arm64.digest.clone()]).then_some(())
    });
    assert_eq!(stack.events("upstream.tag_moved").len(), 3);
}

#[test]
fn an_index_without_a_wanted_platform_is_an_error_that_names_what_it_has() {
    let mut stack = Stack::start(7_200);
    let publisher = stack.publisher();
    publish(&publisher, "1.0");
    let single = publisher.image("library/multi", "amd64", "alone");
    publisher.put("library/multi", "single", &single);
    stack.service("poller", &[]);
    stack.service("mirror-worker", &[]);
    stack.may_leave_messages();
    stack.apply(&format!(
        "{}{}",
        stack.upstream_resource(),
        stack.mirror(
            "multi",
            "library/multi",
            "hub/multi",
            "platforms: [linux/s390x]\n"
        )
    ));
    let failed = wait_for("both failures to be told", 60, || {
        Some(stack.events("tag.mirror_failed")).filter(|facts| facts.len() == 2)
    });
    for fact in failed {
        let reason = fact["data"]["reason"].as_str().unwrap();
        assert!(
            reason.contains("linux/s390x") && reason.contains("linux/amd64"),
            "{reason}"
        );
    }
    assert_eq!(stack.reader().get("hub/multi", "1.0"), None);
}
