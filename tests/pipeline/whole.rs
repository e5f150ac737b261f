//! The whole pipeline on real servers, each stage a process of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use sluice_tests::content::{JINJA, NEW_LIBC, OLD_LIBC, debian};
use sluice_tests::endpoint::{Endpoint, webhook};
use sluice_tests::subscriber::Subscriber;
use sluice_tests::{Database, Image, Stack, Upstream, skopeo, wait_for};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const POLICY: &str = "---
kind: Repository
name: hub/*
visibility: private
---
kind: Repository
name: official/*
visibility: public
---
kind: PromotionPolicy
name: clean
from: hub/*
to: official/{name}
when: scan.critical == 0 && scan.high == 0
";

/// Starts every stage, the copying and the scanning ones twice.
fn pipeline() -> Stack {
    let mut stack = Stack::start(7_200);
    Database::of("2020-01-02T00:00:00Z").publish(&stack);
    for stage in [
        "poller",
        "mirror-worker",
        "mirror-worker",
        "promoter",
        "pruner",
        "webhook-dispatcher",
    ] {
        stack.service(stage, &[]);
    }
    for _ in 0..2 {
        stack.scanner(&[]);
    }
    stack
}

fn events(stack: &Stack) -> Vec<Value> {
    let lines = stack.sluice(&["events"]);
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn done(stack: &Stack) {
    wait_for("every stage to be done", 120, || {
        stack.is_quiet().then_some(())
    });
}

#[test]
fn forty_tags_end_where_they_belong_and_nothing_is_told_twice() {
    let stack = pipeline();
    let publisher = stack.publisher();
    let mut resources = stack.upstream_resource() + POLICY;
    let mut expected: Vec<(String, String, Image, bool)> = Vec::new();
    for number in 0..8 {
        let from = format!("library/app{number}");
        for tag in 0..5 {
            let note = format!("{number} {tag}");
            // One tag of each repository has findings, and one is nothing that a scanner understands.
            let (files, clean) = match tag {
                3 => (debian(&[OLD_LIBC, JINJA]), false),
                4 => (Vec::new(), false),
                _ => (debian(&[NEW_LIBC]), true),
            };
            let mut files = files;
            files.push(("note", &note));
            let image = publisher.files(&from, "amd64", &files);
            publisher.put(&from, &format!("1.{tag}"), &image);
            expected.push((format!("app{number}"), format!("1.{tag}"), image, clean));
        }
        resources += &stack.mirror(
            &format!("app{number}"),
            &from,
            &format!("hub/app{number}"),
            "every: 2s\n",
        );
    }
    stack.apply(&resources);
    wait_for("every tag to be judged", 240, || {
        let promoted = stack.events("image.promoted").len();
        let denied = stack.events("image.promotion_denied").len();
        (promoted == 24 && denied == 16).then_some(())
    });
    done(&stack);
    let reader = stack.reader();
    for (name, tag, image, clean) in &expected {
        assert_eq!(reader.get(&format!("hub/{name}"), tag).unwrap(), image.raw);
        let official = format!("official/{name}");
        let promoted = clean.then(|| image.raw.clone());
        assert_eq!(reader.get(&official, tag), promoted, "{official}:{tag}");
        assert_eq!(
            reader.get(&official, &image.digest),
            promoted,
            "{official}@{}",
            image.digest
        );
    }
    let mut ids = BTreeSet::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for event in events(&stack) {
        assert!(ids.insert(event["id"].to_string()), "stored twice: {event}");
        *names
            .entry(event["event"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    for (name, count) in [
        ("upstream.tag_moved", 40),
        ("tag.mirrored", 40),
        ("scan.succeeded", 32),
        ("scan.failed", 8),
        ("image.promoted", 24),
        ("image.promotion_denied", 16),
    ] {
        assert_eq!(names.get(name), Some(&count), "{name}: {names:?}");
    }
    assert_eq!(stack.status()["deadLetters"], 0);
}

#[test]
fn an_index_reaches_developers_untouched_and_what_is_refused_nowhere() {
    let stack = pipeline();
    let publisher = stack.publisher();
    let index_of = |name: &str, amd64: &[(&str, &str)], arm64: &[(&str, &str)]| {
        let from = format!("library/{name}");
        let amd64 = publisher.files(&from, "amd64", amd64);
        let arm64 = publisher.files(&from, "arm64", arm64);
        let index = publisher.index(&from, &[("amd64", &amd64), ("arm64", &arm64)]);
        publisher.put(&from, "1.0", &index);
        [index, amd64, arm64]
    };
    let clean = index_of(
        "clean",
        &debian(&[NEW_LIBC]),
        &debian(&[NEW_LIBC, ("arm", "64")]),
    );
    let half = index_of("half", &debian(&[NEW_LIBC]), &debian(&[OLD_LIBC]));
    let scratch = index_of("scratch", &[("a", "b")], &[("a", "c")]);
    let mut resources = stack.upstream_resource() + POLICY;
    for name in ["clean", "half", "scratch"] {
        resources += &stack.mirror(name, &format!("library/{name}"), &format!("hub/{name}"), "");
    }
    stack.apply(&resources);
    wait_for("all three to be judged", 120, || {
        let judged =
            stack.events("image.promoted").len() + stack.events("image.promotion_denied").len();
        (judged == 3).then_some(())
    });
    done(&stack);

    // An independent client finds the same bytes upstream, in staging and in the target.
    let raw = |host: &str, name: &str, reference: &str, account: &[&str]| {
        let image = format!("docker://{host}/{name}{reference}");
        let options = [&["--raw", "--tls-verify=false"], account].concat();
        let output = skopeo("inspect", &options, &[&image]);
        assert!(
            output.status.success(),
            "{image}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    };
    let password = fs::read_to_string(stack.keys.password("gateway")).unwrap();
    let gateway = format!("gateway:{password}");
    let references = [":1.0".to_owned()]
        .into_iter()
        .chain(clean.iter().map(|image| format!("@{}", image.digest)));
    for reference in references {
        let upstream = raw(&stack.upstream.host, "library/clean", &reference, &[]);
        let hub = raw(
            &stack.internal.host,
            "hub/clean",
            &reference,
            &["--creds", &gateway],
        );
        let official = raw(&stack.internal.host, "official/clean", &reference, &[]);
        assert!(upstream == hub && hub == official, "{reference}");
    }
    let layout = stack.folder().join("layout");
    let copied = skopeo(
        "copy",
        &["--all", "--preserve-digests", "--src-tls-verify=false"],
        &[
            &format!("docker://{}/official/clean:1.0", stack.internal.host),
            &format!("oci:{}:1.0", layout.display()),
        ],
    );
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], clean[0].digest);

    let anonymous = stack.anonymous();
    for (name, images, told) in [
        ("half", &half, ["scan.high == 0", "3", "covered"]),
        (
            "scratch",
            &scratch,
            ["coverage", "0 packages", "unsupported"],
        ),
    ] {
        let tag = format!("official/{name}/manifests/1.0");
        assert_eq!(anonymous.status(&tag), 404, "{tag}");
        for image in images {
            let digest = format!("official/{name}/manifests/{}", image.digest);
            assert_eq!(anonymous.status(&digest), 404, "{digest}");
        }
        let explained = stack.sluice(&["explain", &format!("hub/{name}:1.0")]);
        for told in told {
            assert!(
                explained.to_lowercase().contains(told),
                "`{told}`:\n{explained}"
            );
        }
    }
    assert_eq!(anonymous.status("hub/clean/manifests/1.0"), 401);
    assert_eq!(anonymous.status("official/clean/manifests/1.0"), 200);
    assert_eq!(anonymous.try_put("official/clean", "2.0", &half[0]), 401);
}

/// What Docker Trusted Registry told, by the names of here.
const TEN: [&str; 10] = [
    "tag.pushed",
    "tag.pulled",
    "tag.deleted",
    "manifest.pushed",
    "manifest.pulled",
    "manifest.deleted",
    "scan.succeeded",
    "scan.failed",
    "image.promoted",
    "tag.mirrored",
];

#[test]
fn the_ten_events_of_dtr_reach_a_subscriber_in_python_and_an_endpoint() {
    let stack = pipeline();
    let folder = stack.folder().to_owned();
    let subscriber = Subscriber::start(&stack, "events", &["--all"]);
    let endpoint = Endpoint::library(&folder, "endpoint", SECRET, &["--fail-first", "2"]);
    let publisher = stack.publisher();
    for (name, files) in [
        ("clean", debian(&[NEW_LIBC])),
        ("scratch", vec![("a", "b")]),
    ] {
        let image = publisher.files(&format!("library/{name}"), "amd64", &files);
        publisher.put(&format!("library/{name}"), "1.0", &image);
    }
    let resources = [
        stack.upstream_resource(),
        stack.account("ci", "push: ['team/*']\n"),
        POLICY.to_owned(),
        webhook(
            &folder,
            "hook",
            &endpoint.url,
            SECRET,
            "events: [image.promoted, scan.failed]\n",
        ),
        stack.mirror("clean", "library/clean", "hub/clean", ""),
        stack.mirror("scratch", "library/scratch", "hub/scratch", ""),
    ];
    stack.apply(&resources.concat());
    let ci = Upstream::with_account(&stack.internal.host, "ci", "cici");
    wait_for("the gateway to know the account", 20, || {
        (ci.try_upload("team/app") == 202).then_some(())
    });
    // A person pushes, pulls and deletes; the rest is what Sluice does by itself.
    let image = ci.files("team/app", "amd64", &debian(&[NEW_LIBC]));
    ci.put("team/app", "1.0", &image);
    assert_eq!(ci.get("team/app", "1.0").unwrap(), image.raw);
    wait_for("the pushed image to be scanned", 60, || {
        let scans = stack.events("scan.succeeded");
        scans
            .into_iter()
            .find(|fact| fact["data"]["repository"] == "team/app")
    });
    ci.delete("team/app", &image.digest);
    let mut missing: BTreeSet<&str> = BTreeSet::from(TEN);
    wait_for("all ten events", 90, || {
        for line in subscriber.lines() {
            let event: Value = serde_json::from_str(&line).unwrap();
            missing.remove(event["event"].as_str().unwrap());
        }
        missing.is_empty().then_some(())
    });
    done(&stack);
    // It answered 500 twice first, and still took each event once; the library of Standard Webhooks verified them.
    let taken = endpoint.taken();
    assert!(taken.values().all(|times| *times == 1), "{taken:?}");
    let facts = events(&stack);
    let wanted: BTreeSet<String> = facts
        .iter()
        .filter(|fact| {
            ["image.promoted", "scan.failed"]
                .iter()
                .any(|name| fact["event"] == *name)
        })
        .map(|fact| fact["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(taken.into_keys().collect::<BTreeSet<_>>(), wanted);
    assert_eq!(wanted.len(), 2);
}
