//! What a scanner adapter needs: Trivy, and vulnerability databases of a few advisories.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::image::{Upstream, gzip, tar};
use crate::{Stack, root, tool};

/// The place of the database at the upstream registry.
const REPOSITORY: &str = "trivy-db";
const TAG: &str = "2";

/// Writes the project's own database with changes.
const REWRITE: &str = r#"
import importlib.machinery, importlib.util, json, os, sys
deploy, out, changes = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
sys.path.insert(0, deploy)
loader = importlib.machinery.SourceFileLoader("trivy_db", os.path.join(deploy, "trivy-db"))
writer = importlib.util.module_from_spec(importlib.util.spec_from_loader("trivy_db", loader))
loader.exec_module(writer)
root = writer.buckets(writer.read_advisories(os.path.join(deploy, "advisories")))
for name, left in changes.get("left", {}).items():
    for package in sorted(root[name])[left:]:
        del root[name][package]
    if not root[name]:
        del root[name]
for name in changes.get("more", []):
    root.child("data-source")[name] = {"ID": "test", "Name": name, "URL": "http://localhost"}
    root.child(name).child("openssl")["CVE-2022-0778"] = {"FixedVersion": "3.0.0-r0"}
with open(out, "wb") as file:
    file.write(writer.Bolt(root).bytes())
"#;

/// A vulnerability database as files.
#[derive(Debug, Clone)]
pub struct Database {
    /// The database.
    pub bytes: Vec<u8>,
    /// What is told of it.
    pub metadata: Vec<u8>,
}

impl Database {
    /// Makes the project's own database, as if it were of this time.
    pub fn of(updated_at: &str) -> Self {
        Self::with(updated_at, "")
    }

    /// As [`Database::of`], with more advisories, one JSON object on each line.
    pub fn with(updated_at: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let advisories = folder.path().join("advisories");
        fs::create_dir(&advisories).unwrap();
        for entry in fs::read_dir(root().join("deploy/advisories")).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, advisories.join(path.file_name().unwrap())).unwrap();
        }
        fs::write(advisories.join("more.jsonl"), more).unwrap();
        let told = [
            "--advisories",
            advisories.to_str().unwrap(),
            "--out",
            folder.path().to_str().unwrap(),
            "--updated-at",
            updated_at,
        ];
        let output = script(&told);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        Self {
            bytes: read("trivy.db"),
            metadata: read("metadata.json"),
        }
    }

    /// Makes the project's own database of now, less an age in seconds, so that no limit of age has to be lifted for it.
    pub fn of_age(seconds: i64) -> Self {
        let made = chrono::Utc::now() - chrono::TimeDelta::seconds(seconds);
        Self::of(&made.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
    }

    /// Returns when it was made.
    pub fn updated_at(&self) -> String {
        let metadata: Value = serde_json::from_slice(&self.metadata).unwrap();
        metadata["UpdatedAt"].as_str().unwrap().to_owned()
    }

    /// Writes the database anew without some of its content: of each of these buckets only so many packages are left.
    pub fn reduced(self, left: &[(&str, usize)]) -> Self {
        self.rewritten(&json!({ "left": left.iter().copied().collect::<BTreeMap<_, _>>() }))
    }

    /// Writes the database anew with an advisory on `openssl` below 3 in each of these buckets.
    pub fn with_buckets(self, buckets: &[&str]) -> Self {
        self.rewritten(&json!({ "more": buckets }))
    }

    fn rewritten(self, changes: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trivy.db");
        let made = Command::new("python3")
            .args(["-c", REWRITE])
            .arg(root().join("deploy"))
            .arg(&file)
            .arg(changes.to_string())
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        Self {
            bytes: fs::read(file).unwrap(),
            ..self
        }
    }

    /// Cuts the database off.
    pub fn truncated(mut self, size: usize) -> Self {
        self.bytes.truncate(size);
        self
    }

    /// Publishes it where scanner adapters of this stack look for it, as the artifact that Trivy pulls.
    /// Returns the digest of the artifact.
    pub fn publish(&self, stack: &Stack) -> String {
        let files = [
            ("trivy.db", self.bytes.as_slice()),
            ("metadata.json", self.metadata.as_slice()),
        ];
        publish(stack, (REPOSITORY, TAG), "db", &files)
    }

    /// Writes it into a cache folder of Trivy.
    pub fn write(&self, cache: &Path) {
        let folder = cache.join("db");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("trivy.db"), &self.bytes).unwrap();
        fs::write(folder.join("metadata.json"), &self.metadata).unwrap();
    }
}

impl Stack {
    /// Returns the variables of a scanner adapter that gets its database from the upstream of this stack.
    pub fn scanner_settings(&self) -> Vec<(&'static str, String)> {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        vec![
            ("SLUICE__TRIVY__BINARY", text(tool("trivy"))),
            (
                "SLUICE__TRIVY__CACHE_DIR",
                text(self.folder().join("trivy")),
            ),
            (
                "SLUICE__TRIVY__DATABASE_REPOSITORY",
                format!("{}/{REPOSITORY}:{TAG}", self.upstream.host),
            ),
            // Most databases of tests are of a fixed day.
            ("SLUICE__TRIVY__DATABASE_MAX_AGE_DAYS", "36500".to_owned()),
        ]
    }

    /// Starts a scanner adapter and waits until it is ready; `more` wins over the usual settings.
    pub fn scanner(&mut self, more: &[(&str, &str)]) -> usize {
        let number = self.begin_scanner(more);
        crate::wait_for("the scanner adapter to be ready", 60, || {
            (self.readiness("scanner-adapter", number)? == "ready").then_some(())
        });
        number
    }

    /// Starts a scanner adapter without waiting for it.
    pub fn begin_scanner(&mut self, more: &[(&str, &str)]) -> usize {
        let settings = self.scanner_settings();
        let mut variables: Vec<(&str, &str)> = settings
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        variables.extend(more);
        self.begin("scanner-adapter", &variables)
    }

    /// Speaks to the upstream as its publisher, and mirrors what it pushes to `library/app` as `hub/app`.
    pub fn mirrored(&mut self) -> Upstream {
        self.service("poller", &[]);
        self.service("mirror-worker", &[]);
        let mirror = self.mirror("app", "library/app", "hub/app", "every: 2s\n");
        self.apply(&format!("{}{mirror}", self.upstream_resource()));
        self.publisher()
    }
}

/// Returns the processes that a process has started and that are alive.
pub fn children(process: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{process}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let listed = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        children.extend(
            listed
                .split_whitespace()
                .filter_map(|id| id.parse::<u32>().ok()),
        );
    }
    children.retain(|child| is_alive(*child));
    children
}

/// Says whether a process is there and has not ended.
pub fn is_alive(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Kills a process that the test's own services have started.
pub fn kill(process: u32) {
    let killed = Command::new("kill")
        .args(["-KILL", &process.to_string()])
        .status();
    assert!(killed.unwrap().success());
}

/// Publishes an index of Java archives that holds none, and returns its place.
pub fn publish_java_index(stack: &Stack) -> String {
    let file = stack.folder().join("trivy-java.db");
    let make = "import sqlite3, sys\n\
        database = sqlite3.connect(sys.argv[1])\n\
        database.execute('CREATE TABLE artifacts(id INTEGER PRIMARY KEY, group_id TEXT, artifact_id TEXT)')\n\
        database.execute('CREATE TABLE indices(artifact_id INTEGER, version TEXT, sha1 BLOB, archive_type TEXT)')\n\
        database.commit()\n";
    let made = Command::new("python3")
        .args(["-c", make])
        .arg(&file)
        .status();
    assert!(made.unwrap().success());
    let metadata = json!({
        "Version": 1, "UpdatedAt": "2020-01-02T00:00:00Z", "NextUpdate": "2100-01-01T00:00:00Z",
        "DownloadedAt": "0001-01-01T00:00:00Z"
    });
    let (database, metadata) = (fs::read(&file).unwrap(), metadata.to_string());
    let files = [
        ("trivy-java.db", database.as_slice()),
        ("metadata.json", metadata.as_bytes()),
    ];
    publish(stack, ("trivy-java-db", "1"), "javadb", &files);
    format!("{}/trivy-java-db:1", stack.upstream.host)
}

/// Publishes files as the artifact that Trivy pulls.
fn publish(
    stack: &Stack,
    (repository, tag): (&str, &str),
    kind: &str,
    files: &[(&str, &[u8])],
) -> String {
    let publisher = stack.publisher();
    let media_type = format!("application/vnd.aquasec.trivy.{kind}.layer.v1.tar+gzip");
    let mut layer = publisher.blob(repository, &media_type, &gzip(&tar(files)));
    let title = format!("{kind}.tar.gz");
    layer["annotations"] = json!({ "org.opencontainers.image.title": title });
    let config = "application/vnd.aquasec.trivy.config.v1+json";
    let config = publisher.blob(repository, config, b"{}");
    let artifact = publisher.artifact(repository, config, layer);
    publisher.put(repository, tag, &artifact);
    artifact.digest
}

fn script(arguments: &[&str]) -> Output {
    Command::new(root().join("deploy/trivy-db"))
        .args(arguments)
        .output()
        .unwrap()
}
