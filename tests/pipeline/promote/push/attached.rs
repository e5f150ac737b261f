//! What is attached to an image is pushed with it, and joined with what others attached there.

use serde_json::Value;
use sluice_tests::image::{SIGNATURE, digests_in, tag_of};
use sluice_tests::wait_for;

use super::super::scene::{CLEAN, Scan, Scene};
use super::Remote;

#[test]
fn what_is_attached_is_pushed_too_and_what_others_attached_there_stays() {
    let mut scene = Scene::start();
    let remote = Remote::start();
    remote.push(&scene, "partners", "hub/*", "recall: withdraw\n");
    scene.stack.service("promoter", &[]);
    let (publisher, partner) = (scene.stack.publisher(), remote.reader());
    let (app, there) = ("library/app", "team/app");
    let image = scene.publish("app", "1.0", "content");
    let [list, signed] = ["", ".sig"].map(|kind| tag_of(&image, kind));
    let sbom = publisher.referrer(app, &image, "text/spdx", "packages");
    let listed = publisher.index(app, &[("amd64", &sbom)]);
    publisher.put(app, &list, &listed);
    let signature = publisher.referrer(app, &image, SIGNATURE, "upstream signs");
    publisher.put(app, &signed, &signature);
    // Whoever has that registry knows the image already, and signed it in both ways.
    let own = partner.referrer(there, &image, "text/signature", "they sign");
    let theirs = partner.index(there, &[("amd64", &own)]);
    partner.put(there, &list, &theirs);
    partner.put(there, &signed, &own);

    scene.mirror("app");
    scene.mirrored("app", "1.0", &image);
    scene.scan("app", "1.0", &image, CLEAN);
    remote.has(there, "1.0", &image);
    let both = wait_for("the lists to be joined", 60, || {
        let list = digests_in(&remote.get(there, &list)?);
        (list.len() == 2).then_some(list)
    });
    assert!(both.contains(&sbom.digest) && both.contains(&own.digest));
    assert_eq!(remote.get(there, &sbom.digest).unwrap(), sbom.raw);
    scene.expect_published("image.promoted", 1);
    assert_eq!(remote.get(there, &signed).unwrap(), own.raw);
    let told = scene.stack.sluice(&["reconcile", "promoter", "-o", "json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told[0]["found"], 0, "{told}");

    scene.scan("app", "1.0", &image, Scan::Critical(1));
    scene.events("image.withdrawn", 1);
    scene.expect_published("image.withdrawn", 1);
    for reference in ["1.0", &list, &sbom.digest] {
        assert_eq!(remote.get(there, reference), None, "{reference}");
    }
    assert_eq!(remote.get(there, &signed).unwrap(), own.raw);
}
