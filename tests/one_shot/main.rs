//! The commands that copy without an installation: `sluice copy`, `sync`, `plan` and `import`, on real registries.

mod attached;
mod blobs;
mod deviations;
mod page;
mod platforms;
mod removal;
mod tags;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use sluice_tests::{Registry, Upstream, binary, wait_for};

/// Two registries, and a folder for files.
struct Scene {
    source: Registry,
    destination: Registry,
    folder: tempfile::TempDir,
}

impl Scene {
    fn start() -> Self {
        Self {
            source: Registry::start(),
            destination: Registry::start(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn upstream(&self) -> Upstream {
        Upstream::new(&self.source.host)
    }

    /// Pushes an index of two platforms under a tag; returns its bytes.
    fn push(&self, repository: &str, tag: &str, content: &str) -> Vec<u8> {
        let upstream = self.upstream();
        let amd = upstream.image(repository, "amd64", content);
        let arm = upstream.image(repository, "arm64", &format!("{content} for arm"));
        let index = upstream.index(repository, &[("amd64", &amd), ("arm64", &arm)]);
        upstream.put(repository, tag, &index);
        index.raw
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("sluice"));
        command.args(arguments);
        if !matches!(arguments, ["import", ..]) {
            for registry in [&self.source, &self.destination] {
                command.args(["--plain-http", &registry.host]);
            }
        }
        // Nobody's own accounts are used.
        command.env("HOME", self.folder.path());
        command.env_remove("DOCKER_CONFIG");
        command
    }

    fn sluice(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.sluice(&[arguments, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    /// Writes mirrors of repositories, each with what else it says.
    fn mirrors(&self, mirrors: &[(&str, &str)]) -> String {
        let documents = mirrors.iter().map(|(name, more)| {
            let host = &self.source.host;
            format!("kind: Mirror\nname: {name}\nfrom: {host}/{name}\nto: hub/{name}\n{more}\n")
        });
        let text = documents.collect::<Vec<_>>().join("---\n");
        let file = self.folder.path().join("mirrors.yaml");
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    }

    fn image(&self, reference: &str) -> String {
        format!("{}/{reference}", self.source.host)
    }

    fn place(&self, reference: &str) -> String {
        format!("{}/{reference}", self.destination.host)
    }

    fn there(&self, repository: &str, reference: &str) -> Option<Vec<u8>> {
        Upstream::new(&self.destination.host).get(repository, reference)
    }
}

/// Returns what a registry was asked after so many requests.
fn since(registry: &Registry, before: usize) -> Vec<String> {
    registry.requests().split_off(before)
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_index_arrives_byte_for_byte_and_costs_what_the_dry_run_said() {
    let scene = Scene::start();
    let raw = scene.push("app", "1.0", "one");
    let (from, to) = (scene.image("app:1.0"), scene.place("copies/app"));
    let planned = scene.json(&["copy", &from, &to, "--dry-run"]);
    assert_eq!(planned["outcome"], "would_copy", "{planned}");
    assert_eq!(scene.there("copies/app", "1.0"), None);
    let writes = scene.destination.requests();
    let is_write = |request: &&String| !request.starts_with("HEAD") && !request.starts_with("GET");
    assert_eq!(writes.iter().find(is_write), None);

    let before = scene.source.requests().len();
    let copied = scene.json(&["copy", &from, &to]);
    assert_eq!(copied["outcome"], "copied", "{copied}");
    assert_eq!(scene.there("copies/app", "1.0"), Some(raw));
    let asked = since(&scene.source, before);
    let count = |begin: &str, part: &str| {
        let of_kind = |asked: &&String| asked.starts_with(begin) && asked.contains(part);
        asked.iter().filter(of_kind).count()
    };
    assert_eq!(planned["pulls"], count("GET", "/manifests/"));
    assert_eq!(planned["requests"], asked.len() - count("HEAD", ""));
    for same in ["bytes", "blobsCopied", "blobsMounted", "blobsSkipped"] {
        assert_eq!(planned[same], copied[same], "{same}");
    }
    assert!(copied["bytes"].as_u64().unwrap() > 0);
}

#[test]
fn a_digest_is_copied_without_a_tag_and_an_unchanged_image_costs_one_look_at_each_end() {
    let scene = Scene::start();
    scene.push("app", "1.0", "one");
    let planned = scene.json(&[
        "copy",
        &scene.image("app:1.0"),
        &scene.place("app"),
        "--dry-run",
    ]);
    let digest = planned["digest"].as_str().unwrap();
    let by_digest = scene.image(&format!("app@{digest}"));
    assert!(
        scene
            .sluice(&["copy", &by_digest, &scene.place("app")])
            .status
            .success()
    );
    assert!(scene.there("app", digest).is_some());
    assert_eq!(scene.there("app", "1.0"), None);

    scene.sluice(&["copy", &scene.image("app:1.0"), &scene.place("app")]);
    let before = (
        scene.source.requests().len(),
        scene.destination.requests().len(),
    );
    let again = scene.json(&["copy", &scene.image("app:1.0"), &scene.place("app")]);
    assert_eq!(again["outcome"], "unchanged");
    let look = ["HEAD /v2/app/manifests/1.0"];
    assert_eq!(since(&scene.source, before.0), look);
    assert_eq!(since(&scene.destination, before.1), look);
}

#[test]
fn an_unchanged_mirror_costs_one_look_for_each_tag_at_each_end_and_one_list_where_a_pattern_chooses()
 {
    let scene = Scene::start();
    for tag in ["1.0", "1.1", "2.0-rc1"] {
        scene.push("chosen", tag, tag);
        scene.push("named", tag, tag);
    }
    let file = scene.mirrors(&[
        ("chosen", "tags: { exclude: ['*-rc*'] }"),
        ("named", "tags: { include: ['1.0', '2.0-rc1'] }"),
    ]);
    let sync = ["sync", "-f", &file, "--to", &scene.place("all")];
    let first = scene.json(&sync);
    assert_eq!(first["totals"]["tagsCopied"], 4, "{first}");
    assert!(scene.there("all/hub/chosen", "1.1").is_some());
    assert_eq!(scene.there("all/hub/chosen", "2.0-rc1"), None);
    assert_eq!(scene.there("all/hub/named", "1.1"), None);

    let before = (
        scene.source.requests().len(),
        scene.destination.requests().len(),
    );
    let again = scene.json(&sync);
    assert_eq!(again["outcome"], "done");
    assert_eq!(again["totals"]["tagsUnchanged"], 4, "{again}");
    let mut asked = since(&scene.source, before.0);
    asked.sort();
    assert_eq!(
        asked,
        [
            "GET /v2/chosen/tags/list?n=1000",
            "HEAD /v2/chosen/manifests/1.0",
            "HEAD /v2/chosen/manifests/1.1",
            "HEAD /v2/named/manifests/1.0",
            "HEAD /v2/named/manifests/2.0-rc1",
        ]
    );
    let asked = since(&scene.destination, before.1);
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(asked.iter().all(|asked| asked.starts_with("HEAD ")));
}

#[test]
fn what_fails_is_listed_with_exit_code_1_and_stops_nothing_else() {
    let scene = Scene::start();
    scene.push("good", "1.0", "one");
    let file = scene.mirrors(&[
        ("absent", ""),
        ("good", "tags: { include: ['1.0', '9.9'] }"),
    ]);
    let to = scene.destination.host.as_str();
    let output = scene.sluice(&["sync", "-f", &file, "--to", to, "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["outcome"], "failed");
    assert_eq!(told["totals"]["failures"], 2, "{told}");
    assert!(told["mirrors"][0]["error"].is_string(), "{told}");
    assert!(scene.there("hub/good", "1.0").is_some());
    assert!(error(&output).contains("good:9.9"), "{output:?}");

    let copy = scene.sluice(&["copy", &scene.image("absent:1"), &scene.place("x")]);
    assert_eq!(copy.status.code(), Some(1));
}

#[test]
fn wrong_arguments_files_and_secrets_have_exit_codes_of_their_own() {
    let scene = Scene::start();
    let to = scene.destination.host.as_str();
    let code = |arguments: &[&str]| scene.sluice(arguments).status.code();
    assert_eq!(code(&["copy", "A:b:c", to]), Some(2));
    assert_eq!(code(&["sync", "--to", to]), Some(2));
    let digest = format!("x@sha256:{}", "0".repeat(64));
    assert_eq!(code(&["copy", "x:1", &scene.place(&digest)]), Some(2));
    assert_eq!(code(&["sync", "-f", "/absent.yaml", "--to", to]), Some(78));
    let file = scene.folder.path().join("bad.yaml");
    std::fs::write(&file, "kind: Mirror\nname: a\n").unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(code(&["sync", "-f", file, "--to", to]), Some(78));
    let secret = ["--src-username", "a", "--src-password-file", "/absent"];
    let (from, to) = (scene.image("x:1"), scene.place("x"));
    let copy = [&["copy", &from, &to], &secret[..]].concat();
    assert_eq!(code(&copy), Some(78));
}

#[test]
fn an_interrupted_copy_leaves_no_tag_and_says_so() {
    let scene = Scene::start();
    scene.push("app", "1.0", "one");
    // A destination that stands still keeps the copy from ending by itself.
    scene.destination.freeze(true);
    let arguments = [
        "copy",
        &scene.image("app:1.0"),
        &scene.place("app"),
        "-o",
        "json",
    ];
    let mut child = scene
        .command(&arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the copy to begin", 20, || {
        (!scene.source.requests().is_empty()).then_some(())
    });
    let looked = || {
        scene
            .source
            .requests()
            .iter()
            .any(|r| r.starts_with("HEAD"))
    };
    wait_for("the copy to look", 20, || looked().then_some(()));
    interrupt(&child);
    let code = wait_for("the copy to end", 20, || child.try_wait().unwrap());
    assert_eq!(code.code(), Some(130));
    let told: Value = serde_json::from_reader(child.stdout.take().unwrap()).unwrap();
    assert_eq!(told["outcome"], "interrupted");
    scene.destination.freeze(false);
    assert_eq!(scene.there("app", "1.0"), None);
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

#[test]
fn tags_are_removed_only_where_both_the_mirror_and_the_person_say_so() {
    let scene = Scene::start();
    for tag in ["1.0", "2.0"] {
        scene.push("app", tag, tag);
    }
    let to = scene.destination.host.as_str();
    let keeping = scene.mirrors(&[("app", "")]);
    scene.sluice(&["sync", "-f", &keeping, "--to", to]);
    let gone = scene.json(&[
        "copy",
        &scene.image("app:2.0"),
        &scene.place("x"),
        "--dry-run",
    ]);
    scene
        .upstream()
        .delete("app", gone["digest"].as_str().unwrap());
    scene.sluice(&["sync", "-f", &keeping, "--to", to, "--delete"]);
    assert!(scene.there("hub/app", "2.0").is_some());
    let deleting = scene.mirrors(&[("app", "on_delete: delete")]);
    scene.sluice(&["sync", "-f", &deleting, "--to", to]);
    assert!(scene.there("hub/app", "2.0").is_some());
    let dry = scene.json(&["sync", "-f", &deleting, "--to", to, "--delete", "--dry-run"]);
    assert_eq!(dry["totals"]["tagsRemoved"], 1, "{dry}");
    assert!(scene.there("hub/app", "2.0").is_some());
    let told = scene.json(&["sync", "-f", &deleting, "--to", to, "--delete"]);
    assert_eq!(told["totals"]["tagsRemoved"], 1, "{told}");
    assert_eq!(scene.there("hub/app", "2.0"), None);
    assert!(scene.there("hub/app", "1.0").is_some());
}

#[test]
fn a_plan_tells_the_cost_of_each_mirror_and_knows_what_is_there() {
    let scene = Scene::start();
    for tag in ["1.0", "2.0"] {
        scene.push("app", tag, tag);
    }
    let file = scene.mirrors(&[("app", "")]);
    let to = scene.destination.host.as_str();
    let all = scene.json(&["plan", "-f", &file]);
    assert_eq!(all["mirrors"][0]["new"], 2, "{all}");
    assert_eq!(all["mirrors"][0]["cost"]["pulls"], 6, "{all}");
    scene.sluice(&["copy", &scene.image("app:1.0"), &scene.place("hub/app")]);
    let rest = scene.json(&["plan", "-f", &file, "--to", to]);
    assert_eq!(rest["mirrors"][0]["unchanged"], 1, "{rest}");
    assert_eq!(rest["mirrors"][0]["cost"]["pulls"], 3, "{rest}");
    assert_eq!(scene.there("hub/app", "2.0"), None);
}

/// Returns what a command wrote, if it ended well.
pub(crate) fn written(command: &str, kind: &str, file: &Path) -> (String, String) {
    let output = Command::new(binary("sluice"))
        .args([command, kind])
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    (
        String::from_utf8(output.stdout.clone()).unwrap(),
        error(&output),
    )
}
