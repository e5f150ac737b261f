//! Programs in other languages read the same facts: the example in Python does.

use serde_json::Value;
use sluice_tests::bus::{promoted, scan_failed};
use sluice_tests::subscriber::Subscriber;
use sluice_tests::{Stack, wait_for};

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
