//! A vulnerability database that is not plausible is not used, and nothing but what is in it speaks against one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use sluice_tests::content::{JINJA, OLD_LIBC, debian};
use sluice_tests::{Database, Stack, tool, wait_for};

const DAY: i64 = 86_400;
const A_WEEK: (&str, &str) = ("SLUICE__TRIVY__DATABASE_MAX_AGE_DAYS", "7");
const OFTEN: (&str, &str) = ("SLUICE__TRIVY__DATABASE_CHECK_SECONDS", "1");
const NOWHERE: (&str, &str) = (
    "SLUICE__TRIVY__DATABASE_REPOSITORY",
    "127.0.0.1:1/trivy-db:2",
);

/// Waits until an adapter says of itself something with this in it.
fn says(stack: &Stack, adapter: usize, part: &str) -> String {
    wait_for(&format!("`{part}` to be told"), 90, || {
        let told = stack.readiness("scanner-adapter", adapter)?;
        told.contains(part).then_some(told)
    })
}

fn log(stack: &Stack, adapter: usize) -> String {
    let path = format!("scanner-adapter-{adapter}.log");
    fs::read_to_string(stack.folder().join(path)).unwrap()
}

/// Waits until the log of an adapter has something in it.
fn logs(stack: &Stack, adapter: usize, part: &str) {
    wait_for(&format!("`{part}` to be logged"), 90, || {
        log(stack, adapter).contains(part).then_some(())
    });
}

/// Waits until a database is told to be used.
fn is_used(stack: &Stack, database: &Database) {
    let made = database.updated_at();
    wait_for("the database to be used", 90, || {
        let facts = stack.events("scanner.database_updated");
        let last = facts.last()?;
        (last["data"]["databaseVersion"] == made.as_str()).then_some(())
    });
}

/// Makes a program that runs a part of a script first, and then Trivy.
fn trivy_after(stack: &Stack, before: &str) -> PathBuf {
    let program = stack.folder().join("program");
    let trivy = tool("trivy");
    let script = format!("#!/bin/sh\n{before}\nexec {} \"$@\"\n", trivy.display());
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// The folders of the databases that an adapter holds.
fn databases(stack: &Stack) -> Vec<PathBuf> {
    let folder = stack.folder().join("trivy/adapter-0");
    let all = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    all.filter(|path| path.join("db/trivy.db").exists())
        .collect()
}

#[test]
fn a_database_from_the_future_or_of_long_ago_is_not_used() {
    let mut stack = Stack::start(7_200);
    Database::of_age(-DAY).publish(&stack);
    let adapter = stack.begin_scanner(&[A_WEEK]);
    says(&stack, adapter, "future");
    Database::of_age(8 * DAY).publish(&stack);
    says(&stack, adapter, "trivy.database_max_age_days");
    let metrics = stack.metrics("scanner-adapter", adapter);
    let refused = "sluice_vulnerability_database_refusals_total{reason=\"age\"}";
    assert!(metrics.contains(refused), "{metrics}");
    assert!(stack.events("scanner.database_updated").is_empty());
    let good = Database::of_age(60);
    good.publish(&stack);
    is_used(&stack, &good);
}

#[test]
fn a_database_that_has_become_too_old_is_kept_and_not_used_until_there_is_a_newer_one() {
    let mut stack = Stack::start(7_200);
    let old = Database::of_age(8 * DAY);
    old.publish(&stack);
    let adapter = stack.scanner(&[]);
    stack.stop(adapter);
    // The place where a newer one would be does not answer.
    let adapter = stack.begin_scanner(&[A_WEEK, NOWHERE]);
    says(&stack, adapter, "vulnerability database");
    logs(&stack, adapter, "trivy.database_max_age_days");
    assert_eq!(databases(&stack).len(), 1);
    stack.stop(adapter);
    // It was a clock that was wrong.
    let adapter = stack.scanner(&[NOWHERE]);
    stack.stop(adapter);
    let new = Database::of_age(60);
    new.publish(&stack);
    stack.scanner(&[A_WEEK]);
    is_used(&stack, &new);
}

#[test]
fn an_adapter_that_is_stopped_while_it_starts_ends_at_once() {
    let mut stack = Stack::start(7_200);
    let program = trivy_after(&stack, "[ \"$1\" = --version ] && sleep 5");
    let binary = ("SLUICE__TRIVY__BINARY", program.to_str().unwrap());
    // The version is asked for a second time while there is no database yet.
    let adapter = stack.begin_scanner(&[binary, NOWHERE]);
    logs(&stack, adapter, "nothing is scanned until");
    stack.stop(adapter);
    let database = "the vulnerability database cannot be fetched";
    let attempts = log(&stack, adapter).matches(database).count();
    assert_eq!(attempts, 1, "{}", log(&stack, adapter));
}

#[test]
fn a_database_that_lost_advisories_is_used_only_once_a_person_accepts_it() {
    let mut stack = Stack::start(7_200);
    let good = Database::of_age(3 * DAY);
    good.publish(&stack);
    let adapter = stack.scanner(&[OFTEN]);
    let publisher = stack.mirrored();
    // What is left of it passes the canaries.
    let smaller = Database::of_age(DAY).reduced(&[("pip::Sluice advisories", 2)]);
    smaller.publish(&stack);
    logs(&stack, adapter, "trivy.accepted_database");
    logs(&stack, adapter, "the present one stays in use");
    let metrics = stack.metrics("scanner-adapter", adapter);
    let refused = "sluice_vulnerability_database_refusals_total{reason=\"shrunk\"}";
    assert!(metrics.contains(refused), "{metrics}");
    let image = publisher.files("library/app", "amd64", &debian(&[OLD_LIBC, JINJA]));
    publisher.put("library/app", "1.0", &image);
    let fact = wait_for("the image to be scanned", 90, || {
        stack.events("scan.succeeded").pop()
    });
    assert_eq!(fact["data"]["databaseVersion"], good.updated_at().as_str());
    // Whoever starts anew, with an empty folder or not, is not told another thing.
    stack.stop(adapter);
    for folder in databases(&stack) {
        fs::remove_dir_all(folder).unwrap();
    }
    let adapter = stack.begin_scanner(&[]);
    let told = says(&stack, adapter, "trivy.accepted_database");
    stack.stop(adapter);
    let (_, digest) = told.split_once("sha256:").unwrap();
    let digest = format!("sha256:{}", &digest[..64]);
    stack.scanner(&[("SLUICE__TRIVY__ACCEPTED_DATABASE", &digest)]);
    is_used(&stack, &smaller);
}

#[test]
fn a_database_that_lost_a_whole_bucket_or_is_older_than_the_last_one_is_not_used() {
    let mut stack = Stack::start(7_200);
    Database::of_age(3 * DAY)
        .with_buckets(&["alpine 3.18"])
        .publish(&stack);
    let adapter = stack.scanner(&[OFTEN]);
    Database::of_age(2 * DAY).publish(&stack);
    logs(&stack, adapter, "`alpine 3.18` has 0 entries instead of 1");
    stack.stop(adapter);
    for folder in databases(&stack) {
        fs::remove_dir_all(folder).unwrap();
    }
    Database::of_age(5 * DAY)
        .with_buckets(&["alpine 3.18"])
        .publish(&stack);
    let adapter = stack.begin_scanner(&[]);
    says(&stack, adapter, "used last");
    let newer = Database::of_age(DAY).with_buckets(&["alpine 3.18", "wolfi"]);
    newer.publish(&stack);
    is_used(&stack, &newer);
}

#[test]
fn a_start_that_fails_discards_no_database() {
    let mut stack = Stack::start(7_200);
    let broken = stack.folder().join("broken");
    let before = format!(
        "if [ \"$1\" = server ] && [ -e {} ]; then\n\
         echo 'listen tcp: resource temporarily unavailable' >&2; exit 1\nfi",
        broken.display(),
    );
    let program = trivy_after(&stack, &before);
    let binary = ("SLUICE__TRIVY__BINARY", program.to_str().unwrap());
    let first = Database::of_age(3 * DAY);
    first.publish(&stack);
    let adapter = stack.scanner(&[binary, OFTEN]);
    // A newer one that was fetched is kept as well, until a server starts over it.
    fs::write(&broken, "").unwrap();
    let second = Database::of_age(DAY);
    second.publish(&stack);
    logs(&stack, adapter, "the present one stays in use");
    assert_eq!(databases(&stack).len(), 2);
    stack.kill(adapter);
    let adapter = stack.begin_scanner(&[binary, NOWHERE]);
    logs(&stack, adapter, "temporarily unavailable");
    assert_eq!(databases(&stack).len(), 2);
    fs::remove_file(&broken).unwrap();
    is_used(&stack, &second);
    wait_for("the other one to be removed", 30, || {
        (databases(&stack).len() == 1).then_some(())
    });
}

#[test]
fn a_database_that_is_pinned_is_used_whatever_its_tag_names() {
    let mut stack = Stack::start(7_200);
    let pinned = Database::of_age(3 * DAY);
    let digest = pinned.publish(&stack);
    Database::of_age(DAY).publish(&stack);
    let adapter = stack.scanner(&[("SLUICE__TRIVY__DATABASE_DIGEST", &digest)]);
    is_used(&stack, &pinned);
    stack.kill(adapter);
    fs::remove_dir_all(stack.folder().join("trivy")).unwrap();
    // One that is not there is not made up for by another; what waits for a database is left over.
    stack.may_leave_messages();
    let other = format!("sha256:{}", "0a".repeat(32));
    let adapter = stack.begin_scanner(&[("SLUICE__TRIVY__DATABASE_DIGEST", &other)]);
    says(&stack, adapter, "trivy.database_repository");
}
