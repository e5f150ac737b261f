//! `sluice up`: everything in one process, and nothing left behind.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use sluice_tests::up::{processes_on, servers_on, sluice};
use sluice_tests::{Registry, Up, Upstream, wait_for};
use tempfile::TempDir;

/// A folder for a data folder and its log.
fn folder() -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    (folder, data)
}

fn nothing_is_left(data: &Path) {
    wait_for("every process on the folder to be gone", 30, || {
        processes_on(data).is_empty().then_some(())
    });
}

/// Runs an `up` that is expected to refuse.
fn refused(data: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> (Output, String) {
    let output = Up::command(data)
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    (output, complaint)
}

/// Returns the digest that the registry has stored for a tag.
fn stored(data: &Path, repository: &str, tag: &str) -> Option<String> {
    let link = format!(
        "registry/docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}/current/link"
    );
    fs::read_to_string(data.join(link)).ok()
}

#[test]
fn up_mirrors_an_image_stops_cleanly_and_goes_on_where_it_was() {
    let upstream = Registry::start();
    let publisher = Upstream::new(&upstream.host);
    let image = publisher.image("library/app", "amd64", "content");
    publisher.put("library/app", "1.0", &image);
    let (folder, data) = folder();
    let resources = folder.path().join("resources.yaml");
    let yaml = format!(
        "kind: Registry\nname: upstream\nhost: {0}\nplain_http: true\n---\n\
         kind: Mirror\nname: app\nfrom: {0}/library/app\nto: hub/app\n",
        upstream.host
    );
    fs::write(&resources, yaml).unwrap();
    let up = Up::start(&data, |command| {
        command.arg("--file").arg(&resources);
    });
    let mirrored = wait_for("the image to be mirrored", 60, || {
        let events = up.sluice(&["events", "--subject", "sluice.v1.tag.mirrored.>"]);
        serde_json::from_str::<Value>(events.lines().next()?).ok()
    });
    assert_eq!(mirrored["data"]["digest"], image.digest);
    assert_eq!(stored(&data, "hub/app", "1.0"), Some(image.digest.clone()));
    let registry = up.endpoints()["registry"].as_str().unwrap().to_owned();
    let anonymous = reqwest::blocking::get(format!("{registry}/v2/hub/app/manifests/1.0"));
    assert_eq!(anonymous.unwrap().status(), 401);
    let status: Value = serde_json::from_str(&up.sluice(&["status", "-o", "json"])).unwrap();
    assert_eq!(status["deadLetters"], 0);
    assert_eq!(up.stop(), Some(0));
    assert!(processes_on(&data).is_empty(), "{:?}", processes_on(&data));
    assert!(!data.join("endpoints.json").exists());

    let again = Up::start(&data, |_| {});
    let explained = again.sluice(&["explain", "hub/app:1.0", "-o", "json"]);
    assert!(explained.contains(&image.digest), "{explained}");
    assert!(again.sluice(&["get", "mirrors"]).contains("hub/app"));
    assert_eq!(again.stop(), Some(0));
    nothing_is_left(&data);
}

#[test]
fn a_second_up_on_the_same_folder_is_refused() {
    let (_folder, data) = folder();
    let up = Up::start(&data, |_| {});
    let (_, complaint) = refused(&data, &[], &[]);
    assert!(complaint.contains("another `sluice up`"), "{complaint}");
    // The first is as it was.
    up.sluice(&["status"]);
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn servers_end_with_an_up_that_is_killed() {
    let (_folder, data) = folder();
    let mut up = Up::start(&data, |_| {});
    assert_eq!(servers_on(&data), 3);
    up.signal("KILL");
    assert_eq!(up.ended(), None);
    nothing_is_left(&data);
}

#[test]
fn what_a_killed_up_left_behind_is_stopped_by_the_next() {
    let (folder, data) = folder();
    // Without `setpriv` on the path nothing ends the servers with their parent.
    let mut up = Up::start(&data, |command| {
        command.env("PATH", folder.path());
    });
    up.signal("KILL");
    up.ended();
    assert_eq!(servers_on(&data), 2);
    let again = Up::start(&data, |_| {});
    assert!(again.log().matches("left behind").count() >= 2);
    assert_eq!(servers_on(&data), 3);
    assert_eq!(again.stop(), Some(0));
    nothing_is_left(&data);
}

#[test]
fn a_server_that_dies_stops_everything_and_is_named() {
    let (_folder, data) = folder();
    let mut up = Up::start(&data, |_| {});
    up.kill_server("registry.yml");
    assert_eq!(up.ended(), Some(1));
    assert!(
        up.log().contains("registry ended (signal: 9"),
        "{}",
        up.log()
    );
    nothing_is_left(&data);
}

#[test]
fn a_start_that_fails_half_way_leaves_nothing_behind() {
    let (_folder, data) = folder();
    let (output, _) = refused(&data, &["--registry-program", "/bin/false"], &[]);
    let log = String::from_utf8(output.stderr).unwrap();
    // nats-server was running by then.
    assert!(log.contains("\"server\":\"nats-server\""), "{log}");
    assert!(log.contains("registry ended (exit status: 1)"), "{log}");
    assert!(processes_on(&data).is_empty());
}

#[test]
fn what_is_missing_or_wrong_is_said_before_anything_is_started() {
    let (folder, data) = folder();
    let empty = folder.path().to_str().unwrap();
    let missing = [("PATH", empty), ("SLUICE_TOOLS", empty)];
    let wrong = folder.path().join("wrong.yaml");
    fs::write(&wrong, "kind: Repository\nname: hub/*\nkep: 3\n").unwrap();
    let file = ["-f", wrong.to_str().unwrap()];
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: [Case<'_>; 4] = [
        (&[], &missing, &["nats-server", "2.14", "deploy/tools"]),
        (&file, &[], &["wrong.yaml", "line 3", "kep"]),
        (
            &[],
            &[("SLUICE__POLLER__CONCURRENCY", "0")],
            &["SLUICE__POLLER__CONCURRENCY"],
        ),
        (&["--registry-listen", &taken], &[], &["--registry-listen"]),
    ];
    for (arguments, environment, told) in cases {
        let (_, complaint) = refused(&data, arguments, environment);
        for word in told {
            assert!(complaint.contains(word), "{complaint}");
        }
        assert!(!data.exists(), "a data folder was made: {complaint}");
    }
}

#[test]
fn a_command_says_that_nothing_runs_on_the_folder() {
    let (_folder, data) = folder();
    let output = sluice(&data, &["status"]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("has to be running"), "{complaint}");
    assert_eq!(output.status.code(), Some(1));
}
