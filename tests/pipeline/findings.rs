//! The findings of scans: those of an image are what Trivy says by hand, and images are found by them.

use std::collections::BTreeSet;
use std::process::Command;

use reqwest::blocking::Client;
use serde_json::{Value, json};
use sluice_events::wire::state::VerdictStatus;
use sluice_state::key;
use sluice_tests::content::{JINJA, NEW_LIBC, OLD_LIBC, debian};
use sluice_tests::{Database, Image, Stack, tool, wait_for};

const FIRST: &str = "2020-01-02T00:00:00Z";
const LEFT_PAD: (&str, &str) = (
    "app/node_modules/left-pad/package.json",
    r#"{"name":"left-pad","version":"1.3.0","license":"WTFPL"}"#,
);

fn scanned(stack: &Stack, image: &Image) {
    wait_for("the scan", 60, || {
        let told = stack.events("scan.succeeded").into_iter();
        told.into_iter()
            .find(|fact| fact["data"]["digest"] == image.digest)
    });
}

fn findings(stack: &Stack, arguments: &[&str]) -> Value {
    let arguments = [&["findings"], arguments, &["-o", "json"]].concat();
    serde_json::from_str(&stack.sluice(&arguments)).unwrap()
}

/// Returns id, package and severity of each finding.
fn named(findings: &Value) -> BTreeSet<String> {
    let all = findings.as_array().unwrap().iter();
    all.map(|one| {
        let severity = one["severity"].as_str().unwrap().to_uppercase();
        format!(
            "{} {} {severity}",
            one["id"].as_str().unwrap(),
            one["package"].as_str().unwrap()
        )
    })
    .collect()
}

#[test]
fn the_findings_of_an_image_are_those_that_trivy_reports() {
    let mut stack = Stack::start(7_200);
    let database = Database::of(FIRST);
    database.publish(&stack);
    stack.scanner(&[]);
    let publisher = stack.mirrored();
    let image = publisher.files(
        "library/app",
        "amd64",
        &debian(&[OLD_LIBC, JINJA, LEFT_PAD]),
    );
    publisher.put("library/app", "1.0", &image);
    scanned(&stack, &image);

    let shown = findings(&stack, &["hub/app:1.0"]);
    let ours = named(&shown["manifests"][0]["findings"]);
    let cache = stack.folder().join("by-hand");
    database.write(&cache);
    let output = Command::new(tool("trivy"))
        .args(["image", "--format", "json", "--scanners", "vuln", "--quiet"])
        .args([
            "--detection-priority",
            "comprehensive",
            "--insecure",
            "--skip-db-update",
        ])
        .args([
            "--skip-java-db-update",
            "--offline-scan",
            "--image-src",
            "remote",
            "--cache-dir",
        ])
        .arg(&cache)
        .arg(format!("{}/library/app:1.0", stack.upstream.host))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let blocks = report["Results"].as_array().unwrap().iter();
    let theirs: BTreeSet<String> = blocks
        .flat_map(|block| block["Vulnerabilities"].as_array().into_iter().flatten())
        .map(|one| {
            let text = |name: &str| one[name].as_str().unwrap();
            format!(
                "{} {} {}",
                text("VulnerabilityID"),
                text("PkgName"),
                text("Severity")
            )
        })
        .collect();
    assert_eq!(ours, theirs);
    assert_eq!(ours.len(), 6);

    // Each filter leaves out something.
    let high = findings(&stack, &["hub/app:1.0", "--severity", "high"]);
    assert_eq!(
        high["manifests"][0]["findings"].as_array().unwrap().len(),
        4
    );
    let table = stack.sluice(&["findings", "hub/app:1.0", "--severity", "high"]);
    assert_eq!(table.matches("CVE-").count(), 4, "{table}");
    let csv = stack.sluice(&["findings", "hub/app:1.0", "-o", "csv"]);
    assert_eq!(csv.lines().count(), 7, "{csv}");
    let sarif: Value =
        serde_json::from_str(&stack.sluice(&["findings", "hub/app:1.0", "-o", "sarif"])).unwrap();
    assert_eq!(sarif["runs"][0]["results"].as_array().unwrap().len(), 6);
    let bill: Value =
        serde_json::from_str(&stack.sluice(&["findings", "hub/app:1.0", "-o", "cyclonedx"]))
            .unwrap();
    let references: BTreeSet<&str> = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["bom-ref"].as_str().unwrap())
        .collect();
    let vulnerabilities = bill["vulnerabilities"].as_array().unwrap();
    assert_eq!(vulnerabilities.len(), 6);
    for affected in vulnerabilities
        .iter()
        .flat_map(|one| one["affects"].as_array().unwrap())
    {
        assert!(
            references.contains(affected["ref"].as_str().unwrap()),
            "{affected}"
        );
    }
    let same = stack.sluice(&["findings", "hub/app:1.0", "--diff", "hub/app:1.0"]);
    assert_eq!(same.trim(), "no differences");
    let none = stack.try_sluice(&["findings", "hub/app:1.0", "--diff", "previous"]);
    assert!(
        String::from_utf8_lossy(&none.stderr).contains("no scan of"),
        "{none:?}"
    );
    let missing = stack.try_sluice(&["findings", "hub/app:9"]);
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("`hub/app:9` not found"));
}

#[test]
fn images_are_found_by_vulnerability_package_and_licence_and_what_no_scan_covers_is_counted() {
    let mut stack = Stack::start(7_200);
    Database::of(FIRST).publish(&stack);
    stack.scanner(&[]);
    let publisher = stack.mirrored();
    let old = publisher.files("library/app", "amd64", &debian(&[OLD_LIBC]));
    let new = publisher.files("library/app", "arm64", &debian(&[NEW_LIBC, LEFT_PAD]));
    let index = publisher.index("library/app", &[("amd64", &old), ("arm64", &new)]);
    publisher.put("library/app", "1.0", &index);
    publisher.put("library/app", "1.1", &new);
    scanned(&stack, &index);
    scanned(&stack, &new);
    let unsupported = publisher.files("library/app", "amd64", &[("hello.txt", "hello")]);
    publisher.put("library/app", "1.2", &unsupported);
    wait_for("the refusal", 60, || {
        (!stack.events("scan.failed").is_empty()).then_some(())
    });

    let images = |found: &Value| -> Vec<String> {
        let images = found["images"].as_array().unwrap().iter();
        images
            .map(|one| one["image"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = findings(&stack, &[&format!("hub/app@{}", old.digest)]);
    let id = all["manifests"][0]["findings"][0]["id"]
        .as_str()
        .unwrap()
        .to_lowercase();
    let found = findings(&stack, &["--cve", &id]);
    assert_eq!(images(&found), ["hub/app:1.0"]);
    let manifests = found["images"][0]["manifests"].as_array().unwrap();
    assert_eq!(manifests.len(), 1);
    assert_eq!(manifests[0]["platform"], "linux/amd64");
    assert_eq!(found["unknownTags"], 1);

    let found = findings(&stack, &["--package", "left-pad"]);
    assert_eq!(images(&found), ["hub/app:1.0", "hub/app:1.1"]);
    assert_eq!(
        found["images"][0]["manifests"][0]["packages"][0]["version"],
        "1.3.0"
    );
    assert_eq!(
        images(&findings(&stack, &["--license", "wtfpl"])),
        ["hub/app:1.0", "hub/app:1.1"]
    );
    assert_eq!(
        images(&findings(
            &stack,
            &["--package", "left-pad", "--in", "official/*"]
        )),
        [""; 0]
    );
    let first = findings(&stack, &["--package", "left-pad", "--limit", "1"]);
    assert_eq!((images(&first).len(), &first["total"]), (1, &json!(2)));

    // The API says the same.
    let api = |path: &str| -> Value {
        let url = format!("http://{}/api/v1/{path}", stack.api);
        let answer = Client::new()
            .get(url)
            .bearer_auth(stack.api_token())
            .send()
            .unwrap();
        answer.json().unwrap()
    };
    let found = api("findings?package=left-pad");
    assert_eq!(images(&found), ["hub/app:1.0", "hub/app:1.1"]);
    assert_eq!(
        api("findings/hub/app:1.0")["manifests"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    for (path, code) in [
        ("findings", "invalid_request"),
        ("findings?package=a&license=b", "invalid_request"),
        ("findings?package=a&limit=0", "invalid_request"),
        ("findings/hub/app:9", "not_found"),
    ] {
        assert_eq!(api(path)["code"], code, "{path}");
    }

    // A verdict that is too small for its lists is searched by its document.
    let bus = stack.bus();
    let verdict = key::verdict(&new.digest.parse().unwrap());
    let omitted = bus.state.verdicts.modify(&verdict, |verdict, _| {
        verdict.lists_omitted = true;
        verdict.package_names.clear();
        assert_eq!(verdict.status(), VerdictStatus::Covered);
    });
    bus.run(omitted).unwrap();
    assert_eq!(
        images(&findings(&stack, &["--package", "left-pad"])),
        ["hub/app:1.0", "hub/app:1.1"]
    );
    assert_eq!(
        images(&findings(&stack, &["--package", "right-pad"])),
        [""; 0]
    );
}
