//! What is attached to an image follows it where that is wanted, and only what is attached.

use sluice_tests::image::{digests_in, tag_of};
use sluice_tests::liar::{Liar, Lie};
use sluice_tests::{Image, Upstream};

use super::{Scene, error, since};

/// An image with all that can be attached to it, at a registry without an API for that.
struct Signed {
    index: Image,
    arm: Image,
    sbom: Image,
    of_sbom: Image,
    signature: Image,
    foreign: Image,
}

impl Signed {
    fn push(upstream: &Upstream) -> Self {
        let amd = upstream.image("app", "amd64", "one");
        let arm = upstream.image("app", "arm64", "two");
        let index = upstream.index("app", &[("amd64", &amd), ("arm64", &arm)]);
        upstream.put("app", "1.0", &index);
        let other = upstream.image("app", "amd64", "other");
        let signed = Self {
            sbom: upstream.referrer("app", &arm, "text/spdx", "packages"),
            foreign: upstream.referrer("app", &other, "text/spdx", "of something else"),
            signature: upstream.referrer("app", &other, "application/json", "cosign signs"),
            index,
            arm,
            of_sbom: upstream.image("app", "amd64", "not yet known"),
        };
        let of_sbom = upstream.referrer("app", &signed.sbom, "text/signature", "signed");
        let list = [("amd64", &signed.sbom), ("amd64", &signed.foreign)];
        let list = upstream.index("app", &list);
        upstream.put("app", &tag_of(&signed.arm, ""), &list);
        let list = upstream.index("app", &[("amd64", &of_sbom)]);
        upstream.put("app", &tag_of(&signed.sbom, ""), &list);
        upstream.put("app", &tag_of(&signed.index, ".sig"), &signed.signature);
        Self { of_sbom, ..signed }
    }
}

#[test]
fn attachments_follow_where_that_is_wanted_and_what_is_none_is_left_out() {
    let scene = Scene::start();
    let signed = Signed::push(&scene.upstream());
    let (from, to) = (scene.image("app:1.0"), scene.place("app"));
    assert!(scene.sluice(&["copy", &from, &to]).status.success());
    let lists = [tag_of(&signed.arm, ""), tag_of(&signed.sbom, "")];
    let sig = tag_of(&signed.index, ".sig");
    for tag in lists.iter().chain([&sig]) {
        assert_eq!(scene.there("app", tag), None);
    }
    // Whoever uses the destination attached something too.
    let partner = Upstream::new(&scene.destination.host);
    let own = partner.referrer("app", &signed.arm, "text/scan", "scanned");
    let theirs = partner.index("app", &[("amd64", &own)]);
    partner.put("app", &lists[0], &theirs);

    let copy = ["copy", &from, &to, "--referrers"];
    let planned = scene.json(&[&copy[..], &["--dry-run"]].concat());
    assert_eq!(planned["outcome"], "unchanged", "{planned}");
    assert_eq!(planned["attachments"]["count"], 3, "{planned}");
    assert_eq!(scene.there("app", &sig), None);
    assert_eq!(scene.there("app", &signed.sbom.digest), None);
    let output = scene.sluice(&copy);
    assert!(output.status.success(), "{output:?}");
    assert!(
        error(&output).contains(&signed.foreign.digest),
        "{output:?}"
    );
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("unchanged; 3 attachments: copied"), "{told}");
    assert_eq!(scene.there("app", &sig), Some(signed.signature.raw));
    let mut both = [signed.sbom.digest.clone(), own.digest];
    both.sort();
    assert_eq!(digests_in(&scene.there("app", &lists[0]).unwrap()), both);
    let of_sbom = signed.of_sbom;
    assert_eq!(
        digests_in(&scene.there("app", &lists[1]).unwrap()),
        std::slice::from_ref(&of_sbom.digest)
    );
    for image in [&signed.sbom, &of_sbom] {
        assert_eq!(scene.there("app", &image.digest).as_ref(), Some(&image.raw));
    }
    assert_eq!(scene.there("app", &signed.foreign.digest), None);

    let before = scene.source.requests().len();
    let again = scene.json(&copy);
    assert_eq!(again["attachments"]["count"], 0, "{again}");
    let asked = since(&scene.source, before);
    assert!(
        !asked.iter().any(|asked| asked.contains("/blobs/")),
        "{asked:?}"
    );
    // A part has the attachments of what it has, and none of the whole.
    let part = scene.place("part");
    let copy = [
        "copy",
        &from,
        &part,
        "--platform",
        "linux/arm64",
        "--referrers",
    ];
    let planned = scene.json(&[&copy[..], &["--dry-run"]].concat());
    let copied = scene.json(&copy);
    for told in [&planned, &copied] {
        assert_eq!(told["attachments"]["count"], 2, "{told}");
        assert_eq!(
            told["attachments"]["bytes"], copied["attachments"]["bytes"],
            "{told}"
        );
    }
    assert_eq!(scene.there("part", &sig), None);
}

#[test]
fn a_sync_brings_attachments_once_for_all_tags_of_an_image_and_late_ones_later() {
    let scene = Scene::start();
    let upstream = scene.upstream();
    let image = upstream.image("app", "amd64", "one");
    for tag in ["1", "1.0", "latest"] {
        upstream.put("app", tag, &image);
    }
    let sbom = upstream.referrer("app", &image, "text/spdx", "packages");
    let list = upstream.index("app", &[("amd64", &sbom)]);
    upstream.put("app", &tag_of(&image, ""), &list);
    let file = scene.mirrors(&[("app", "")]);
    let to = scene.destination.host.as_str();
    let sync = ["sync", "-f", &file, "--to", to, "--referrers"];
    let told = scene.json(&sync);
    assert_eq!(told["totals"]["attachments"], 1, "{told}");
    let lists = scene.source.requests();
    let lists = lists.iter().filter(|asked| asked.contains("/tags/list"));
    assert_eq!(lists.count(), 1);

    let signature = upstream.image("app", "amd64", "stands for a signature");
    upstream.put("app", &tag_of(&image, ".sig"), &signature);
    let before = scene.source.requests().len();
    let output = scene.sluice(&sync);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("unchanged, 1 attachment"), "{told}");
    let there = scene.there("hub/app", &tag_of(&image, ".sig"));
    assert_eq!(there, Some(signature.raw));
    let asked = since(&scene.source, before);
    let list = format!("GET /v2/app/manifests/{}", tag_of(&image, ""));
    let lists = asked.iter().filter(|asked| **asked == list);
    assert_eq!(lists.count(), 1, "{asked:?}");
}

#[test]
fn an_api_for_referrers_is_used_at_either_end() {
    let scene = Scene::start();
    let upstream = scene.upstream();
    let image = upstream.image("app", "amd64", "one");
    upstream.put("app", "1.0", &image);
    let sbom = upstream.referrer("app", &image, "text/spdx", "packages");
    let absent = format!("sha256:{}", "0".repeat(64));
    let source = Liar::before(&scene.source.host);
    let destination = Liar::before(&scene.destination.host);
    let path = format!("/referrers/{}", image.digest);
    source.lie(&path, Lie::listing(&[&sbom.digest, &absent]));
    source.lie("/referrers/", Lie::listing(&[]));
    let from = format!("{}/app:1.0", source.host);
    let to = format!("{}/app", destination.host);
    let copy = [
        "copy",
        &from,
        &to,
        "--referrers",
        "--plain-http",
        &source.host,
        "--plain-http",
        &destination.host,
    ];
    // A destination that cannot tell what it has gets nothing more, and the image stays.
    destination.lie(&path, Lie::Status(500, None));
    let failed = scene.sluice(&copy);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(error(&failed).contains("attached"), "{failed:?}");
    assert_eq!(scene.there("app", "1.0"), Some(image.raw.clone()));
    assert_eq!(scene.there("app", &sbom.digest), None);

    destination.confess();
    destination.lie("/referrers/", Lie::listing(&[]));
    let output = scene.sluice(&copy);
    assert!(output.status.success(), "{output:?}");
    assert!(error(&output).contains(&absent), "{output:?}");
    assert_eq!(scene.there("app", &sbom.digest), Some(sbom.raw.clone()));
    // It lists what it has by itself.
    assert_eq!(scene.there("app", &tag_of(&image, "")), None);
    destination.confess();
    destination.lie(&path, Lie::listing(&[&sbom.digest]));
    let again = scene.json(&copy);
    assert_eq!(again["attachments"]["count"], 0, "{again}");
}
