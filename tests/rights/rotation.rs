//! A password at NATS is changed while everything runs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sluice_bus::{Bus, ProvisionOptions};
use sluice_tests::pass;

use crate::Scene;

fn replace(file: &Path, old: &str, new: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(old));
    fs::write(file, text.replace(old, new)).unwrap();
}

#[test]
fn a_changed_password_is_used_by_those_that_are_connected() {
    let scene = Scene::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let settings = scene.settings("admin");
    let bus = runtime.block_on(Bus::connect(&settings, "test")).unwrap();
    let file = scene.keys.nats_password("admin");
    let old = fs::read_to_string(&file).unwrap();
    let new = "another password of enough length";
    replace(&scene.nats.passwords(), old.trim(), new);
    let process = scene.nats.process_id().to_string();
    let reloaded = Command::new("kill").args(["-HUP", &process]).status();
    assert!(reloaded.unwrap().success());
    // The server has ended the connection, and refuses the password that the client still finds.
    pass(Duration::from_secs(2));
    let asked = || runtime.block_on(bus.provision(ProvisionOptions::default()));
    assert!(asked().is_err());
    replace(&file, old.trim(), new);
    sluice_tests::wait_for("the new password to be used", 30, || asked().ok());
}
