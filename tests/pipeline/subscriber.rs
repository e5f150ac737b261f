//! Programs in other languages read the same facts: the example in Python does.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use sluice_bus::Bus;
use sluice_service::BusSettings;
use sluice_tests::bus::{promoted, scan_failed};
use sluice_tests::subscriber::Subscriber;
use sluice_tests::{Stack, Up, wait_for};

#[test]
fn the_example_in_python_prints_what_is_promoted_and_on_demand_everything() {
    let stack = Stack::start(7_200);
    let images = Subscriber::start(&stack, "images", &[]);
    let all = Subscriber::start(&stack, "all", &["--all"]);
    let bus = stack.bus();
    bus.publish(promoted("node.js", "1.0"), "once");
    let failed = bus.publish(scan_failed("app", "2.0"), "once").id;
    bus.publish(promoted("app", "2.0"), "once");

    let lines = |subscriber: &Subscriber, count: usize| {
        wait_for("the subscriber to print", 30, || {
            Some(subscriber.lines()).filter(|lines| lines.len() >= count)
        })
    };
    let digest = sluice_tests::bus::digest(1);
    assert_eq!(
        lines(&images, 2),
        [
            format!("official/node.js:1.0 is {digest}"),
            format!("official/app:2.0 is {digest}")
        ]
    );
    let events: Vec<Value> = lines(&all, 3)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<_> = events.iter().map(|event| &event["event"]).collect();
    assert_eq!(names, ["image.promoted", "scan.failed", "image.promoted"]);
    assert_eq!(events[1]["id"], failed.to_string());
    assert_eq!(events[1]["data"]["repository"], "hub/app");
}

/// Returns what `sluice subscriber list` says, by name.
fn listed(text: &str) -> BTreeMap<String, Value> {
    let all: Vec<Value> = serde_json::from_str(text).unwrap();
    let name = |one: &Value| one["name"].as_str().unwrap().to_owned();
    all.into_iter().map(|one| (name(&one), one)).collect()
}

/// Tries to connect as the user of a subscriber.
fn may_connect(url: &str, name: &str, password: &Path) -> bool {
    let settings = BusSettings {
        url: url.to_owned(),
        user: format!("subscriber-{name}"),
        password_file: Some(password.to_owned()),
        credentials_file: None,
        ca_file: None,
        allow_plain_text: false,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Bus::connect(&settings, "test")).is_ok()
}

#[test]
fn a_subscriber_is_added_to_a_running_up_and_deleted_while_everybody_else_stays_connected() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::start(&data, |_| {});
    let url = up.endpoints()["nats"]["url"].as_str().unwrap().to_owned();
    let subjects = ["--subjects", "sluice.v1.resource.>,sluice.v1.tag.pulled.>"];
    let add = |name| [&["subscriber", "add", name], subjects.as_slice()].concat();
    let file = data.join("keys/nats/subscriber-own");
    let printed = up.sluice(&add("own"));
    let password = fs::read_to_string(&file).unwrap();
    assert!(
        printed.contains("nats-server reloaded: sluice"),
        "{printed}"
    );
    assert!(!printed.contains(password.trim()), "{printed}");
    // Repeated, it changes nothing.
    up.sluice(&add("own"));
    assert_eq!(fs::read_to_string(&file).unwrap(), password);

    let arguments = [
        "--all",
        "--subscriber",
        "own",
        "--password-file",
        file.to_str().unwrap(),
    ];
    let subscriber = Subscriber::follow(folder.path(), &url, "own", &arguments);
    let team = folder.path().join("team.yaml");
    fs::write(
        &team,
        "kind: Repository\nname: team/*\nvisibility: private\n",
    )
    .unwrap();
    up.sluice(&["apply", "-f", team.to_str().unwrap()]);
    wait_for("the event to be acknowledged", 30, || {
        let list = listed(&up.sluice(&["subscriber", "list", "-o", "json"]));
        let is_done = list["own"]["pending"] == 0 && list["own"]["unacknowledged"] == 0;
        is_done.then_some(())
    });
    assert!(subscriber.lines()[0].contains("resource.applied"));

    // Two at once: each is in what nats-server reads in the end.
    std::thread::scope(|scope| {
        for name in ["other", "third"] {
            let (up, arguments) = (&up, add(name));
            scope.spawn(move || up.sluice(&arguments));
        }
    });
    let third = data.join("keys/nats/subscriber-third");
    assert!(may_connect(&url, "third", &third));
    up.sluice(&["subscriber", "delete", "third"]);
    let kept = folder.path().join("password");
    fs::copy(&file, &kept).unwrap();
    assert!(may_connect(&url, "own", &kept));
    up.sluice(&["subscriber", "delete", "own"]);
    assert!(!may_connect(&url, "own", &kept) && !file.exists());
    let other = data.join("keys/nats/subscriber-other");
    assert!(may_connect(&url, "other", &other));
    // nats-server itself can crash at a reload.
    let log = up.log();
    let is_connected = !log.contains("disconnected from NATS");
    assert!(is_connected || log.contains("a server crashed"), "{log}");
    assert_eq!(up.stop(), Some(0));

    // A server without any streams gets the consumer again.
    fs::remove_dir_all(data.join("nats")).unwrap();
    let up = Up::start(&data, |_| {});
    let list = listed(&up.sluice(&["subscriber", "list", "-o", "json"]));
    let streams = serde_json::json!(["EVENTS", "PULLS"]);
    assert_eq!(list["other"]["streams"], streams, "{list:?}");
    assert_eq!(list.len(), 1);
    let url = up.endpoints()["nats"]["url"].as_str().unwrap().to_owned();
    assert!(may_connect(&url, "other", &other));
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn what_a_subscriber_cannot_be_is_refused_with_the_reason() {
    let stack = Stack::start(7_200);
    let keys = stack.folder().join("given");
    let keys = keys.to_str().unwrap();
    let refused = |arguments: &[&str]| {
        let all = [&["subscriber"], arguments, &["--keys", keys]].concat();
        let output = stack.try_sluice(&all);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let add = ["add", "own", "--subjects", "sluice.v1.image.>"];
    assert!(refused(&add).contains("is not the folder of keys"));
    stack.sluice(&["keys", keys]);
    let event = refused(&["add", "own", "--subjects", "sluice.v1.images.>"]);
    assert!(
        event.contains("image.promoted, image.promotion_denied"),
        "{event}"
    );
    assert!(
        refused(&["add", "own", "--subjects", "$KV.tags.>"]).contains("not a subject of events")
    );
    assert!(
        refused(&["add", "Own", "--subjects", "sluice.v1.>"])
            .contains("not a name of a subscriber")
    );
    assert!(refused(&["delete", "own"]).contains("`own` not found"));
    stack.sluice(&[&["subscriber"], add.as_slice(), &["--keys", keys]].concat());
    let widened = refused(&["add", "own", "--subjects", "sluice.v1.>"]);
    assert!(
        widened.contains("exists and reads `sluice.v1.image.>`"),
        "{widened}"
    );
}

#[test]
fn a_subscriber_at_another_server_keeps_its_position_through_provisioning_and_a_restore() {
    let mut stack = Stack::start(7_200);
    let place = |name: &str| stack.folder().join(name).to_str().unwrap().to_owned();
    let (keys, backup) = (place("given"), place("backup"));
    stack.sluice(&["keys", &keys]);
    let of_subscriber = |stack: &Stack, arguments: &[&str]| {
        let all = [&["subscriber"], arguments, &["--keys", &keys]].concat();
        stack.try_sluice(&all)
    };
    let output = of_subscriber(&stack, &["add", "own", "--subjects", "sluice.v1.image.>"]);
    assert!(output.status.success());
    // Its server is configured by somebody else.
    let note = String::from_utf8(output.stderr).unwrap();
    assert!(
        note.contains(&format!("sluice nats-config --keys {keys}")),
        "{note}"
    );
    let config = stack.sluice(&["nats-config", "--keys", &keys]);
    assert!(config.contains("user: subscriber-own, password: $PASSWORD_SUBSCRIBER_OWN"));
    assert!(!stack.sluice(&["nats-config"]).contains("subscriber-own"));

    let list = |stack: &Stack| {
        let output = of_subscriber(stack, &["list", "-o", "json"]);
        listed(&String::from_utf8(output.stdout).unwrap())
            .remove("own")
            .unwrap()
    };
    let bus = stack.bus();
    bus.publish(promoted("app", "1.0"), "once");
    let reader = Subscriber::start(&stack, "own", &["--subscriber", "own"]);
    wait_for("the event to be acknowledged", 30, || {
        let list = list(&stack);
        (list["pending"] == 0 && list["unacknowledged"] == 0).then_some(())
    });
    assert_eq!(reader.lines().len(), 1);
    drop(reader);
    bus.publish(promoted("app", "2.0"), "once");
    let before = list(&stack);
    assert_eq!(before["pending"], 1);
    stack.sluice(&["provision"]);
    stack.sluice(&["backup", &backup]);
    stack.kill_all();
    stack.nats.start_empty();
    stack.sluice(&["restore", &backup]);
    stack.restart_gateway();
    stack.sluice(&["provision"]);
    assert_eq!(list(&stack), before);
}
