//! The audit: what somebody deleted behind Sluice's back comes again, what was pruned stays away, and what it costs.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sluice_state::key;
use sluice_tests::{Disks, Stack, wait_for};

use super::{Scene, of};

fn audit(scene: &Scene) -> Value {
    let told = scene.stack.sluice(&["reconcile", "--audit", "-o", "json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    told[0].clone()
}

/// Removes what the registry has of something in `hub/app`, without its knowledge.
fn remove(storage: &Path, what: &str, name: &str) {
    let repository = storage.join("docker/registry/v2/repositories/hub/app");
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let path: PathBuf = match what {
        "tag" => repository.join("_manifests/tags").join(name),
        "manifest" => repository.join("_manifests/revisions/sha256").join(hex),
        "link" => repository.join("_layers/sha256").join(hex),
        _ => storage
            .join("docker/registry/v2/blobs/sha256")
            .join(&hex[..2])
            .join(hex),
    };
    fs::remove_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

#[test]
fn an_audit_brings_again_what_was_deleted_and_leaves_what_was_pruned() {
    let storage = tempfile::tempdir().unwrap();
    let disks = Disks {
        registry: Some(storage.path()),
        ..Disks::default()
    };
    let stack = Stack::on(disks, 7_200);
    let publisher = stack.publisher();
    let children = ["amd64", "arm64"].map(|arch| publisher.image("library/app", arch, arch));
    let [amd64, arm64] = &children;
    let index = publisher.index("library/app", &[("amd64", amd64), ("arm64", arm64)]);
    let layers = |raw: &[u8]| -> Vec<String> {
        let manifest: Value = serde_json::from_slice(raw).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        let digests = layers.iter().map(|l| l["digest"].as_str().unwrap());
        digests.map(str::to_owned).collect()
    };
    let mut scene = Scene::on(stack, 5, "---\nkind: Repository\nname: hub/*\nkeep: 5\n");
    publisher.put("library/app", "2.0", &index);
    scene.poll();
    // Retention takes the oldest of the six.
    scene.stack.service("pruner", &[]);
    scene.stack.sluice(&["prune", "hub/app"]);
    let tags = ["1.0", "1.1", "1.2", "1.3", "1.4"];
    let pruned = wait_for("the oldest tag to be pruned", 60, || {
        tags.into_iter().find(|tag| scene.at(tag).is_none())
    });
    scene.quiet();
    assert_eq!(audit(&scene)["found"], 0);

    let kept: Vec<usize> = (0..5).filter(|at| tags[*at] != pruned).collect();
    remove(storage.path(), "tag", tags[kept[0]]);
    let links = layers(&scene.images[kept[1]].raw);
    remove(storage.path(), "link", &links[0]);
    let blobs = layers(&scene.images[kept[2]].raw);
    remove(storage.path(), "blob", &blobs[0]);
    remove(storage.path(), "manifest", &arm64.digest);
    let told = audit(&scene);
    assert_eq!((&told["lookedAt"], &told["found"]), (&6.into(), &4.into()));
    scene.quiet();
    let repaired = wait_for("each to be told", 60, || {
        Some(scene.stack.events("tag.repaired")).filter(|facts| facts.len() == 4)
    });
    let mut missing: Vec<String> = repaired
        .iter()
        .map(|fact| fact["data"]["missing"].as_str().unwrap().to_owned())
        .collect();
    missing.sort();
    let mut expected = [
        format!("blob {}", links[0]),
        format!("blob {}", blobs[0]),
        format!("manifest {}", arm64.digest),
        format!("tag {}", tags[kept[0]]),
    ];
    expected.sort();
    assert_eq!(missing, expected);
    assert_eq!(audit(&scene)["found"], 0);
    let reader = scene.stack.reader();
    assert_eq!(reader.get("hub/app", &arm64.digest).unwrap(), arm64.raw);
    for at in kept {
        assert_eq!(scene.at(tags[at]).unwrap(), scene.images[at].raw);
        for layer in layers(&scene.images[at].raw) {
            assert_eq!(reader.status(&format!("hub/app/blobs/{layer}")), 200);
        }
    }
    assert_eq!(scene.at(pruned), None, "what was pruned stays away");
    assert_eq!(scene.count("tag.mirrored"), 6, "nothing is mirrored twice");
}

#[test]
fn an_audit_asks_the_registry_alone_and_for_each_thing_once() {
    let scene = Scene::start(6, "");
    assert_eq!(audit(&scene)["lookedAt"], 6);
    assert_eq!(scene.upstream.requested(), []);
    let asked = scene.internal.requested();
    assert_eq!(of(&asked, "HEAD", "/manifests/1."), 6, "{asked:?}");
    assert_eq!(of(&asked, "GET", "/manifests/sha256:"), 6, "{asked:?}");
    // Each image has a layer of its own and a configuration of its own.
    assert!(of(&asked, "HEAD", "/blobs/") <= 12, "{asked:?}");
    assert_eq!(of(&asked, "PUT", "/") + of(&asked, "POST", "/"), 0);
}

#[test]
fn an_audit_is_due_by_itself_once_a_day_and_waits_for_the_end_of_a_pause() {
    let scene = Scene::start(1, "");
    let key = key::reconciliation("mirror-worker");
    let read = || {
        let entry = scene.bus.run(scene.bus.state.reconciliations.get(&key));
        entry.unwrap().unwrap().value
    };
    let search = || {
        let tick = sluice_state::reconcile::hourly_schedule(&sluice_bus::topology::MIRROR_WORKER);
        let before = read().run;
        scene.bus.command(tick.command);
        wait_for("the search to end", 60, || {
            Some(read()).filter(|read| read.run != before)
        })
    };
    scene.stack.sluice(&["pause", "as the test wants it"]);
    let paused = search();
    assert_eq!(
        (paused.reason.as_str(), paused.audited_at),
        ("hourly", None)
    );
    scene.stack.sluice(&["resume"]);
    let first = search();
    assert_eq!(first.reason, "audit");
    let audited_at = first.audited_at.unwrap();
    let second = search();
    assert_eq!(second.reason, "hourly", "one a day is enough");
    assert_eq!(second.audited_at, Some(audited_at), "it is remembered");
    let mut yesterday = second;
    yesterday.audited_at = Some(sluice_events::time_to_wire(
        chrono::Utc::now() - chrono::TimeDelta::hours(24),
    ));
    let put = scene.bus.state.reconciliations.put(&key, &yesterday);
    scene.bus.run(put).unwrap();
    assert_eq!(search().reason, "audit");
}
