//! What is attached to an image follows it where that is wanted, and only what is attached.

use serde_json::Value;
use sluice_tests::dishonest_registry::{Liar, Lie};
use sluice_tests::image::{digests_in, tag_of};
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
            signature: upstream.signatures("app", &["cosign signs"]),
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

/// Returns how often manifests were fetched, which registries count.
fn pulls(asked: &[String]) -> usize {
    let is_pull = |asked: &&String| asked.starts_with("GET ") && asked.contains("/manifests/");
    asked.iter().filter(is_pull).count()
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
    let left_out = planned["attachments"]["leftOut"][0].as_str().unwrap();
    assert!(left_out.contains(&signed.foreign.digest), "{planned}");
    assert_eq!(scene.there("app", &sig), None);
    assert_eq!(scene.there("app", &signed.sbom.digest), None);
    let before = scene.source.requests().len();
    let output = scene.sluice(&copy);
    assert!(output.status.success(), "{output:?}");
    assert!(
        error(&output).contains(&signed.foreign.digest),
        "{output:?}"
    );
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("unchanged; 3 attachments: copied"), "{told}");
    let spent = pulls(&since(&scene.source, before));
    assert_eq!(planned["attachments"]["pulls"], spent);
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
        let attachments = &told["attachments"];
        assert_eq!(attachments["count"], 2, "{told}");
        assert_eq!(attachments["bytes"], copied["attachments"]["bytes"]);
    }
    assert_eq!(scene.there("part", &sig), None);
}

#[test]
fn what_cosign_adds_comes_and_what_somebody_else_signed_stays() {
    let scene = Scene::start();
    let upstream = scene.upstream();
    let image = upstream.image("app", "amd64", "one");
    upstream.put("app", "1.0", &image);
    let sig = tag_of(&image, ".sig");
    let (from, to) = (scene.image("app:1.0"), scene.place("app"));
    let copy = ["copy", &from, &to, "--referrers"];
    for signatures in [&["one"][..], &["one", "two"]] {
        let signature = upstream.signatures("app", signatures);
        upstream.put("app", &sig, &signature);
        let told = scene.json(&copy);
        assert_eq!(told["attachments"]["count"], 1, "{told}");
        assert_eq!(scene.there("app", &sig), Some(signature.raw));
    }
    let partner = Upstream::new(&scene.destination.host);
    let own = partner.signatures("app", &["theirs"]);
    partner.put("app", &sig, &own);
    let told = scene.json(&copy);
    assert_eq!(told["attachments"]["count"], 0, "{told}");
    let left_out = told["attachments"]["leftOut"][0].as_str().unwrap();
    assert!(left_out.contains(&sig), "{told}");
    assert_eq!(scene.there("app", &sig), Some(own.raw.clone()));

    // Nor does a list take the place of something else.
    let sbom = upstream.referrer("app", &image, "text/spdx", "packages");
    let listed = upstream.index("app", &[("amd64", &sbom)]);
    let list = tag_of(&image, "");
    upstream.put("app", &list, &listed);
    partner.put("app", &list, &own);
    let output = scene.sluice(&copy);
    assert!(output.status.success(), "{output:?}");
    assert!(error(&output).contains("something else"), "{output:?}");
    assert_eq!(scene.there("app", &list), Some(own.raw));
    assert_eq!(scene.there("app", &sbom.digest), None);
}

#[test]
fn a_sync_brings_attachments_once_for_all_tags_of_an_image_and_late_ones_later() {
    let scene = Scene::start();
    let upstream = scene.upstream();
    let image = upstream.image("app", "amd64", "one");
    for tag in ["1", "1.0", "latest"] {
        upstream.put("app", tag, &image);
    }
    // It is a part of an index too.
    let index = upstream.index("app", &[("amd64", &image)]);
    upstream.put("app", "all", &index);
    let sbom = upstream.referrer("app", &image, "text/spdx", "packages");
    let list = upstream.index("app", &[("amd64", &sbom)]);
    upstream.put("app", &tag_of(&image, ""), &list);
    let file = scene.mirrors(&[("app", "")]);
    let to = scene.destination.host.as_str();
    let sync = ["sync", "-f", &file, "--to", to, "--referrers"];
    let told = scene.json(&[&sync[..], &["--dry-run"]].concat());
    assert_eq!(told["totals"]["attachments"], 1, "{told}");
    let before = scene.source.requests().len();
    let told = scene.json(&sync);
    assert_eq!(told["totals"]["attachments"], 1, "{told}");
    let asked = since(&scene.source, before);
    let lists = asked.iter().filter(|asked| asked.contains("/tags/list"));
    assert_eq!(lists.count(), 1);

    let signature = upstream.signatures("app", &["signed"]);
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
    let amd = upstream.image("app", "amd64", "one");
    let statement = upstream.image("app", "unknown", "stands for an attestation");
    let mut index: Value = serde_json::from_slice(
        &upstream
            .index("app", &[("amd64", &amd), ("x", &statement)])
            .raw,
    )
    .unwrap();
    index["manifests"][1]["annotations"]["vnd.docker.reference.type"] =
        "attestation-manifest".into();
    let image = Image::index(&index);
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
    let hosts = [
        "--plain-http",
        &source.host,
        "--plain-http",
        &destination.host,
    ];
    let copy = [&["copy", &from, &to, "--referrers"][..], &hosts].concat();
    // A destination that cannot tell what it has gets nothing more, and the image stays.
    destination.lie(&path, Lie::Status(500, None));
    let failed = scene.sluice(&[&copy[..], &["-o", "json"]].concat());
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let told: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!(told["outcome"], "copied", "{told}");
    assert!(told["attachments"]["error"].is_string(), "{told}");
    assert_eq!(scene.there("app", "1.0"), Some(image.raw.clone()));
    assert_eq!(scene.there("app", &sbom.digest), None);

    destination.confess();
    destination.lie_times(&path, Lie::listing(&[]), 1);
    destination.lie(&path, Lie::listing(&[&sbom.digest]));
    destination.lie("/referrers/", Lie::listing(&[]));
    source.requested();
    let output = scene.sluice(&copy);
    assert!(output.status.success(), "{output:?}");
    assert!(error(&output).contains(&absent), "{output:?}");
    assert_eq!(scene.there("app", &sbom.digest), Some(sbom.raw.clone()));
    // It lists what it has by itself.
    let list = tag_of(&image, "");
    assert_eq!(scene.there("app", &list), None);
    // The index, its image, and what is attached are asked for, but no attestation.
    let asked = source.requested();
    let asked = asked
        .iter()
        .filter(|(_, path)| path.contains("/referrers/"));
    assert_eq!(asked.count(), 3);

    // Where it stores what it never lists, that is listed under the tag.
    let other = format!("{}/other", destination.host);
    destination.confess();
    destination.lie("/referrers/", Lie::listing(&[]));
    let copy = [&["copy", &from, &other, "--referrers"][..], &hosts].concat();
    assert_eq!(scene.json(&copy)["attachments"]["count"], 1);
    assert_eq!(
        digests_in(&scene.there("other", &list).unwrap()),
        std::slice::from_ref(&sbom.digest)
    );
    // A run that ended before that was listed has stored it already.
    let partner = Upstream::new(&scene.destination.host);
    let own = partner.referrer("other", &image, "text/scan", "scanned");
    let theirs = partner.index("other", &[("amd64", &own)]);
    partner.put("other", &list, &theirs);
    let again = scene.json(&copy);
    assert_eq!(again["attachments"]["count"], 0, "{again}");
    let mut both = [sbom.digest, own.digest];
    both.sort();
    assert_eq!(digests_in(&scene.there("other", &list).unwrap()), both);
}

#[test]
fn what_came_before_a_failure_is_neither_fetched_nor_counted_twice() {
    let scene = Scene::start();
    let upstream = scene.upstream();
    let image = upstream.image("app", "amd64", "one");
    let kinds = ["text/a", "text/b", "text/c"];
    let mut referrers = kinds.map(|kind| upstream.referrer("app", &image, kind, kind));
    referrers.sort_by(|a, b| a.digest.cmp(&b.digest));
    let source = Liar::before(&scene.source.host);
    let digests = [0, 1, 2].map(|n| referrers[n].digest.as_str());
    let path = format!("/referrers/{}", image.digest);
    source.lie(&path, Lie::listing(&digests));
    source.lie("/referrers/", Lie::listing(&[]));
    let last = format!("/manifests/{}", digests[2]);
    source.lie_times(&last, Lie::Status(503, None), 3);
    // Nothing has a tag at the source.
    let from = format!("{}/app@{}", source.host, image.digest);
    let to = scene.place("app");
    let copy = [
        "copy",
        &from,
        &to,
        "--referrers",
        "--plain-http",
        &source.host,
    ];
    let told = scene.json(&copy);
    assert_eq!(told["attachments"]["count"], 3, "{told}");
    assert_eq!(told["attachments"]["error"], Value::Null, "{told}");
    let listed = scene.there("app", &tag_of(&image, "")).unwrap();
    assert_eq!(digests_in(&listed), digests);
    let asked = source.requested();
    for digest in &digests[..2] {
        let path = format!("/v2/app/manifests/{digest}");
        let fetched = asked
            .iter()
            .filter(|(method, asked)| method == "GET" && *asked == path);
        assert_eq!(fetched.count(), 1, "{asked:?}");
    }
}
