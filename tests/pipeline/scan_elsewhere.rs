//! A Trivy server that runs elsewhere is asked what it covers, and what others put there changes nothing.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use sluice_tests::content::{DEBIAN, OLD_LIBC, debian};
use sluice_tests::scanner::children;
use sluice_tests::servers::{Port, Process};
use sluice_tests::{Database, Image, Stack, tool, wait_for};

const UPDATED: &str = "2020-01-02T00:00:00Z";
/// What makes a file system one of Alpine 3.18 with a package.
const ALPINE: [(&str, &str); 2] = [
    ("etc/alpine-release", "3.18.4\n"),
    (
        "lib/apk/db/installed",
        "P:openssl\nV:1.1.1-r0\nA:x86_64\no:openssl\nT:a\nL:b\n\n",
    ),
];
/// A program in a language that the project's own advisories have nothing of.
const GEM: (&str, &str) = (
    "usr/lib/ruby/gems/3.1.0/specifications/rack-1.0.0.gemspec",
    "Gem::Specification.new do |s|\n  s.name = \"rack\".freeze\n  s.version = \"1.0.0\"\nend\n",
);

/// A server that somebody else runs.
struct Elsewhere {
    host: String,
    token: String,
}

impl Elsewhere {
    /// Says where it will be.
    fn of(stack: &Stack) -> Self {
        let token = stack.folder().join("token");
        fs::write(&token, "secret\n").unwrap();
        Self {
            host: Port::free().host(),
            token: token.to_str().unwrap().to_owned(),
        }
    }

    fn serve(&self, stack: &Stack, database: &Database) -> Process {
        self.serve_to(stack, database, "secret")
    }

    /// Starts the server, which answers those who have this token.
    fn serve_to(&self, stack: &Stack, database: &Database, token: &str) -> Process {
        let cache = stack.folder().join("elsewhere");
        database.write(&cache);
        let log = File::create(stack.folder().join("elsewhere.log")).unwrap();
        let server = Command::new(tool("trivy"))
            .args(["server", "--skip-db-update", "--listen", &self.host])
            .arg("--cache-dir")
            .arg(&cache)
            .env("TRIVY_TOKEN", token)
            .stderr(log)
            .stdout(Stdio::null())
            .spawn();
        Process(server.unwrap())
    }

    /// Starts an adapter that uses it at some address, without waiting for it.
    fn used(&self, stack: &mut Stack, host: &str) -> usize {
        let url = format!("http://{host}");
        stack.begin_scanner(&[
            ("SLUICE__TRIVY__SERVER_URL", url.as_str()),
            ("SLUICE__TRIVY__TOKEN_FILE", &self.token),
            ("SLUICE__TRIVY__DATABASE_REPOSITORY", ""),
        ])
    }
}

fn ready(stack: &Stack, adapter: usize) {
    wait_for("the server to be used", 90, || {
        (stack.readiness("scanner-adapter", adapter)? == "ready").then_some(())
    });
}

/// Waits for what is told of an image.
fn told(stack: &Stack, event: &str, image: &Image) -> String {
    wait_for(&format!("{event} of {}", image.digest), 90, || {
        let mut facts = stack.events(event).into_iter();
        facts.find(|fact| fact["data"]["digest"] == image.digest)
    })["data"]["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_server_that_runs_elsewhere_is_used_and_checked_too() {
    let mut stack = Stack::start(7_200);
    let elsewhere = Elsewhere::of(&stack);
    let broken = elsewhere.serve(&stack, &Database::of(UPDATED).truncated(0));
    let host = elsewhere.host.clone();
    let adapter = elsewhere.used(&mut stack, &host);
    wait_for("the server to be refused", 60, || {
        let told = stack.readiness("scanner-adapter", adapter)?;
        told.contains("well-known").then_some(())
    });
    drop(broken);
    let _good = elsewhere.serve(&stack, &Database::of(UPDATED));
    ready(&stack, adapter);
    let publisher = stack.mirrored();
    for tag in ["1.0", "1.1"] {
        let files = debian(&[OLD_LIBC, ("tag", tag)]);
        let image = publisher.files("library/app", "amd64", &files);
        publisher.put("library/app", tag, &image);
        told(&stack, "scan.succeeded", &image);
    }
    // The adapter started no server of its own.
    assert!(children(stack.process_id(adapter)).is_empty());
}

#[test]
fn a_changed_token_of_a_server_elsewhere_needs_no_restart_of_the_adapter() {
    let mut stack = Stack::start(7_200);
    let elsewhere = Elsewhere::of(&stack);
    let database = Database::of(UPDATED);
    let before = elsewhere.serve(&stack, &database);
    let host = elsewhere.host.clone();
    let adapter = elsewhere.used(&mut stack, &host);
    ready(&stack, adapter);
    drop(before);
    let _after = elsewhere.serve_to(&stack, &database, "changed");
    fs::write(&elsewhere.token, "changed\n").unwrap();
    let publisher = stack.mirrored();
    let image = publisher.files("library/app", "amd64", &debian(&[OLD_LIBC]));
    publisher.put("library/app", "1.0", &image);
    told(&stack, "scan.succeeded", &image);
}

#[test]
fn what_the_database_of_a_server_elsewhere_does_not_know_is_not_covered() {
    let mut stack = Stack::start(7_200);
    let elsewhere = Elsewhere::of(&stack);
    let first = elsewhere.serve(&stack, &Database::of(UPDATED));
    let host = elsewhere.host.clone();
    let adapter = elsewhere.used(&mut stack, &host);
    ready(&stack, adapter);
    let publisher = stack.mirrored();
    let known = publisher.files("library/app", "amd64", &debian(&[OLD_LIBC]));
    publisher.put("library/app", "known", &known);
    told(&stack, "scan.succeeded", &known);
    let alpine = publisher.files("library/app", "amd64", &ALPINE);
    publisher.put("library/app", "alpine", &alpine);
    assert!(told(&stack, "scan.failed", &alpine).contains("knows nothing of `alpine 3.18.4`"));
    let old = [
        ("etc/os-release", "ID=debian\nVERSION_ID=\"9\"\n"),
        ("etc/debian_version", "9.13\n"),
        OLD_LIBC,
    ];
    let old = publisher.files("library/app", "amd64", &old);
    publisher.put("library/app", "old", &old);
    assert!(told(&stack, "scan.failed", &old).contains("knows nothing of `debian 9.13`"));
    let gem = publisher.files(
        "library/app",
        "amd64",
        &[DEBIAN[0], DEBIAN[1], OLD_LIBC, GEM],
    );
    publisher.put("library/app", "gem", &gem);
    assert!(told(&stack, "scan.failed", &gem).contains("packages of the kind `gemspec`"));
    // Another database there is asked anew.
    drop(first);
    let later = Database::of("2020-01-04T00:00:00Z").with_buckets(&["alpine 3.18"]);
    let _second = elsewhere.serve(&stack, &later);
    let more = [ALPINE[0], ALPINE[1], ("more", "")];
    let alpine = publisher.files("library/app", "amd64", &more);
    publisher.put("library/app", "alpine-again", &alpine);
    told(&stack, "scan.succeeded", &alpine);
}

#[test]
fn a_database_elsewhere_that_is_too_old_is_not_used() {
    let mut stack = Stack::start(7_200);
    let elsewhere = Elsewhere::of(&stack);
    let _server = elsewhere.serve(&stack, &Database::of(UPDATED));
    // What waits for a database is left over.
    stack.may_leave_messages();
    let url = format!("http://{}", elsewhere.host);
    let adapter = stack.begin_scanner(&[
        ("SLUICE__TRIVY__SERVER_URL", url.as_str()),
        ("SLUICE__TRIVY__TOKEN_FILE", &elsewhere.token),
        ("SLUICE__TRIVY__DATABASE_REPOSITORY", ""),
        ("SLUICE__TRIVY__DATABASE_MAX_AGE_DAYS", "7"),
    ]);
    wait_for("the server to be refused", 60, || {
        let told = stack.readiness("scanner-adapter", adapter)?;
        told.contains("trivy.database_max_age_days").then_some(())
    });
}

/// Whoever has the token of a server can put anything under any key there, before an adapter asks with that key.
#[test]
fn what_is_sent_to_a_server_elsewhere_has_keys_that_nobody_knows_before() {
    let mut stack = Stack::start(7_200);
    // An adapter that is stopped right after its start may leave the reconciliation that it has queued.
    stack.may_leave_messages();
    let elsewhere = Elsewhere::of(&stack);
    let _server = elsewhere.serve(&stack, &Database::of(UPDATED));
    let mut keys = Vec::new();
    for _ in 0..2 {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let host = record(&elsewhere.host, sent.clone());
        let adapter = elsewhere.used(&mut stack, &host);
        ready(&stack, adapter);
        stack.stop(adapter);
        // Both send the same canary.
        keys.push(keys_in(&sent.lock().unwrap()));
    }
    assert!(keys.iter().all(|keys| !keys.is_empty()), "{keys:?}");
    assert!(keys[0].is_disjoint(&keys[1]), "{keys:?}");
}

/// Passes connections on to an address, and keeps what is sent there; returns its own address.
fn record(to: &str, sent: Arc<Mutex<Vec<u8>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let to = to.to_owned();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&to) else {
                continue;
            };
            let (from, back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let sent = sent.clone();
            thread::spawn(move || pass(from, server, |bytes| sent.lock().unwrap().extend(bytes)));
            thread::spawn(move || pass(back, client, |_| ()));
        }
    });
    host
}

fn pass(mut from: TcpStream, mut to: TcpStream, seen: impl Fn(&[u8])) {
    let mut bytes = [0; 8_192];
    while let Ok(size @ 1..) = from.read(&mut bytes) {
        seen(&bytes[..size]);
        if to.write_all(&bytes[..size]).is_err() {
            break;
        }
    }
    to.shutdown(Shutdown::Both).ok();
}

/// Finds everything that looks like a key of Trivy's cache.
fn keys_in(sent: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(sent);
    text.match_indices("sha256:")
        .filter_map(|(at, _)| text.get(at..at + 71))
        .filter(|key| key[7..].bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map(str::to_owned)
        .collect()
}
