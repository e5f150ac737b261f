//! Services and the command log in with credentials files, at a NATS with an operator.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::json;
use sluice_bus::permissions::claims;
use sluice_bus::{Bus, Cause, ProvisionOptions};
use sluice_events::facts::ResourceApplied;
use sluice_service::BusSettings;
use sluice_tests::bus::promoted;
use sluice_tests::servers::Process;
use sluice_tests::{binary, wait_for};
use tokio::runtime::Runtime;

use crate::Scene;
use crate::operator::{self, subject_of};

fn sluice(scene: &Scene, credentials: &Path, arguments: &[&str]) -> Output {
    Command::new(binary("sluice"))
        .args(["--nats", &scene.nats.url, "--nats-credentials-file"])
        .arg(credentials)
        .args(arguments)
        .output()
        .unwrap()
}

fn connect(runtime: &Runtime, settings: &BusSettings) -> Result<Bus, String> {
    let connected = runtime.block_on(Bus::connect(settings, "test"));
    connected.map_err(|error| format!("{error:#}"))
}

#[test]
fn services_and_the_command_work_with_the_permissions_of_their_users() {
    let scene = Scene::with_operator();
    let admin = scene.credentials("admin");
    for arguments in [["provision"], ["status"]] {
        let done = sluice(&scene, &admin, &arguments);
        assert!(done.status.success(), "{done:?}");
    }
    for name in ["poller", "webhook-dispatcher"] {
        let file = |end: &str| scene.folder.path().join(format!("{name}.{end}"));
        let service = Command::new(binary(&format!("sluice-{name}")))
            .env("SLUICE__BUS__URL", &scene.nats.url)
            .env("SLUICE__BUS__CREDENTIALS_FILE", scene.credentials(name))
            .env("SLUICE__SECRETS__DIR", scene.folder.path())
            .env("SLUICE__HTTP__LISTEN", "127.0.0.1:0")
            .env("SLUICE__HTTP__ADDRESS_FILE", file("address"))
            .stdout(Stdio::null())
            .stderr(File::create(file("log")).unwrap())
            .spawn();
        let _service = Process(service.unwrap());
        wait_for(&format!("{name} to be ready"), 20, || {
            let address = fs::read_to_string(file("address")).ok()?;
            let answer = reqwest::blocking::get(format!("http://{address}/readyz")).ok()?;
            (answer.text().ok()? == "ready\n").then_some(())
        });
    }
    let log = scene.nats.log();
    assert!(!log.contains("Violation"), "{log}");
}

#[test]
fn the_command_prints_the_permissions_of_a_user() {
    let printed = Command::new(binary("sluice"))
        .args(["nats-config", "--permissions", "mirror-worker"])
        .output()
        .unwrap();
    let printed: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
    let allowed = |kind: &str, subject: &str| {
        let subjects = printed[kind]["allow"].as_array().unwrap();
        subjects.contains(&json!(subject))
    };
    assert!(allowed("pub", "sluice.v1.tag.mirrored.>"));
    assert!(allowed("pub", "sluice.progress.mirror.>"));
    assert!(allowed("sub", "_INBOX_mirror-worker.>"));
    assert!(!allowed("pub", "sluice.v1.image.promoted.>"));
}

#[test]
fn a_user_that_is_revoked_is_replaced_by_another_credentials_file_while_services_run() {
    let mut scene = Scene::with_operator();
    let runtime = Runtime::new().unwrap();
    let settings = scene.settings("admin");
    let bus = connect(&runtime, &settings).unwrap();
    let operator = scene.operator.as_ref().unwrap();
    let (new, file) = (operator.issue("admin"), scene.credentials("admin"));
    let config = operator.config(&[subject_of(&file)]);
    scene.nats.kill();
    let configuration = scene.nats.configuration();
    let before = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, operator::configured(&before, &config)).unwrap();
    scene.nats.restart();
    let refused = connect(&runtime, &settings).unwrap_err();
    assert!(refused.contains("authorization violation"), "{refused}");
    let asked = || runtime.block_on(bus.provision(ProvisionOptions::default()));
    assert!(asked().is_err());
    fs::write(&file, new.file()).unwrap();
    wait_for("the new credentials to be used", 30, || asked().ok());
}

#[test]
fn a_service_cannot_publish_what_another_user_of_the_account_can() {
    let scene = Scene::with_operator();
    let runtime = Runtime::new().unwrap();
    let file = scene.folder.path().join("unlimited.creds");
    let unlimited = scene
        .operator
        .as_ref()
        .unwrap()
        .issue_with("poller", json!({}));
    fs::write(&file, unlimited.file()).unwrap();
    let unlimited = BusSettings {
        credentials_file: Some(file),
        ..scene.settings("poller")
    };
    for (settings, may) in [(scene.settings("poller"), false), (unlimited, true)] {
        let bus = connect(&runtime, &settings).unwrap();
        let (event, cause) = (promoted("a", "1").into(), Cause::root());
        let published = bus.publish(&event, &cause, "1");
        assert_eq!(runtime.block_on(published).is_ok(), may);
    }
}

#[test]
fn an_id_that_another_user_took_drops_no_message() {
    let scene = Scene::with_operator();
    let runtime = Runtime::new().unwrap();
    let event = ResourceApplied {
        kind: "Mirror".to_owned(),
        name: "a".parse().unwrap(),
        revision: 1,
        removed: false,
        actor: String::new(),
    };
    // Both may publish this fact; the replicas of one have the same file.
    for (user, duplicate) in [("admin", false), ("gateway", false), ("gateway", true)] {
        let bus = connect(&runtime, &scene.settings(user)).unwrap();
        let (event, cause) = (event.clone().into(), Cause::root());
        let published = runtime.block_on(bus.publish(&event, &cause, "1"));
        assert_eq!(published.unwrap().duplicate, duplicate, "{user}");
    }
}

#[test]
fn the_jwt_of_a_service_with_its_permissions_in_it_is_too_long_for_a_login() {
    let scene = Scene::with_operator();
    let runtime = Runtime::new().unwrap();
    let operator = scene.operator.as_ref().unwrap();
    for (user, accepted) in [("admin", true), ("poller", false), ("gateway", false)] {
        let issued = operator.issue_with(user, claims(user, &[]).unwrap());
        fs::write(scene.credentials(user), issued.file()).unwrap();
        let connected = connect(&runtime, &scene.settings(user));
        assert_eq!(connected.is_ok(), accepted, "{user}");
    }
    let log = scene.nats.log();
    assert!(log.contains("maximum control line exceeded"), "{log}");
}
