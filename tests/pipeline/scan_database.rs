//! Nothing is scanned by a database that was not checked, and a scanner that dies is started again.

use std::collections::BTreeSet;
use std::fs;

use sluice_tests::scanner::{children, is_alive, kill, publish_java_index};
use sluice_tests::{Database, Stack, Upstream, wait_for};

const FIRST: &str = "2020-01-02T00:00:00Z";
const SECOND: &str = "2020-01-04T00:00:00Z";
const THIRD: &str = "2020-01-06T00:00:00Z";
/// A version of Jinja2 with vulnerabilities.
const PACKAGE: (&str, &str) = (
    "usr/lib/python3/dist-packages/Jinja2-2.10.dist-info/METADATA",
    "Metadata-Version: 2.1\nName: Jinja2\nVersion: 2.10\n\n",
);

/// Publishes an image of its own at a tag.
fn publish(publisher: &Upstream, tag: &str) {
    let image = publisher.files("library/app", "amd64", &[PACKAGE, ("tag", tag)]);
    publisher.put("library/app", tag, &image);
}

fn scanned(stack: &Stack, count: usize) {
    wait_for(&format!("{count} images to be scanned"), 180, || {
        (stack.events("scan.succeeded").len() >= count).then_some(())
    });
}

/// Returns the process of the Trivy server that an adapter keeps.
fn server_of(stack: &Stack, adapter: usize) -> u32 {
    wait_for("the Trivy server", 30, || {
        children(stack.process_id(adapter))
            .into_iter()
            .find(|child| {
                let arguments =
                    fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
                arguments.contains("\0server\0")
            })
    })
}

fn database_versions(stack: &Stack) -> Vec<String> {
    let facts = stack.events("scanner.database_updated");
    facts
        .iter()
        .map(|fact| fact["data"]["databaseVersion"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn nothing_is_scanned_by_a_broken_database() {
    let mut stack = Stack::start(7_200);
    let good = Database::of(FIRST);
    // Trivy opens an empty file without a word and finds nothing in anything.
    good.clone().truncated(0).publish(&stack);
    let publisher = stack.mirrored();
    publish(&publisher, "1.0");
    let adapter = stack.begin_scanner(&[]);
    let refused = |stack: &Stack, reason: &str| {
        wait_for("the database to be refused", 60, || {
            let told = stack.readiness("scanner-adapter", adapter)?;
            told.contains(reason).then_some(told)
        })
    };
    assert!(refused(&stack, "cut off").contains("vulnerability database"));
    let of_npm = ("npm::Sluice advisories", 0);
    good.clone().reduced(&[of_npm]).publish(&stack);
    wait_for("the image to be mirrored", 60, || {
        stack.events("tag.mirrored").pop()
    });
    refused(&stack, "well-known vulnerabilities of node-pkg");
    for event in ["scan.succeeded", "scan.failed", "scanner.database_updated"] {
        assert!(stack.events(event).is_empty(), "{event}");
    }
    assert!(!stack.is_quiet(), "the message must wait");
    good.publish(&stack);
    scanned(&stack, 1);
    assert_eq!(
        stack.readiness("scanner-adapter", adapter).unwrap(),
        "ready"
    );
    assert_eq!(database_versions(&stack), [FIRST]);
    assert!(stack.events("scan.failed").is_empty());
}

#[test]
fn a_database_that_cannot_be_fetched_is_waited_for() {
    let mut stack = Stack::start(7_200);
    let adapter = stack.begin_scanner(&[]);
    wait_for("the failure to be told", 60, || {
        let told = stack.readiness("scanner-adapter", adapter)?;
        told.contains("trivy.database_repository").then_some(())
    });
    let other = stack.begin_scanner(&[]);
    wait_for("the other to answer", 30, || {
        stack.readiness("scanner-adapter", other)
    });
    assert_eq!(stack.stop(other), Some(0), "it stops while it waits");
    Database::of(FIRST).publish(&stack);
    wait_for("the scanner to be ready", 60, || {
        (stack.readiness("scanner-adapter", adapter)? == "ready").then_some(())
    });
}

#[test]
fn a_newer_database_is_taken_over_and_a_broken_or_older_one_is_not() {
    let mut stack = Stack::start(7_200);
    Database::of(SECOND).publish(&stack);
    let adapter = stack.scanner(&[("SLUICE__TRIVY__DATABASE_CHECK_SECONDS", "1")]);
    let publisher = stack.mirrored();
    let before = server_of(&stack, adapter);
    let good = Database::of(THIRD);
    let size = good.bytes.len();
    good.clone().truncated(size / 2).publish(&stack);
    let log = stack
        .folder()
        .join(format!("scanner-adapter-{adapter}.log"));
    wait_for("the broken database to be refused", 60, || {
        let log = fs::read_to_string(&log).unwrap();
        log.contains("stays in use").then_some(())
    });
    assert_eq!(
        stack.readiness("scanner-adapter", adapter).unwrap(),
        "ready"
    );
    publish(&publisher, "1.0");
    scanned(&stack, 1);
    assert_eq!(
        stack.events("scan.succeeded")[0]["data"]["databaseVersion"],
        SECOND
    );
    good.publish(&stack);
    wait_for("the newer database to be told", 60, || {
        (database_versions(&stack) == [SECOND, THIRD]).then_some(())
    });
    wait_for("the old server to end", 30, || {
        (!is_alive(before)).then_some(())
    });
    Database::of(FIRST).publish(&stack);
    publish(&publisher, "1.1");
    scanned(&stack, 2);
    assert_eq!(
        stack.events("scan.succeeded")[1]["data"]["databaseVersion"],
        THIRD
    );
    // An image that the older database judged is scanned again when it comes again.
    let image = publisher.files("library/app", "amd64", &[PACKAGE, ("tag", "1.0")]);
    publisher.put("library/app", "1.2", &image);
    scanned(&stack, 3);
    let again = &stack.events("scan.succeeded")[2]["data"];
    assert_eq!(
        (&again["tag"], &again["databaseVersion"]),
        (&"1.2".into(), &THIRD.into())
    );
    assert_eq!(database_versions(&stack), [SECOND, THIRD]);
}

#[test]
fn a_server_that_is_killed_is_started_again_and_dies_with_its_adapter() {
    let mut stack = Stack::start(7_200);
    Database::of(FIRST).publish(&stack);
    let adapter = stack.scanner(&[]);
    let publisher = stack.mirrored();
    publish(&publisher, "1.0");
    scanned(&stack, 1);
    let first = server_of(&stack, adapter);
    for tag in 1..=6 {
        publish(&publisher, &format!("1.{tag}"));
    }
    scanned(&stack, 2);
    kill(first);
    scanned(&stack, 7);
    let second = server_of(&stack, adapter);
    assert_ne!(first, second);
    assert!(stack.events("scan.failed").is_empty());
    stack.kill(adapter);
    wait_for("the server to die with its adapter", 10, || {
        (!is_alive(second)).then_some(())
    });
    // The next adapter uses what is there; the place of the database need not answer.
    stack.scanner(&[(
        "SLUICE__TRIVY__DATABASE_REPOSITORY",
        "127.0.0.1:1/trivy-db:2",
    )]);
    publish(&publisher, "2.0");
    scanned(&stack, 8);
    assert_eq!(database_versions(&stack), [FIRST]);
}

#[test]
fn replicas_share_the_work_and_a_place_for_their_files() {
    let mut stack = Stack::start(1);
    Database::of(FIRST).publish(&stack);
    let first = stack.scanner(&[]);
    let second = stack.scanner(&[]);
    assert_ne!(server_of(&stack, first), server_of(&stack, second));
    let publisher = stack.mirrored();
    for tag in 0..12 {
        publish(&publisher, &format!("1.{tag}"));
    }
    scanned(&stack, 2);
    stack.kill(first);
    scanned(&stack, 12);
    // A killed replica's message comes back after `ack_wait`, which is 30 s.
    wait_for("every stage to be done", 90, || {
        stack.is_quiet().then_some(())
    });
    let facts = stack.events("scan.succeeded");
    let ids: BTreeSet<_> = facts.iter().map(|fact| fact["id"].to_string()).collect();
    assert_eq!(ids.len(), 12, "each tag is told");
    assert_eq!(stack.stop(second), Some(0));
}

#[test]
fn the_index_of_java_archives_is_fetched_when_an_image_has_some() {
    let mut stack = Stack::start(7_200);
    Database::of(FIRST).publish(&stack);
    let place = format!("{}/trivy-java-db:1", stack.upstream.host);
    let adapter = stack.scanner(&[("SLUICE__TRIVY__JAVA_DATABASE_REPOSITORY", &place)]);
    let publisher = stack.mirrored();
    // An archive of no files, which is its end mark alone.
    let empty = format!("PK\x05\x06{}", "\0".repeat(18));
    let files = [PACKAGE, ("app/app.jar", empty.as_str())];
    let image = publisher.files("library/app", "amd64", &files);
    publisher.put("library/app", "1.0", &image);
    let log = stack
        .folder()
        .join(format!("scanner-adapter-{adapter}.log"));
    wait_for("the missing index to be told", 60, || {
        let log = fs::read_to_string(&log).unwrap();
        log.contains("trivy.java_database_repository").then_some(())
    });
    assert!(stack.events("scan.succeeded").is_empty());
    publish_java_index(&stack);
    scanned(&stack, 1);
}
