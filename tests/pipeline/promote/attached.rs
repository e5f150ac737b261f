//! Signatures, attestations and SBOMs follow their image: into staging, into the target however late, and out of it.

use sluice_tests::image::{SIGNATURE, tag_of};
use sluice_tests::{Image, wait_for};

use super::CLEAN_TO_OFFICIAL;
use super::scene::{CLEAN, Scan, Scene};

impl Scene {
    /// Attaches a manifest to an image of `library/<name>` as cosign does, and returns it.
    fn attach(&self, name: &str, to: &Image, kind: &str, content: &str) -> Image {
        let publisher = self.stack.publisher();
        let from = format!("library/{name}");
        let manifest = publisher.referrer(&from, to, SIGNATURE, content);
        publisher.put(&from, &tag_of(to, kind), &manifest);
        manifest
    }

    fn follows(&self, repository: &str, tag: &str, wanted: &Image) {
        let reader = self.reader();
        wait_for(&format!("{repository}:{tag} to follow"), 60, || {
            (reader.get(repository, tag)? == wanted.raw).then_some(())
        });
    }
}

#[test]
fn what_is_attached_follows_however_late_and_leaves_with_the_image() {
    let mut scene = Scene::start();
    scene.policy(&format!("{CLEAN_TO_OFFICIAL}recall: withdraw\n"));
    scene.stack.service("promoter", &[]);
    let images = scene.publish_index("app", "1.0");
    let [index, amd64, _] = &images;
    let signature = scene.attach("app", index, ".sig", "a signature");
    // A referrer of a child, listed where registries without an API for that have it.
    let publisher = scene.stack.publisher();
    let sbom = publisher.referrer("library/app", amd64, "text/spdx", "an SBOM");
    let listed = publisher.index("library/app", &[("amd64", &sbom)]);
    let fallback = tag_of(amd64, "");
    publisher.put("library/app", &fallback, &listed);
    // It belongs to nothing that is mirrored.
    let stray = publisher.image("library/app", "amd64", "not mirrored");
    scene.attach("app", &stray, ".sig", "a signature of something else");
    scene.mirror("app");
    scene.mirrored("app", "1.0", index);
    let signed = tag_of(index, ".sig");
    scene.follows("hub/app", &signed, &signature);
    scene.follows("hub/app", &fallback, &listed);
    assert_eq!(scene.status("hub/app", &sbom.digest), 200);
    assert_eq!(scene.status("hub/app", &tag_of(&stray, ".sig")), 404);
    for tag in [&signed, &fallback] {
        assert_eq!(scene.status("official/app", tag), 404, "{tag}");
    }

    for child in &images[1..] {
        scene.verdict(child, CLEAN);
    }
    scene.tell_scanned("app", "1.0", index);
    scene.events("image.promoted", 1);
    scene.follows("official/app", &signed, &signature);
    scene.follows("official/app", &fallback, &listed);
    assert_eq!(scene.status("official/app", &sbom.digest), 200);

    // Somebody signs it too, and makes an attestation, after it was promoted.
    let both = scene.attach("app", index, ".sig", "two signatures");
    let attestation = scene.attach("app", amd64, ".att", "an attestation");
    let attested = tag_of(amd64, ".att");
    scene.follows("official/app", &signed, &both);
    scene.follows("official/app", &attested, &attestation);
    scene.expect_published("image.promoted", 1);
    scene.expect_published("image.promotion_denied", 0);
    // The comparison of targets takes nothing of it for a stranger's.
    scene.stack.sluice(&["reconcile", "promoter"]);
    scene.expect_published("image.unauthorised", 0);

    scene.verdict(amd64, Scan::Critical(1));
    scene.tell_scanned("app", "1.0", index);
    scene.events("image.withdrawn", 1);
    scene.expect_published("image.withdrawn", 1);
    let reader = scene.reader();
    for tag in [&signed, &fallback, &attested] {
        assert_eq!(reader.get("official/app", tag), None, "{tag}");
        assert!(reader.get("hub/app", tag).is_some(), "{tag}");
    }
    for digest in [&both.digest, &sbom.digest, &attestation.digest] {
        assert_eq!(scene.status("official/app", digest), 404);
    }
}

#[test]
fn what_could_run_or_refers_to_something_else_stays_out_of_the_target_and_holds_up_nothing() {
    let mut scene = Scene::start();
    scene.policy(CLEAN_TO_OFFICIAL);
    scene.stack.service("promoter", &[]);
    let publisher = scene.stack.publisher();
    let app = "library/app";
    let image = scene.publish("app", "1.0", "clean");
    // Nobody scans what lies under these tags.
    let [evil, worse] = ["evil", "worse"].map(|content| publisher.image(app, "amd64", content));
    publisher.put(app, &tag_of(&image, ".sig"), &evil);
    let sbom = publisher.referrer(app, &image, "text/spdx", "an SBOM");
    let foreign = publisher.referrer(app, &evil, "text/spdx", "of something else");
    // What is called an SBOM is unpacked all the same by whoever looks at its first bytes.
    let packed = publisher.packed(app, "text/spdx", &[("bin/sh", "evil")]);
    let packed = publisher.refer(app, &image, "text/spdx", packed);
    let unknown = publisher.referrer(app, &image, "application/json", "of no known kind");
    let soci = "application/vnd.amazon.soci.index.v1+json";
    let soci = publisher.referrer(app, &image, soci, "what is to be mounted");
    publisher.put(app, &tag_of(&image, ".att"), &packed);
    let children = [&worse, &foreign, &sbom, &packed, &unknown, &soci].map(|one| ("amd64", one));
    let listed = publisher.index(app, &children);
    publisher.put(app, &tag_of(&image, ""), &listed);
    scene.mirror("app");
    scene.mirrored("app", "1.0", &image);
    scene.follows("hub/app", &tag_of(&image, ".sig"), &evil);
    scene.follows("hub/app", &tag_of(&image, ""), &listed);
    scene.scan("app", "1.0", &image, CLEAN);
    scene.events("image.promoted", 1);
    let list = wait_for("what may follow to follow", 60, || {
        scene.reader().get("official/app", &tag_of(&image, ""))
    });
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(list["manifests"][0]["digest"], sbom.digest);
    scene.quiet();
    let signed = tag_of(&image, ".sig");
    let attested = tag_of(&image, ".att");
    for reference in [
        &signed,
        &attested,
        &evil.digest,
        &worse.digest,
        &foreign.digest,
        &packed.digest,
        &unknown.digest,
        &soci.digest,
    ] {
        assert_eq!(scene.status("official/app", reference), 404, "{reference}");
    }
    for (tag, reason) in [
        (&attested, "it begins as gzip"),
        (&signed, "which is none that is attached to images"),
        (&tag_of(&image, ""), "it refers to another manifest"),
    ] {
        let place = format!("official/app:{tag}");
        let told = scene.stack.sluice(&["explain", &place]);
        assert!(told.contains(reason), "{told}");
    }
    // It is not tried again and again, and nothing of it is a stranger's.
    let told = scene.stack.sluice(&["reconcile", "promoter", "-o", "json"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told[0]["found"], 0, "{told}");
    scene.expect_published("image.unauthorised", 0);
    scene.expect_published("image.promoted", 1);
}
