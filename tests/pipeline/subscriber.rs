//! Programs in other languages read the same facts: the example in Python does.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use serde_json::Value;
use sluice_tests::bus::{promoted, scan_failed};
use sluice_tests::servers::Process;
use sluice_tests::{Stack, python, root, wait_for};

#[test]
fn the_example_in_python_prints_what_is_promoted_and_on_demand_everything() {
    let stack = Stack::start(7_200);
    let generated = stack.folder().join("generated");
    fs::create_dir(&generated).unwrap();
    let proto = root().join("proto");
    let mut protoc = Command::new(python());
    protoc
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(&proto)
        .arg(format!("--python_out={}", generated.display()));
    for entry in fs::read_dir(proto.join("sluice/events/v1")).unwrap() {
        protoc.arg(entry.unwrap().path());
    }
    assert!(protoc.status().unwrap().success());

    let start = |name: &str, more: &[&str]| {
        let out = stack.folder().join(name);
        let child = Command::new(python())
            .arg(root().join("deploy/examples/subscriber-python/subscriber.py"))
            .args(more)
            .arg(&stack.nats.url)
            .env("PYTHONPATH", &generated)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdout(File::create(&out).unwrap())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        (out, Process(child))
    };
    let (images, _images) = start("images", &[]);
    let (all, _all) = start("all", &["--all"]);
    let bus = stack.bus();
    bus.publish(promoted("node.js", "1.0"), "once");
    let failed = bus.publish(scan_failed("app", "2.0"), "once").id;
    bus.publish(promoted("app", "2.0"), "once");

    let lines = |file: &std::path::Path, count: usize| {
        wait_for("the subscriber to print", 30, || {
            let text = fs::read_to_string(file).unwrap();
            let lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
            (text.ends_with('\n') && lines.len() >= count).then_some(lines)
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
