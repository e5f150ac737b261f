//! How a service behaves as a process.

use std::process::Command;

use sluice_tests::{Stack, binary, wait_for};

#[test]
fn a_service_stops_cleanly_when_it_is_asked_to() {
    let mut stack = Stack::start(7_200);
    // Each asks for a search at its start, which is left to the next process where it ends before.
    stack.may_leave_messages();
    let poller = stack.service("poller", &[]);
    assert_eq!(stack.stop(poller), Some(0));
    // The gateway is the first service of every stack.
    let kept = reqwest::blocking::Client::new();
    let status = kept
        .get(format!("http://{}/api/v1/status", stack.api))
        .bearer_auth(stack.api_token())
        .send();
    let status: serde_json::Value = status.unwrap().json().unwrap();
    let stopped = status["stopped"].as_array().unwrap();
    assert!(stopped.contains(&"poller".into()), "{status}");
    assert!(!stopped.contains(&"gateway".into()), "{status}");
    assert_eq!(status["paused"], serde_json::Value::Null);
    assert_eq!(stack.stop(0), Some(0));
}

#[test]
fn settings_that_are_not_valid_end_with_78_and_name_the_key() {
    for (key, value, told) in [
        ("SLUICE__POLLER__CONCURENCY", "3", "concurency"),
        ("SLUICE__POLLER__CONCURRENCY", "many", "concurrency"),
        ("SLUICE__POLLER__CONCURRENCY", "0", "poller.concurrency"),
    ] {
        let output = Command::new(binary("sluice-poller"))
            .env("SLUICE__HTTP__LISTEN", "127.0.0.1:0")
            .env(key, value)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(78));
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.to_lowercase().contains(told), "{complaint}");
    }
}

#[test]
fn a_bus_that_was_not_provisioned_is_refused_with_what_to_do() {
    let nats = sluice_tests::Nats::start();
    let output = Command::new(binary("sluice-poller"))
        .env("SLUICE__HTTP__LISTEN", "127.0.0.1:0")
        .env("SLUICE__BUS__URL", &nats.url)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("upstream"), "{log}");
}

#[test]
fn a_service_is_not_ready_while_the_bus_is_gone() {
    let mut stack = Stack::start(7_200);
    let poller = stack.service("poller", &[]);
    assert_eq!(stack.readiness("poller", poller).unwrap(), "ready");
    stack.nats.kill();
    wait_for("the service to say what it waits for", 20, || {
        (stack.readiness("poller", poller)? == "waiting for poller/bus").then_some(())
    });
    stack.may_leave_messages();
}
