//! What arrives in staging is scanned, per platform, and what the scanner does not understand is told as such.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use sluice_events::commands::ScanImage;
use sluice_events::wire::state::{Verdict, VerdictStatus};
use sluice_state::key;
use sluice_tests::content::{JINJA, NEW_LIBC, OLD_LIBC, debian};
use sluice_tests::{Database, Image, Stack, tool, wait_for};

const UPDATED: &str = "2020-01-02T00:00:00Z";
fn scanning() -> Stack {
    let mut stack = Stack::start(7_200);
    Database::of(UPDATED).publish(&stack);
    stack.scanner(&[]);
    stack
}

/// Waits for what is told of an image.
fn told(stack: &Stack, event: &str, image: &Image) -> Value {
    let about = |fact: &Value| fact["data"]["digest"] == image.digest;
    wait_for(&format!("{event} of {}", image.digest), 60, || {
        stack.events(event).into_iter().find(about)
    })["data"]
        .clone()
}

/// Reads the verdict on a manifest, with its report and its bill of materials.
fn verdict(stack: &Stack, digest: &str) -> (Option<Verdict>, Value, Value) {
    let bus = stack.bus();
    let key = key::verdict(&digest.parse().unwrap());
    let verdict = bus.run(bus.state.verdicts.get(&key)).unwrap();
    let verdict = verdict.map(|entry| entry.value);
    let document = |stored: &str| match stored {
        "" => Value::Null,
        stored => serde_json::from_slice(&bus.run(bus.state.report(stored)).unwrap()).unwrap(),
    };
    let (report, sbom) = verdict
        .as_ref()
        .map_or((Value::Null, Value::Null), |verdict| {
            (document(&verdict.report_key), document(&verdict.sbom_key))
        });
    (verdict, report, sbom)
}

#[test]
fn a_scanner_that_is_stopped_leaves_what_waits_to_others() {
    let mut stack = Stack::start(7_200);
    stack.may_leave_messages();
    Database::of(UPDATED).publish(&stack);
    let few = ("SLUICE__SCANNER__CONCURRENCY", "1");
    let scanner = stack.scanner(&[few, ("SLUICE__HTTP__GRACE_SECONDS", "5")]);
    let (writer, bus) = (stack.as_service("mirror-worker"), stack.bus());
    // Far more than are scanned in the time that it has to end.
    for number in 0..100 {
        let name = format!("opt/{number}");
        let mut files: Vec<(&str, &str)> = debian(&[NEW_LIBC]);
        files.push((&name, "x"));
        let image = writer.files("hub/app", "amd64", &files);
        bus.command(ScanImage {
            repository: "hub/app".parse().unwrap(),
            tag: None,
            digest: image.digest.parse().unwrap(),
        });
    }
    wait_for("some to be scanned", 60, || {
        (!stack.events("scan.succeeded").is_empty()).then_some(())
    });
    assert_eq!(stack.stop(scanner), Some(0));
    assert!(stack.events("scan.succeeded").len() < 100);
}

/// Returns what a bill of materials says of the image and its parts, and what needs what, whatever each is called in it.
fn contents(sbom: &Value) -> (BTreeSet<String>, BTreeSet<(String, String)>) {
    let mut names = BTreeMap::new();
    let mut components = BTreeSet::new();
    let all = sbom["components"].as_array().unwrap().iter();
    for component in all.chain([&sbom["metadata"]["component"]]) {
        let mut component = component.clone();
        let reference = component.as_object_mut().unwrap().remove("bom-ref");
        let name = format!("{} {}", component["type"], component["name"]);
        names.insert(reference.unwrap().as_str().unwrap().to_owned(), name);
        let properties = component["properties"].as_array_mut().unwrap();
        properties.sort_by_key(Value::to_string);
        components.insert(component.to_string());
    }
    let mut needs = BTreeSet::new();
    for dependency in sbom["dependencies"].as_array().unwrap() {
        for needed in dependency["dependsOn"].as_array().unwrap() {
            let name = |reference: &Value| names[reference.as_str().unwrap()].clone();
            needs.insert((name(&dependency["ref"]), name(needed)));
        }
    }
    (components, needs)
}

#[test]
fn a_bill_of_materials_says_what_trivy_would_say() {
    const STATUS: &str = "Package: libc6\nStatus: install ok installed\nSource: glibc (2.36-8)\nArchitecture: amd64\nVersion: 2.36-9+deb12u99\nMaintainer: A <a@b>\nDepends: libgcc-s1\nDescription: b\n\n\
        Package: libgcc-s1\nStatus: install ok installed\nSource: gcc-12\nArchitecture: amd64\nVersion: 1:12.2.0-14\nMaintainer: b\nDescription: b\n\n";
    const SCOPED: &str = r#"{"name":"@babel/core","version":"7.0.0","license":"MIT"}"#;
    const PLAIN: &str = r#"{"name":"left-pad","version":"1.3.0","license":"WTFPL"}"#;
    let mut stack = scanning();
    let publisher = stack.mirrored();
    let image = publisher.files(
        "library/app",
        "amd64",
        &debian(&[
            ("var/lib/dpkg/status", STATUS),
            ("app/node_modules/@babel/core/package.json", SCOPED),
            ("app/node_modules/left-pad/package.json", PLAIN),
            ("opt/node_modules/left-pad/package.json", PLAIN),
            JINJA,
        ]),
    );
    publisher.put("library/app", "1.0", &image);
    told(&stack, "scan.succeeded", &image);
    let (_, report, sbom) = verdict(&stack, &image.digest);
    let [from, to] = ["report.json", "sbom.json"].map(|name| stack.folder().join(name));
    fs::write(&from, report.to_string()).unwrap();
    let converted = Command::new(tool("trivy"))
        .args(["convert", "--format", "cyclonedx", "--output"])
        .args([&to, &from])
        .output()
        .unwrap();
    assert!(converted.status.success(), "{converted:?}");
    let theirs: Value = serde_json::from_slice(&fs::read(&to).unwrap()).unwrap();
    let (ours, theirs) = (contents(&sbom), contents(&theirs));
    assert_eq!(ours, theirs);
    assert_eq!((ours.0.len(), ours.1.len()), (8, 6));
}

#[test]
fn findings_are_told_counted_and_kept() {
    let mut stack = scanning();
    let publisher = stack.mirrored();
    let image = publisher.files("library/app", "amd64", &debian(&[OLD_LIBC, JINJA]));
    publisher.put("library/app", "1.0", &image);
    let fact = told(&stack, "scan.succeeded", &image);
    let counts = json!({ "critical": 0, "high": 4, "medium": 2, "low": 0, "unknown": 0 });
    assert_eq!(fact["counts"], counts);
    assert_eq!(fact["databaseVersion"], UPDATED);
    assert_eq!(
        (&fact["repository"], &fact["tag"]),
        (&json!("hub/app"), &json!("1.0"))
    );
    assert_eq!(fact["children"][0]["platform"], "linux/amd64");
    assert_eq!(fact["children"][0]["os"], "debian 12.5");
    let (verdict, report, sbom) = verdict(&stack, &image.digest);
    let verdict = verdict.unwrap();
    assert_eq!(verdict.status(), VerdictStatus::Covered);
    assert_eq!((verdict.packages, verdict.fixable), (2, 6));
    assert_eq!(
        (verdict.dtr_critical, verdict.dtr_major, verdict.dtr_minor),
        (4, 2, 0)
    );
    assert_eq!(verdict.database_version, UPDATED);
    assert_eq!(report["ArtifactType"], "container_image");
    assert_eq!(sbom["bomFormat"], "CycloneDX");

    // A clean image.
    let clean = publisher.files("library/app", "amd64", &debian(&[NEW_LIBC]));
    publisher.put("library/app", "1.1", &clean);
    let fact = told(&stack, "scan.succeeded", &clean);
    assert_eq!(fact["counts"]["high"], 0);
    assert_eq!(fact["children"][0]["endOfLife"], false);

    // The same digest at another tag is not scanned again, and told all the same.
    let before = self::verdict(&stack, &image.digest).0.unwrap().scanned_at;
    publisher.put("library/app", "1.3", &image);
    wait_for("the second tag to be told", 60, || {
        let facts = stack.events("scan.succeeded");
        facts.into_iter().find(|fact| fact["data"]["tag"] == "1.3")
    });
    assert_eq!(
        self::verdict(&stack, &image.digest).0.unwrap().scanned_at,
        before
    );
}

#[test]
fn an_index_is_told_once_with_all_its_platforms() {
    let mut stack = scanning();
    let publisher = stack.mirrored();
    let amd64 = publisher.files("library/app", "amd64", &debian(&[OLD_LIBC]));
    let arm64 = publisher.files("library/app", "arm64", &[JINJA]);
    let index = publisher.index("library/app", &[("amd64", &amd64), ("arm64", &arm64)]);
    publisher.put("library/app", "1.0", &index);
    let fact = told(&stack, "scan.succeeded", &index);
    let counts = json!({ "critical": 0, "high": 4, "medium": 2, "low": 0, "unknown": 0 });
    assert_eq!(fact["counts"], counts);
    let child = |number: usize| {
        let child = &fact["children"][number];
        (
            child["platform"].as_str(),
            child["digest"].as_str(),
            child["counts"]["high"].as_u64(),
        )
    };
    assert_eq!(
        child(0),
        (Some("linux/amd64"), Some(amd64.digest.as_str()), Some(3))
    );
    assert_eq!(
        child(1),
        (Some("linux/arm64"), Some(arm64.digest.as_str()), Some(1))
    );
    assert_eq!(fact["children"].as_array().unwrap().len(), 2);
    assert_eq!(stack.events("scan.succeeded").len(), 1);
    for (digest, platform) in [
        (&amd64.digest, "linux/amd64"),
        (&arm64.digest, "linux/arm64"),
    ] {
        assert_eq!(verdict(&stack, digest).0.unwrap().platform, platform);
    }
}

#[test]
fn what_the_scanner_does_not_understand_is_told_as_unsupported() {
    let mut stack = scanning();
    let publisher = stack.mirrored();
    let scratch = publisher.files("library/app", "amd64", &[("hello.txt", "hello")]);
    let bare = publisher.files("library/app", "amd64", &debian(&[]));
    let layer = publisher.blob(
        "library/app",
        "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        b"x",
    );
    let config = publisher.blob(
        "library/app",
        "application/vnd.cncf.helm.config.v1+json",
        b"{}",
    );
    let chart = publisher.artifact("library/app", config, layer);
    let good = publisher.files("library/app", "amd64", &debian(&[NEW_LIBC]));
    let mixed = publisher.index("library/app", &[("amd64", &good), ("arm64", &scratch)]);
    for (tag, image, reason) in [
        ("1.0", &scratch, "neither"),
        ("1.1", &bare, "no packages"),
        ("1.2", &chart, "helm"),
        ("1.3", &mixed, "neither"),
    ] {
        publisher.put("library/app", tag, image);
        let fact = told(&stack, "scan.failed", image);
        assert_eq!(fact["unsupported"], true);
        assert!(fact["reason"].as_str().unwrap().contains(reason), "{fact}");
    }
    assert_eq!(
        told(&stack, "scan.failed", &mixed)["platform"],
        "linux/arm64"
    );
    for digest in [&scratch.digest, &bare.digest, &chart.digest] {
        let verdict = verdict(&stack, digest).0.unwrap();
        assert_eq!(verdict.status(), VerdictStatus::Unsupported);
    }
    assert_eq!(
        verdict(&stack, &good.digest).0.unwrap().status(),
        VerdictStatus::Covered
    );
    assert!(stack.events("scan.succeeded").is_empty());
}

#[test]
fn a_system_of_which_the_database_knows_nothing_is_unsupported() {
    let mut stack = scanning();
    let publisher = stack.mirrored();
    for (tag, release) in [
        ("1.0", "ID=debian\nVERSION_ID=\"99\"\n"),
        ("1.1", "ID=debian\nVERSION_ID=\"10\"\n"),
    ] {
        let mut files: Vec<(&str, &str)> = debian(&[NEW_LIBC]);
        for file in &mut files {
            match file.0 {
                "etc/os-release" => file.1 = release,
                "etc/debian_version" => file.1 = if tag == "1.0" { "99.1\n" } else { "10.13\n" },
                _ => {}
            }
        }
        let image = publisher.files("library/app", "amd64", &files);
        publisher.put("library/app", tag, &image);
        let fact = told(&stack, "scan.failed", &image);
        assert_eq!(fact["unsupported"], true);
        let reason = fact["reason"].as_str().unwrap();
        assert!(reason.contains("knows nothing of `debian"), "{reason}");
        // Whether it gets updates is known all the same.
        let verdict = verdict(&stack, &image.digest).0.unwrap();
        assert_eq!(verdict.end_of_life, tag == "1.1");
    }
    assert!(stack.events("scan.succeeded").is_empty());
}

#[test]
fn a_language_of_which_the_database_knows_nothing_is_unsupported() {
    let mut stack = scanning();
    let publisher = stack.mirrored();
    let gem = (
        "usr/lib/ruby/gems/3.0.0/specifications/rack-1.0.gemspec",
        "Gem::Specification.new do |s|\n  s.name = \"rack\".freeze\n  s.version = \"1.0\"\nend\n",
    );
    let image = publisher.files("library/app", "amd64", &debian(&[NEW_LIBC, gem]));
    publisher.put("library/app", "1.0", &image);
    let fact = told(&stack, "scan.failed", &image);
    assert_eq!(fact["unsupported"], true);
    let reason = fact["reason"].as_str().unwrap();
    assert!(
        reason.contains("packages of the kind `gemspec`"),
        "{reason}"
    );
    assert!(stack.events("scan.succeeded").is_empty());
}

#[test]
fn a_runnable_manifest_that_is_called_an_attestation_is_scanned_too() {
    let mut stack = scanning();
    let publisher = stack.mirrored();
    let good = publisher.files("library/app", "amd64", &debian(&[NEW_LIBC]));
    let hidden = publisher.files("library/app", "amd64", &[("hello.txt", "hello")]);
    let plain = publisher.index("library/app", &[("amd64", &hidden), ("arm64", &good)]);
    let mut index: Value = serde_json::from_slice(&plain.raw).unwrap();
    index["manifests"][0]["annotations"] =
        json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let index = Image::index(&index);
    publisher.put("library/app", "1.0", &index);
    let fact = told(&stack, "scan.failed", &index);
    assert_eq!(fact["unsupported"], true);
    assert_eq!(fact["platform"], "linux/amd64");
    assert!(stack.events("scan.succeeded").is_empty());
}

#[test]
fn an_image_that_claims_the_layers_of_a_clean_one_is_found_out() {
    let mut stack = scanning();
    let publisher = stack.mirrored();
    let (clean, vulnerable) = (debian(&[NEW_LIBC]), debian(&[OLD_LIBC]));
    let honest = publisher.files("library/app", "amd64", &clean);
    publisher.put("library/app", "1.0", &honest);
    assert_eq!(told(&stack, "scan.succeeded", &honest)["counts"]["high"], 0);
    let liar = publisher.claiming("library/app", "amd64", &clean, &vulnerable);
    publisher.put("library/app", "1.1", &liar);
    let fact = told(&stack, "scan.failed", &liar);
    assert_eq!(fact["unsupported"], true);
    let reason = fact["reason"].as_str().unwrap();
    assert!(reason.contains("rule 11"), "{reason}");
}

#[test]
fn an_image_that_cannot_be_scanned_is_told_with_the_reason() {
    let mut stack = Stack::start(7_200);
    Database::of(UPDATED).publish(&stack);
    let publisher = stack.mirrored();
    let image = publisher.files("library/app", "amd64", &debian(&[OLD_LIBC]));
    publisher.put("library/app", "1.0", &image);
    wait_for("the image to be mirrored", 60, || {
        stack.events("tag.mirrored").pop()
    });
    // It disappears between the copy and the scan, and so does what was known of it.
    stack
        .as_service("mirror-worker")
        .delete("hub/app", &image.digest);
    stack.scanner(&[]);
    let fact = told(&stack, "scan.failed", &image);
    assert_eq!(fact["unsupported"], false);
    assert!(
        fact["reason"].as_str().unwrap().contains("no longer"),
        "{fact}"
    );
    assert_eq!(verdict(&stack, &image.digest).0, None);
    wait_for("the dead letter", 30, || {
        (stack.status()["deadLetters"] == 1).then_some(())
    });
    stack.may_leave_messages();
}
