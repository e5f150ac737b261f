//! Push mirroring: what is clean reaches a remote registry with the credential of its resource, and nothing else does.

mod attached;
mod faults;
mod recall;

use std::fs;

use sluice_tests::dishonest_registry::Liar;
use sluice_tests::{Image, PARTNER, Registry, Upstream, wait_for};

use super::scene::{CLEAN, Scan, Scene};

/// A registry of somebody else that wants an account.
struct Remote {
    registry: Registry,
    /// The host by which it is promoted into.
    host: String,
}

impl Remote {
    fn start() -> Self {
        let registry = Registry::private(true);
        let host = registry.host.clone();
        Self { registry, host }
    }

    /// The same one, reached through something in between.
    fn behind(self, host: &str) -> Self {
        let host = host.to_owned();
        Self { host, ..self }
    }

    /// Returns the resource that describes it, with this password in its secret.
    fn resource(&self, scene: &Scene, password: &str) -> String {
        let login = scene.stack.login(&self.host, (PARTNER.0, password));
        format!("kind: Registry\nname: partner\n{login}")
    }

    /// Applies its resource and a policy that promotes into it what has no critical finding.
    fn push(&self, scene: &Scene, name: &str, from: &str, more: &str) {
        scene.stack.apply(&self.resource(scene, PARTNER.1));
        scene.policy(&self.policy(name, from, more));
    }

    fn policy(&self, name: &str, from: &str, more: &str) -> String {
        format!(
            "name: {name}\nfrom: {from}\nto: {}/team/{{name}}\nwhen: scan.critical == 0\n{more}",
            self.host
        )
    }

    /// Speaks to it with the account of its resource.
    fn reader(&self) -> Upstream {
        Upstream::with_account(&self.registry.host, PARTNER.0, PARTNER.1)
    }

    fn get(&self, repository: &str, reference: &str) -> Option<Vec<u8>> {
        self.reader().get(repository, reference)
    }

    /// Waits until a tag names an image.
    fn has(&self, repository: &str, tag: &str, image: &Image) {
        wait_for(&format!("{repository}:{tag} to be pushed"), 60, || {
            (self.get(repository, tag)? == image.raw).then_some(())
        });
    }
}

#[test]
fn a_clean_image_appears_byte_for_byte_in_another_registry_and_a_denied_one_does_not() {
    let mut scene = Scene::start();
    let remote = Remote::start();
    let seen = Liar::before(&remote.host);
    let remote = remote.behind(&seen.host);
    remote.push(&scene, "partners", "hub/*", "");
    scene.stack.service("promoter", &[]);
    let images = scene.publish_index("multi", "1.0");
    scene.mirror("multi");
    let bad = scene.arrived("bad", "1.0", "vulnerable");
    let unknown = scene.arrived("unknown", "1.0", "not understood");
    scene.mirrored("multi", "1.0", &images[0]);
    for child in &images[1..] {
        scene.verdict(child, CLEAN);
    }
    scene.scan("bad", "1.0", &bad, Scan::Critical(1));
    scene.scan("unknown", "1.0", &unknown, Scan::Unsupported);
    scene.tell_scanned("multi", "1.0", &images[0]);
    let promoted = &scene.events("image.promoted", 1)[0];
    let data = &promoted["data"];
    assert_eq!(data["registry"], remote.host);
    assert_eq!(
        (&data["target"], &data["targetTag"]),
        (&"team/multi".into(), &"1.0".into())
    );
    let subject = promoted["subject"].as_str().unwrap();
    assert!(
        subject.starts_with("sluice.v1.image.promoted.127=2E") && subject.ends_with(".team/multi"),
        "nobody takes it for a local repository: {subject}"
    );
    assert_eq!(remote.get("team/multi", "1.0").unwrap(), images[0].raw);
    for image in &images {
        assert_eq!(remote.get("team/multi", &image.digest).unwrap(), image.raw);
    }
    let manifest: serde_json::Value = serde_json::from_slice(&images[1].raw).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    assert_eq!(
        remote.reader().status(&format!("team/multi/blobs/{layer}")),
        200
    );
    // It went there only, and only with the account of that registry.
    assert_eq!(scene.status("team/multi", "1.0"), 404);
    assert_eq!(
        Upstream::new(&remote.registry.host).status("team/multi/manifests/1.0"),
        401
    );
    let denied = scene.events("image.promotion_denied", 2);
    assert!(
        denied
            .iter()
            .all(|fact| fact["data"]["registry"] == remote.host)
    );
    for (name, image) in [("bad", &bad), ("unknown", &unknown)] {
        for reference in ["1.0", &image.digest] {
            let path = format!("team/{name}/manifests/{reference}");
            assert_eq!(remote.reader().status(&path), 404, "{path}");
        }
    }
    scene.expect_published("image.promoted", 1);
    let asked = seen.asked();
    assert!(
        asked
            .iter()
            .all(|(path, _)| path == "/v2/" || path.starts_with("/v2/team/multi/")),
        "of what was denied nothing is asked: {asked:?}"
    );
    let basic = "Basic cGFydG5lcjpvdGhlci1zZWNyZXQ=";
    let used: Vec<_> = asked
        .iter()
        .filter_map(|(_, used)| used.as_deref())
        .collect();
    assert!(
        !used.is_empty() && used.iter().all(|used| *used == basic),
        "{used:?}"
    );
    let there = format!("{}/team/multi:1.0", remote.host);
    for asked in ["hub/multi:1.0", &there] {
        let explained = scene.stack.sluice(&["explain", asked]);
        for told in [
            "image.promoted",
            "allowed",
            &there,
            &images[0].digest,
            "partners",
        ] {
            assert!(explained.contains(told), "{asked}: {told}: {explained}");
        }
    }
    let explained = scene
        .stack
        .sluice(&["explain", &format!("{}/team/bad:1.0", remote.host)]);
    assert!(explained.contains("scan.critical = 1"), "{explained}");
}

#[test]
fn a_remote_target_without_a_credential_is_refused_with_what_to_do() {
    let scene = Scene::start();
    let remote = Remote::start();
    let file = scene.stack.folder().join("policy.yaml");
    let apply = |text: String| {
        fs::write(&file, text).unwrap();
        scene
            .stack
            .try_sluice(&["apply", "-f", file.to_str().unwrap()])
    };
    let policy = format!(
        "kind: PromotionPolicy\n{}",
        remote.policy("partners", "hub/*", "")
    );
    let anonymous = format!(
        "kind: Registry\nname: partner\nhost: {}\n---\n{policy}",
        remote.host
    );
    for without in [policy.clone(), anonymous] {
        let refused = apply(without);
        assert!(!refused.status.success());
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        for part in [
            "is invalid",
            &format!("`host: {}`", remote.host),
            "`password`",
        ] {
            assert!(told.contains(part), "{told}");
        }
    }
    assert!(
        !scene
            .stack
            .sluice(&["get", "promotionpolicies"])
            .contains("partners")
    );
    let resource = remote.resource(&scene, PARTNER.1);
    assert!(apply(format!("{resource}---\n{policy}")).status.success());
}

#[test]
fn a_tag_that_comes_back_to_an_image_names_it_in_the_remote_registry_too() {
    let mut scene = Scene::start();
    let remote = Remote::start();
    remote.push(&scene, "partners", "hub/*", "");
    scene.stack.service("promoter", &[]);
    let first = scene.arrived("app", "1.0", "first");
    scene.scan("app", "1.0", &first, CLEAN);
    remote.has("team/app", "1.0", &first);
    let second = scene.publish("app", "1.0", "second");
    scene.mirrored("app", "1.0", &second);
    scene.scan("app", "1.0", &second, CLEAN);
    remote.has("team/app", "1.0", &second);
    scene.stack.publisher().put("library/app", "1.0", &first);
    scene.mirrored("app", "1.0", &first);
    scene.tell_scanned("app", "1.0", &first);
    remote.has("team/app", "1.0", &first);
    scene.expect_published("image.unauthorised", 0);
    assert_eq!(remote.get("team/app", "1.0").unwrap(), first.raw);
}

#[test]
fn the_newest_decision_has_the_remote_tag_that_two_policies_want() {
    let mut scene = Scene::start();
    let remote = Remote::start();
    remote.push(&scene, "partners", "hub/first", "");
    let one = |name: &str| {
        let to = format!("to: {}/team/one\n", remote.host);
        scene.policy(&format!(
            "name: {name}\nfrom: hub/{name}\n{to}when: scan.critical == 0\nshares_target: true\n"
        ));
    };
    one("first");
    one("second");
    scene.stack.service("promoter", &[]);
    scene.stack.service("promoter", &[]);
    let first = scene.arrived("first", "1.0", "first");
    let second = scene.arrived("second", "1.0", "second");
    scene.scan("first", "1.0", &first, CLEAN);
    scene.events("image.promoted", 2);
    scene.scan("second", "1.0", &second, CLEAN);
    let promoted = scene.events("image.promoted", 3);
    assert_eq!(promoted[2]["data"]["previous"], first.digest);
    remote.has("team/one", "1.0", &second);
    // The older decision is looked at again, and must not take the tag back.
    scene.tell_scanned("first", "1.0", &first);
    scene.expect_published("image.promoted", 3);
    scene.expect_published("image.unauthorised", 0);
    assert_eq!(remote.get("team/one", "1.0").unwrap(), second.raw);
}

#[test]
fn a_push_follows_a_promotion_and_is_recalled_with_it() {
    let mut scene = Scene::start();
    let remote = Remote::start();
    scene.policy(super::CLEAN_TO_OFFICIAL);
    remote.push(&scene, "partners", "official/*", "");
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "content");
    scene.scan("app", "1.0", &image, CLEAN);
    scene.expect_published("image.promoted", 2);
    assert_eq!(
        scene.reader().get("official/app", "1.0").unwrap(),
        image.raw
    );
    assert_eq!(remote.get("team/app", "1.0").unwrap(), image.raw);
    // The scan is told of the repository that it was made in.
    scene.scan("app", "1.0", &image, Scan::Critical(1));
    let flagged = scene.events("image.flagged", 2);
    let registries: Vec<_> = flagged
        .iter()
        .map(|fact| &fact["data"]["registry"])
        .collect();
    assert!(
        registries.contains(&&serde_json::Value::Null)
            && registries.contains(&&remote.host.clone().into()),
        "{flagged:#?}"
    );
    scene.expect_published("image.flagged", 2);
}
