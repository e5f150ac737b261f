//! `sluice up`: everything in one process, and nothing left behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use sluice_gateway::KeyFolder;
use sluice_tests::content::{NEW_LIBC, OLD_LIBC, debian};
use sluice_tests::endpoint::{Endpoint, webhook};
use sluice_tests::subscriber::Subscriber;
use sluice_tests::traces::Traces;
use sluice_tests::up::{processes_on, servers_on, sluice};
use sluice_tests::{Nats, Registry, Up, Upstream, binary, root, wait_for};
use tempfile::TempDir;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// A folder for a data folder and its log.
fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    (folder, data)
}

fn nothing_is_left(data: &Path) {
    wait_for("every process on the folder to be gone", 30, || {
        processes_on(data).is_empty().then_some(())
    });
}

/// Returns the resources that mirror `library/app` of a registry.
fn mirror_of(upstream: &Registry) -> String {
    format!(
        "kind: Registry\nname: upstream\nhost: {0}\nplain_http: true\n---\n\
         kind: Mirror\nname: app\nfrom: {0}/library/app\nto: hub/app\n",
        upstream.host
    )
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
    fs::write(&resources, mirror_of(&upstream)).unwrap();
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
fn the_registry_logs_what_fails_and_nothing_of_what_works() {
    let (_folder, data) = folder();
    let up = Up::start(&data, |_| {});
    let registry = up.endpoints()["registry"].as_str().unwrap().to_owned();
    let host = registry.trim_start_matches("http://");
    let password = |name: &str| {
        let file = KeyFolder::at(data.join("keys")).password(name);
        fs::read_to_string(file).unwrap()
    };
    let writer = Upstream::with_account(host, "mirror-worker", &password("mirror-worker"));
    let image = writer.files("team/app", "amd64", &debian(&[NEW_LIBC]));
    writer.put("team/app", "1.0", &image);
    assert_eq!(writer.get("team/app", "1.0").unwrap(), image.raw);
    let logged = || fs::read_to_string(data.join("logs/registry.log")).unwrap();
    assert!(!logged().contains("team/app"), "{}", logged());
    assert_eq!(writer.status("team/app/manifests/2.0"), 404);
    wait_for("the failure to be logged", 10, || {
        logged().contains("team/app/manifests/2.0").then_some(())
    });
}

#[test]
fn all_stages_work_in_one_process_and_in_one_trace() {
    let (traces, upstream, (folder, data)) = (Traces::start(), Registry::start(), folder());
    let publisher = Upstream::new(&upstream.host);
    let clean = publisher.files("library/app", "amd64", &debian(&[NEW_LIBC]));
    let vulnerable = publisher.files("library/app", "amd64", &debian(&[OLD_LIBC]));
    publisher.put("library/app", "clean", &clean);
    publisher.put("library/app", "vulnerable", &vulnerable);
    let database = format!("{}/trivy-db:2", upstream.host);
    let pushed = Command::new(root().join("deploy/trivy-db"))
        .args([
            "--push",
            &format!("http://{database}"),
            "--updated-at",
            "now",
        ])
        .output();
    assert!(pushed.unwrap().status.success());
    let endpoint = Endpoint::own(folder.path(), "endpoint", SECRET, &[]);
    let yaml = format!(
        "{0}---\n\
         kind: Repository\nname: official/*\nvisibility: public\n---\n\
         kind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: official/{{name}}\nwhen: scan.high == 0\n{1}",
        mirror_of(&upstream),
        webhook(
            folder.path(),
            "hook",
            &endpoint.url,
            SECRET,
            "events: [image.*]\n"
        )
    );
    let resources = folder.path().join("resources.yaml");
    fs::write(&resources, yaml).unwrap();
    let up = Up::start(&data, |command| {
        command
            .arg("--file")
            .arg(&resources)
            .env("SLUICE__TRIVY__DATABASE_REPOSITORY", &database)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &traces.endpoint);
    });
    wait_for("both verdicts to be delivered", 90, || {
        (endpoint.taken().len() == 2).then_some(())
    });
    let registry = up.endpoints()["registry"].as_str().unwrap().to_owned();
    let anybody = Upstream::new(registry.strip_prefix("http://").unwrap());
    assert_eq!(anybody.get("official/app", "clean"), Some(clean.raw));
    for reference in ["vulnerable", &vulnerable.digest] {
        let path = format!("official/app/manifests/{reference}");
        assert_eq!(anybody.status(&path), 404);
    }
    assert_eq!(up.stop(), Some(0));
    nothing_is_left(&data);
    let spans = traces.spans();
    let of = |name: &str| -> BTreeSet<_> {
        let named = spans.iter().filter(|span| span.name == name);
        named.map(|span| span.trace.clone()).collect()
    };
    let way = ["poll", "mirror", "scan", "promote", "deliver"];
    let common = way.map(of).into_iter().reduce(|one, other| &one & &other);
    assert!(!common.unwrap().is_empty(), "{spans:?}");
}

#[test]
fn servers_that_run_elsewhere_are_used_instead() {
    let (nats, upstream, internal) = (Nats::start(), Registry::start(), Registry::start());
    let image = Upstream::new(&upstream.host).image("library/app", "amd64", "content");
    Upstream::new(&upstream.host).put("library/app", "1.0", &image);
    let (folder, data) = folder();
    let resources = folder.path().join("resources.yaml");
    fs::write(&resources, mirror_of(&upstream)).unwrap();
    let up = Up::start(&data, |command| {
        command
            .arg("--file")
            .arg(&resources)
            .args(["--nats", &nats.url, "--registry-url"])
            .arg(format!("http://{}", internal.host))
            .env_remove("SLUICE_REGISTRY_LISTEN");
    });
    let reader = Upstream::new(&internal.host);
    wait_for("the image to be mirrored", 60, || {
        (reader.get("hub/app", "1.0")? == image.raw).then_some(())
    });
    assert_eq!(servers_on(&data), 1, "{:?}", processes_on(&data));
    assert_eq!(up.stop(), Some(0));
    nothing_is_left(&data);
}

#[test]
fn a_second_signal_ends_at_once_and_leaves_nothing_either() {
    let (_folder, data) = folder();
    let mut up = Up::start(&data, |_| {});
    up.signal("TERM");
    wait_for("the stop to begin", 10, || {
        up.log().contains("\"stopping\"").then_some(())
    });
    up.signal("INT");
    up.ended();
    assert!(processes_on(&data).is_empty(), "{:?}", processes_on(&data));
}

#[test]
fn the_resources_of_the_demo_are_valid() {
    let (_folder, data) = folder();
    let file = root().join("deploy/demo.yaml");
    let output = sluice(&data, &["apply", "--dry-run", "-f", file.to_str().unwrap()]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
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
    // With the addresses that the servers still have.
    let endpoints = up.endpoints();
    let address = |url: &serde_json::Value| {
        let url = url.as_str().unwrap();
        url.split_once("://")
            .unwrap()
            .1
            .trim_end_matches('/')
            .to_owned()
    };
    let (nats, registry) = (
        address(&endpoints["nats"]["url"]),
        address(&endpoints["registry"]),
    );
    up.signal("KILL");
    let again = Up::start(&data, |command| {
        command.env("SLUICE_NATS_LISTEN", nats);
        command.env("SLUICE_REGISTRY_LISTEN", registry);
    });
    up.ended();
    assert!(again.log().matches("orphaned server").count() >= 2);
    assert_eq!(servers_on(&data), 3);
    assert_eq!(again.stop(), Some(0));
    nothing_is_left(&data);
}

#[test]
fn a_program_of_others_follows_the_events_with_the_password_that_up_made() {
    let (folder, data) = folder();
    let up = Up::start(&data, |_| {});
    let endpoints = up.endpoints();
    let password = data.join("keys/nats/subscriber");
    let password = password.to_str().unwrap();
    let arguments = ["--all", "--durable", "mine", "--password-file", password];
    let url = endpoints["nats"]["url"].as_str().unwrap();
    let subscriber = Subscriber::follow(folder.path(), url, "subscriber", &arguments);
    let file = folder.path().join("team.yaml");
    fs::write(
        &file,
        "kind: Repository\nname: team/*\nvisibility: private\n",
    )
    .unwrap();
    up.sluice(&["apply", "-f", file.to_str().unwrap()]);
    wait_for("the event to be printed", 30, || {
        let lines = subscriber.lines();
        let is_printed = lines.iter().any(|line| line.contains("resource.applied"));
        is_printed.then_some(())
    });
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn a_server_that_dies_stops_everything_and_is_named() {
    let (_folder, data) = folder();
    let mut up = Up::start(&data, |_| {});
    up.signal_server("registry.yml", "KILL");
    assert_eq!(up.ended(), Some(1));
    assert!(
        up.log().contains("registry ended (signal: 9"),
        "{}",
        up.log()
    );
    nothing_is_left(&data);
}

#[test]
fn a_server_that_crashes_is_started_again_and_everything_goes_on() {
    let (_folder, data) = folder();
    let up = Up::start(&data, |_| {});
    // A program in Go ends at SIGQUIT as at a crash, with its goroutines in the log.
    up.signal_server("nats-server.conf", "QUIT");
    wait_for("the services to connect again", 30, || {
        let log = up.log();
        let (_, after) = log.split_once("a server crashed; starting it again")?;
        after.contains("connected to NATS").then_some(())
    });
    let subjects = ["--subjects", "sluice.v1.resource.>"];
    let added = up.sluice(&[&["subscriber", "add", "own"], subjects.as_slice()].concat());
    assert!(added.contains("nats-server reloaded: sluice"), "{added}");
    assert_eq!(up.stop(), Some(0));
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
    assert!(
        complaint.contains("no `sluice up` is running"),
        "{complaint}"
    );
    assert_eq!(output.status.code(), Some(1));
}

/// Says who besides the owner may open what is in a folder; nobody, if nothing is returned.
fn open_to_others(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if entry.metadata().unwrap().permissions().mode() & 0o077 != 0 {
            found.push(path.clone());
        }
        if path.is_dir() {
            found.extend(open_to_others(&path));
        }
    }
    found
}

#[test]
fn a_local_user_without_the_keys_changes_no_policy_of_an_up() {
    let (folder, data) = folder();
    let policy = |when: &str| {
        format!(
            "kind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: official/{{name}}\nwhen: {when}\n"
        )
    };
    let file = folder.path().join("policy.yaml");
    fs::write(&file, policy("scan.critical == 0")).unwrap();
    let up = Up::start(&data, |command| {
        command.env_remove("SLUICE_SECRETS").arg("-f").arg(&file);
    });
    let get = ["get", "promotionpolicies", "-o", "json"];
    let before = up.sluice(&get);
    let endpoints = up.endpoints();
    let at = |key: &str| endpoints[key].as_str().unwrap().to_owned();
    fs::write(&file, policy("scan.critical < 100")).unwrap();

    // By the API.
    let url = format!("{}/api/v1/resources/promotionpolicy/clean", at("api"));
    let put = |token: Option<String>| {
        let request = reqwest::blocking::Client::new().put(&url);
        let request = token
            .into_iter()
            .fold(request, |request, token| request.bearer_auth(token));
        request
            .body(policy("scan.critical < 100"))
            .send()
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(put(None), 401);
    assert_eq!(put(Some("wrong".to_owned())), 401);
    // By NATS, which the command itself uses: without a user, and as each user without the password.
    let nats = endpoints["nats"]["url"].as_str().unwrap();
    let wrong = folder.path().join("wrong");
    fs::write(&wrong, "wrong").unwrap();
    let wrong = wrong.to_str().unwrap();
    for user in ["", "admin", "gateway", "promoter", "sluice"] {
        let output = Command::new(binary("sluice"))
            .args(["--nats", nats, "apply", "-f", file.to_str().unwrap()])
            .args(if user.is_empty() {
                vec![]
            } else {
                vec!["--nats-user", user, "--nats-password-file", wrong]
            })
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{user}");
        assert!(
            told.to_lowercase().contains("authorization"),
            "{user}: {told}"
        );
    }
    assert_eq!(up.sluice(&get), before);

    // By the files: nobody else can list the folder, and only the scanner's own user gets anywhere in it, to its files.
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data) & 0o066, 0);
    for name in ["keys", "config", "secrets", "nats", "registry", "logs"] {
        assert_eq!(mode(&data.join(name)), 0o700, "{name}");
    }
    for name in ["keys", "config", "secrets"] {
        assert_eq!(open_to_others(&data.join(name)), Vec::<PathBuf>::new());
    }
    assert_eq!(mode(&data.join("endpoints.json")), 0o600);

    // The owner finds the token where the endpoints say, and secrets go into the folder beside it.
    let token = fs::read_to_string(at("apiTokenFile")).unwrap();
    assert!(Path::new(&at("apiTokenFile")).starts_with(data.canonicalize().unwrap().join("keys")));
    assert_eq!(put(Some(token.trim().to_owned())), 200);
    assert_ne!(up.sluice(&get), before);
    assert_eq!(up.stop(), Some(0));
}
