//! A newer vulnerability database: what was scanned is matched with it again, without the registry, and what no longer
//! passes leaves the target.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sluice_state::key;
use sluice_tests::content::{NEW_LIBC, debian};
use sluice_tests::{Database, Image, Proxy, Stack, wait_for};

const FIRST: &str = "2020-01-02T00:00:00Z";
const SECOND: &str = "2020-01-03T00:00:00Z";
const LEFT_PAD: (&str, &str) = (
    "app/node_modules/left-pad/package.json",
    r#"{"name":"left-pad","version":"1.3.0","license":"WTFPL"}"#,
);
/// An advisory on the package that the shipped ones do not know.
const ADVISORY: &str = r#"{"id":"CVE-2026-7777","ecosystem":"npm","package":"left-pad","affected":["<1.3.1"],"fixed":["1.3.1"],"severity":"critical","score":9.8,"published":"2020-01-02","title":"left-pad: pads on the right"}"#;
const POLICY: &str = "---
kind: PromotionPolicy
name: clean
from: hub/*
to: official/{name}
when: scan.critical == 0
recall: withdraw
";

fn digests(stack: &Stack, event: &str) -> Vec<String> {
    let facts = stack.events(event).into_iter();
    facts
        .map(|fact| fact["data"]["digest"].as_str().unwrap().to_owned())
        .collect()
}

/// Waits until the images were promoted, and everything is done.
fn promoted(stack: &Stack, count: usize) {
    wait_for("the promotions", 120, || {
        (stack.events("image.promoted").len() == count).then_some(())
    });
    wait_for("every stage to be done", 60, || {
        stack.is_quiet().then_some(())
    });
}

#[test]
fn an_image_that_became_vulnerable_is_withdrawn_without_a_request_for_a_layer() {
    let mut stack = Stack::start(7_200);
    Database::of(FIRST).publish(&stack);
    let proxy = Proxy::between(&stack.internal.host);
    let url = format!("http://{}", proxy.host);
    stack.scanner(&[
        ("SLUICE__TRIVY__DATABASE_CHECK_SECONDS", "1"),
        ("SLUICE__REGISTRY__URL", &url),
    ]);
    stack.service("promoter", &[]);
    let publisher = stack.mirrored();
    stack.apply(POLICY);
    let put = |tag: &str, architecture: &str, files: &[(&'static str, &'static str)]| -> Image {
        let image = publisher.files("library/app", architecture, &debian(files));
        publisher.put("library/app", tag, &image);
        image
    };
    let clean = put("1.0", "amd64", &[NEW_LIBC]);
    let padded = put("1.1", "amd64", &[NEW_LIBC, LEFT_PAD]);
    // Its manifest for amd64 is that of 1.1: a verdict that is new already must not hide the change from this image.
    let arm64 = publisher.files("library/app", "arm64", &debian(&[NEW_LIBC]));
    let index = publisher.index("library/app", &[("amd64", &padded), ("arm64", &arm64)]);
    publisher.put("library/app", "1.2", &index);
    promoted(&stack, 3);
    assert!(stack.events("scan.findings_changed").is_empty());

    let before = proxy.requests().len();
    Database::with(SECOND, ADVISORY).publish(&stack);
    wait_for("the withdrawals", 90, || {
        (stack.events("image.withdrawn").len() == 2).then_some(())
    });
    wait_for("every stage to be done", 60, || {
        stack.is_quiet().then_some(())
    });
    let requested = proxy.requests().split_off(before);
    let of_blobs: Vec<_> = requested
        .iter()
        .filter(|line| line.contains("/blobs/"))
        .collect();
    assert!(of_blobs.is_empty(), "{of_blobs:#?}");

    let changed: BTreeSet<String> = digests(&stack, "scan.findings_changed")
        .into_iter()
        .collect();
    let affected = BTreeSet::from([padded.digest.clone(), index.digest.clone()]);
    assert_eq!(changed, affected);
    let withdrawn: BTreeSet<String> = digests(&stack, "image.withdrawn").into_iter().collect();
    assert_eq!(withdrawn, affected);
    let facts = stack.events("scan.findings_changed");
    let fact = facts
        .iter()
        .find(|fact| fact["data"]["digest"] == padded.digest)
        .unwrap();
    assert_eq!(fact["data"]["databaseVersion"], SECOND);
    assert_eq!(fact["data"]["before"]["critical"], 0);
    assert_eq!(fact["data"]["after"]["critical"], 1);
    let appeared = json!([{
        "vulnerability": "CVE-2026-7777", "package": "left-pad", "severity": "critical", "fixedVersion": "1.3.1",
    }]);
    assert_eq!(fact["data"]["appeared"], appeared);
    assert_eq!(fact["data"]["disappeared"], json!([]));
    let reader = stack.reader();
    assert_eq!(reader.get("official/app", "1.0").unwrap(), clean.raw);
    for gone in ["1.1", "1.2", &padded.digest, &index.digest] {
        assert_eq!(reader.get("official/app", gone), None, "{gone}");
    }
    let difference = stack.sluice(&[
        "findings",
        "hub/app:1.1",
        "--diff",
        "previous",
        "-o",
        "json",
    ]);
    let difference: Value = serde_json::from_str(&difference).unwrap();
    assert_eq!(difference["appeared"][0]["id"], "CVE-2026-7777");
    assert_eq!(difference["disappeared"], json!([]));

    // A database that knows nothing new changes nothing and stores no document again, and what was denied passes when the advisory is withdrawn.
    let told = stack.events("scan.findings_changed").len();
    let bus = stack.bus();
    let documents = |image: &Image| {
        let key = key::verdict(&image.digest.parse().unwrap());
        let verdict = bus
            .run(bus.state.verdicts.get(&key))
            .unwrap()
            .unwrap()
            .value;
        [verdict.report_key, verdict.sbom_key, verdict.findings_key]
    };
    let stored = [documents(&clean), documents(&padded)];
    Database::with("2020-01-04T00:00:00Z", ADVISORY).publish(&stack);
    wait_for("the images to be matched again", 60, || {
        let found = stack.sluice(&["findings", "hub/app:1.2", "-o", "json"]);
        (found.matches("2020-01-04").count() == 2).then_some(())
    });
    wait_for("every stage to be done", 60, || {
        stack.is_quiet().then_some(())
    });
    assert_eq!(stack.events("scan.findings_changed").len(), told);
    assert_eq!([documents(&clean), documents(&padded)], stored);
    Database::of("2020-01-05T00:00:00Z").publish(&stack);
    promoted(&stack, 5);
}
