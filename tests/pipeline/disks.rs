//! Full disks: nothing unsafe, nothing lost, errors that say where, and recovery once there is room.

use std::fs;
use std::time::Duration;

use sluice_tests::up::sluice;
use sluice_tests::{Disk, Disks, Registry, Up, Upstream, pass, wait_for};

use crate::chaos::pipeline::Pipeline;

/// For how long a disk stays full once that was noticed.
const FULL: Duration = Duration::from_secs(15);

/// Two repositories before the disk is full, and two that are published meanwhile.
fn begin(disks: Disks<'_>) -> Pipeline {
    let mut pipeline = Pipeline::on(disks);
    pipeline.publish(0, 5);
    pipeline.publish(1, 5);
    pipeline.apply();
    pipeline.until_judged(10);
    pipeline.end();
    pipeline
}

fn more(pipeline: &mut Pipeline) {
    pipeline.publish(2, 5);
    pipeline.publish(3, 5);
    pipeline.apply();
}

#[test]
fn a_full_disk_at_the_registry_is_waited_for_and_named() {
    let disk = Disk::of(32);
    let mut pipeline = begin(Disks {
        registry: Some(disk.path()),
        ..Disks::default()
    });
    disk.fill();
    more(&mut pipeline);
    wait_for("the status to say whose disk is full", 60, || {
        let status = pipeline.stack.sluice(&["status"]);
        (status.contains("its disk is full") && status.contains("hub/app")).then_some(())
    });
    pass(FULL);
    let log = pipeline.log_of("mirror-worker");
    assert!(log.contains("its disk is full"), "{log}");
    assert_eq!(pipeline.stack.events("image.promoted").len(), 6);
    assert_eq!(pipeline.stack.status()["deadLetters"], 0);
    disk.free();
    pipeline.until_judged(20);
    assert_eq!(pipeline.end().promoted(), 12);
}

#[test]
fn a_full_disk_at_nats_server_is_named_and_nothing_is_lost() {
    let disk = Disk::of(32);
    let mut pipeline = begin(Disks {
        nats: Some(disk.path()),
        ..Disks::default()
    });
    // The mirrors are there already; their upstream gets new tags while nothing can be stored.
    disk.fill();
    pipeline.publish(0, 10);
    pipeline.publish(1, 10);
    let told = wait_for("a service to say what is the matter", 120, || {
        let told = pipeline.readiness("mirror-worker")?;
        told.contains("nats-server stores nothing").then_some(told)
    });
    assert!(told.contains("restart nats-server"), "{told}");
    let log = pipeline.log_of("mirror-worker");
    assert!(log.contains("confirms nothing"), "{log}");
    let output = pipeline.stack.try_sluice(&["status"]);
    let status = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(status.contains("stores nothing"), "{status}");
    pass(FULL);
    assert_eq!(pipeline.stack.events("image.promoted").len(), 6);
    assert!(pipeline.stack.nats.log().contains("no space left"));
    // Room alone is not enough: a stream that failed once stores nothing until the server is started anew.
    disk.free();
    pipeline.stack.nats.kill();
    pipeline.stack.nats.restart();
    pipeline.until_judged(20);
    assert_eq!(pipeline.end().promoted(), 12);
    wait_for("every service to be ready", 30, || {
        (pipeline.readiness("mirror-worker")? == "ready").then_some(())
    });
}

#[test]
fn up_starts_its_own_nats_server_anew_once_there_is_room() {
    let upstream = Registry::start();
    let publisher = Upstream::new(&upstream.host);
    let publish = |tag: &str| {
        let image = publisher.image("library/app", "amd64", tag);
        publisher.put("library/app", tag, &image);
    };
    publish("1.0");
    let disk = Disk::of(64);
    let folder = tempfile::tempdir().unwrap();
    let data = disk.path().join("data");
    let resources = folder.path().join("resources.yaml");
    let mirror = format!(
        "kind: Registry\nname: upstream\nhost: {0}\nplain_http: true\n---\n\
         kind: Mirror\nname: app\nfrom: {0}/library/app\nto: hub/app\nevery: 2s\n",
        upstream.host
    );
    fs::write(&resources, mirror).unwrap();
    let up = Up::start(&data, |command| {
        command.arg("--file").arg(&resources);
    });
    let mirrored = |count: usize| {
        wait_for(&format!("{count} tags to be mirrored"), 120, || {
            let events = sluice(&data, &["events", "--subject", "sluice.v1.tag.mirrored.>"]);
            let events = String::from_utf8(events.stdout).unwrap();
            (events.lines().count() == count).then_some(())
        });
    };
    let readiness = || {
        let url = format!("{}/readyz", up.endpoints()["health"].as_str().unwrap());
        reqwest::blocking::get(url).unwrap().text().unwrap()
    };
    mirrored(1);
    disk.fill();
    publish("2.0");
    wait_for("it to say what is the matter", 60, || {
        readiness()
            .contains("nats-server stores nothing")
            .then_some(())
    });
    disk.free();
    mirrored(2);
    // It has no scanner, so it says something all the same.
    wait_for("it to say that no more", 60, || {
        (!readiness().contains("stores nothing")).then_some(())
    });
}
