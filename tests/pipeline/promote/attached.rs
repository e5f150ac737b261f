//! Signatures, attestations and SBOMs follow their image: into staging, into the target however late, and out of it.

use sluice_tests::{Image, wait_for};

use super::CLEAN_TO_OFFICIAL;
use super::scene::{CLEAN, Scan, Scene};

/// Returns the tag of something that is attached to a manifest.
fn tag_of(image: &Image, kind: &str) -> String {
    format!("{}{kind}", image.digest.replace(':', "-"))
}

impl Scene {
    /// Attaches a manifest to an image of `library/<name>` as cosign does, and returns it.
    fn attach(&self, name: &str, to: &Image, kind: &str, content: &str) -> Image {
        let publisher = self.stack.publisher();
        let from = format!("library/{name}");
        let manifest = publisher.image(&from, "amd64", content);
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
    let sbom = publisher.image("library/app", "amd64", "an SBOM");
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
    scene.facts("image.promoted", 1);
    scene.follows("official/app", &signed, &signature);
    scene.follows("official/app", &fallback, &listed);
    assert_eq!(scene.status("official/app", &sbom.digest), 200);

    // Somebody signs it too, and makes an attestation, after it was promoted.
    let both = scene.attach("app", index, ".sig", "two signatures");
    let attestation = scene.attach("app", amd64, ".att", "an attestation");
    let attested = tag_of(amd64, ".att");
    scene.follows("official/app", &signed, &both);
    scene.follows("official/app", &attested, &attestation);
    scene.told("image.promoted", 1);
    scene.told("image.promotion_denied", 0);
    // The comparison of targets takes nothing of it for a stranger's.
    scene.stack.sluice(&["reconcile", "promoter"]);
    scene.told("image.unauthorised", 0);

    scene.verdict(amd64, Scan::Critical(1));
    scene.tell_scanned("app", "1.0", index);
    scene.facts("image.withdrawn", 1);
    scene.told("image.withdrawn", 1);
    let reader = scene.reader();
    for tag in [&signed, &fallback, &attested] {
        assert_eq!(reader.get("official/app", tag), None, "{tag}");
        assert!(reader.get("hub/app", tag).is_some(), "{tag}");
    }
    for digest in [&both.digest, &sbom.digest, &attestation.digest] {
        assert_eq!(scene.status("official/app", digest), 404);
    }
}
