//! Media types of layers and configurations (the `m` rows), and lists of contents beside the archive (`e01`).

use serde_json::json;

use super::super::image::{DOCKER_GZIP, Layer, Spec, TAR_GZIP};
use super::super::packing::{gzip, skippable, zstd};
use super::super::{CLEAN, STATUS, VULNERABLE, only, system};
use super::{Case, Expected, base};
use crate::hostile::Bundle;
use crate::hostile::archive::Archive;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = layers();
    cases.extend(configurations());
    cases.extend(alternative_file_lists());
    cases
}

/// A clean system with a layer of this type over it.
fn over(media_type: &str) -> Bundle {
    let archive = only(VULNERABLE);
    let layer = Layer::new(media_type, gzip(&archive), &archive);
    Spec::of(vec![base(), layer]).build()
}

fn layers() -> Vec<Case> {
    let refused = |id, media_type: &str| Case::refused(id, "", over(media_type));
    let hidden = Spec::of(vec![
        base(),
        Layer::new("application/octet-stream", gzip(&only(VULNERABLE)), b""),
    ]);
    let clean = system().file(STATUS, CLEAN).finish();
    let elsewhere = Layer::new(
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        gzip(&clean),
        &clean,
    )
    .with("urls", json!(["http://169.254.169.254/latest/meta-data/"]));
    let addressed = base().with("urls", json!(["http://169.254.169.254/latest/meta-data/"]));
    vec![
        refused("m01", "application/octet-stream"),
        // As many contents as types that newer clients count: they leave the layer out, older ones unpack it.
        Case::refused(
            "m01-skipped",
            "",
            hidden.diff_ids(&[&super::system_with(CLEAN)]).build(),
        ),
        Case::new("m03", Spec::of(vec![elsewhere]).build(), Expected::NotTaken),
        Case::new(
            "m03-urls",
            Spec::of(vec![addressed]).build(),
            Expected::NotTaken,
        ),
        refused(
            "m04",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        ),
        refused("m05", "application/vnd.oci.image.layer.v1.tar+foo"),
        refused("m06", "application/vnd.oci.image.layer.v1.TAR+GZIP"),
        refused("m07", "application/vnd.oci.image.layer.v1.tar+gzip+foo"),
        refused("m07b", "application/vnd.oci.image.layer.v1.tar+foo+gzip"),
        refused("m08", "application/vnd.oci.image.layer.v1.tar+gzip; x=y"),
        Case::vulnerable("m10", over(DOCKER_GZIP)),
        refused("m14", "application/vnd.wasm.content.layer.v1+wasm"),
        refused("m16", "application/vnd.oci.image.layer.nydus.blob.v1"),
        refused("m16-erofs", "application/vnd.erofs.layer.v1"),
        refused("m17", ""),
        refused("m18", "application/vnd.in-toto+json"),
    ]
}

fn configurations() -> Vec<Case> {
    let typed = |media_type: &str| {
        let archive = system().file(STATUS, CLEAN).file("type", media_type);
        Spec::of(vec![Layer::gzip(&archive.finish())])
            .config_type(media_type)
            .build()
    };
    vec![
        Case::refused("m11", "", typed("application/vnd.unknown.config.v1+json")),
        Case::refused("m12", "", typed("application/vnd.oci.empty.v1+json")),
        Case::promoted(
            "m13",
            typed("application/vnd.docker.container.image.v1+json"),
        ),
    ]
}

/// Layers with a list of contents of their own, which says something else than the archive.
fn alternative_file_lists() -> Vec<Case> {
    let toc = json!({
        "version": 1,
        "entries": [{ "name": STATUS, "type": "reg", "size": VULNERABLE.len(), "mode": 0o644 }],
    })
    .to_string();
    let listing = Archive::default().file("stargz.index.json", &toc).finish();
    let archive = system().file(STATUS, CLEAN).file("toc", "").without_end();
    let whole = [&archive[..], &listing].concat();
    let members = [gzip(&archive), gzip(&listing)].concat();
    let stargz = Layer::new(TAR_GZIP, members, &whole);
    let chunked = [zstd(&whole), skippable(toc.as_bytes())].concat();
    let chunked = Layer::new(super::super::image::TAR_ZSTD, chunked, &whole);
    let digest = super::super::image::digest(toc.as_bytes());
    let annotated = |layer: &Layer, key: &str| {
        Spec::of(vec![
            layer.clone().with("annotations", json!({ key: digest })),
        ])
        .build()
    };
    let soci = Spec::of(vec![base()]).build().rewritten(|text| {
        let annotation =
            format!("{{\"annotations\":{{\"com.amazon.soci.index-digest\":\"{digest}\"}},");
        text.replacen('{', &annotation, 1)
    });
    vec![
        Case::refused(
            "e01",
            "",
            annotated(&stargz, "containerd.io/snapshot/stargz/toc.digest"),
        ),
        Case::refused(
            "e01-chunked",
            "",
            annotated(
                &chunked,
                "io.github.containers.zstd-chunked.manifest-checksum",
            ),
        ),
        Case::refused(
            "e01-stargz-zstd",
            "",
            annotated(&chunked, "io.containers.zstd-chunked.manifest-checksum"),
        ),
        Case::refused(
            "e01-nydus",
            "",
            annotated(&stargz, "containerd.io/snapshot/nydus-bootstrap"),
        ),
        Case::refused("e01-soci", "", soci),
        // Nobody is told to read the list: it is a file like any other.
        Case::promoted("e01-plain", Spec::of(vec![stargz.clone()]).build()),
        Case::promoted(
            "e01-note",
            annotated(&stargz, "org.opencontainers.image.title"),
        ),
    ]
}
