//! What an upstream lists as referrers by its API follows the image into staging, however late; lies about it stop nothing.

use serde_json::json;
use sluice_tests::dishonest_registry::{Liar, Lie};
use sluice_tests::image::{digests_in, tag_of};
use sluice_tests::{Image, Stack, wait_for};

/// A mirror of `library/app` into `hub/app`, through an upstream that can have referrers.
struct Scene {
    stack: Stack,
    upstream: Liar,
}

fn sorted(images: &[&Image]) -> Vec<String> {
    let mut digests: Vec<String> = images.iter().map(|image| image.digest.clone()).collect();
    digests.sort();
    digests
}

impl Scene {
    fn start() -> Self {
        let stack = Stack::start(7_200);
        let upstream = Liar::before(&stack.upstream.host);
        Self { stack, upstream }
    }

    /// Starts the stages, mirrors, and waits until `1.0` is there and all is done.
    fn mirror(&mut self, image: &Image) {
        self.stack.service("poller", &[]);
        self.stack.service("mirror-worker", &[]);
        self.stack.apply(&format!(
            "kind: Registry\nname: upstream\nhost: {0}\nplain_http: true\n---\n\
             kind: Mirror\nname: app\nfrom: {0}/library/app\nto: hub/app\nevery: 1h\non_delete: delete\n",
            self.upstream.host
        ));
        self.until("1.0", |there| there == Some(image.raw.clone()));
        self.quiet();
    }

    fn quiet(&self) {
        wait_for("every stage to be done", 60, || {
            self.stack.is_quiet().then_some(())
        });
    }

    fn at(&self, reference: &str) -> Option<Vec<u8>> {
        self.stack.reader().get("hub/app", reference)
    }

    fn until(&self, reference: &str, wanted: impl Fn(Option<Vec<u8>>) -> bool) {
        wait_for(&format!("hub/app:{reference}"), 60, || {
            wanted(self.at(reference)).then_some(())
        });
    }

    fn poll(&self) {
        self.stack.sluice(&["poll", "app"]);
        self.quiet();
    }

    fn audit(&self) {
        self.stack.sluice(&["reconcile", "--audit"]);
        self.quiet();
    }

    /// Returns how often referrers were asked for since this was called last.
    fn asked(&self) -> usize {
        let requested = self.upstream.requested();
        let of = |(_, path): &&(String, String)| path.contains("/referrers/");
        requested.iter().filter(of).count()
    }
}

#[test]
fn listed_referrers_follow_and_what_is_none_is_left_out() {
    let mut scene = Scene::start();
    let publisher = scene.stack.publisher();
    let app = "library/app";
    let image = publisher.image(app, "amd64", "the image");
    publisher.put(app, "1.0", &image);
    let signature = publisher.referrer(app, &image, "text/signature", "signed");
    let other = publisher.image(app, "amd64", "not mirrored");
    let foreign = publisher.referrer(app, &other, "text/signature", "of something else");
    let missing = Image::index(&json!({ "schemaVersion": 2, "manifests": [] }));
    let part = format!("/referrers/{}", image.digest);
    let lies = [&signature, &foreign, &other, &missing].map(|image| image.digest.as_str());
    scene.upstream.lie(&part, Lie::listing(&lies));
    scene.upstream.lie("/referrers/", Lie::listing(&[]));
    scene.mirror(&image);
    let list = tag_of(&image, "");
    assert_eq!(digests_in(&scene.at(&list).unwrap()), sorted(&[&signature]));
    assert_eq!(scene.at(&signature.digest).unwrap(), signature.raw);
    for image in [&foreign, &other] {
        assert_eq!(scene.at(&image.digest), None);
    }
    assert_eq!(scene.stack.events("tag.mirror_failed").len(), 0);

    // Another one comes late. No poll asks for it, and the next audit finds it.
    let sbom = publisher.referrer(app, &image, "text/spdx", "packages");
    scene.upstream.confess();
    scene
        .upstream
        .lie(&part, Lie::listing(&[&signature.digest, &sbom.digest]));
    scene.upstream.lie("/referrers/", Lie::listing(&[]));
    scene.asked();
    scene.poll();
    assert_eq!(scene.asked(), 0);
    scene.audit();
    let both = sorted(&[&signature, &sbom]);
    scene.until(&list, |there| {
        there.is_some_and(|list| digests_in(&list) == both)
    });
    scene.quiet();
    let facts = scene.stack.events("tag.mirrored").len();
    assert_eq!(facts, 3, "the image, and its list twice");

    // Upstream has a list under the tag as well: what only the other one has stays, and none is a change again.
    let attestation = publisher.referrer(app, &image, "text/attestation", "built here");
    let theirs = publisher.index(app, &[("amd64", &attestation)]);
    publisher.put(app, &list, &theirs);
    scene.poll();
    let all = sorted(&[&signature, &sbom, &attestation]);
    assert_eq!(digests_in(&scene.at(&list).unwrap()), all);
    let before = scene.at(&list);
    scene.poll();
    scene.stack.sluice(&["reconcile", "mirror-worker"]);
    scene.audit();
    assert_eq!(scene.at(&list), before);
    assert_eq!(scene.stack.events("tag.mirrored").len(), facts + 1);

    // It goes with its image.
    publisher.delete(app, &image.digest);
    let kept = publisher.image(app, "amd64", "so that the list is not empty");
    publisher.put(app, "2.0", &kept);
    scene.poll();
    assert_eq!(scene.at("1.0"), None);
    assert_eq!(scene.at(&list), None);
    // Upstream has it still, and nothing brings it back.
    scene.poll();
    scene.stack.sluice(&["reconcile", "mirror-worker"]);
    scene.quiet();
    assert_eq!(scene.at(&list), None);
}

#[test]
fn a_hostile_list_of_referrers_stops_neither_the_image_nor_the_next_one() {
    let mut scene = Scene::start();
    let publisher = scene.stack.publisher();
    let images: Vec<Image> = ["1.0", "2.0"]
        .map(|tag| {
            let image = publisher.image("library/app", "amd64", tag);
            publisher.put("library/app", tag, &image);
            image
        })
        .into();
    let page = Lie::Found("text/html", "<html>not found</html>".to_owned());
    scene.upstream.lie("/referrers/", page);
    scene.mirror(&images[0]);
    scene.until("2.0", |there| there == Some(images[1].raw.clone()));
    scene.audit();
    assert!(scene.asked() <= 2, "it is remembered that there is no list");
    assert_eq!(scene.stack.events("tag.mirror_failed").len(), 0);
    assert_eq!(scene.stack.events("tag.mirrored").len(), 2);
}
