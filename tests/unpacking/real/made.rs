//! Images whose layouts are those of real ones, made by hand because their tools are not in Debian.

use std::fs;

use serde_json::json;
use sluice_tests::content::JINJA;
use sluice_tests::hostile::archive::{Archive, Entry};
use sluice_tests::hostile::image::{DOCKER_GZIP, Layer, TAR, TAR_GZIP, TAR_ZSTD};
use sluice_tests::hostile::packing::{blocked_gzip, gzip, skippable, zstd};
use sluice_tests::hostile::{Bundle, CLEAN, STATUS, Spec, system, system_with};
use sluice_tests::tool;

use super::{Publisher, UPSTREAM};

const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

pub(super) fn publish(publisher: &mut Publisher) {
    let mut images = layouts();
    images.extend(packings());
    images.extend(trees());
    images.push(("docker-list", docker_list()));
    for (tag, image) in images {
        let status = image.push(&publisher.registry, UPSTREAM, tag);
        assert_eq!(status, 201, "{tag}");
        publisher.tags.push(tag);
    }
}

fn one(archive: Archive) -> Bundle {
    Spec::of(vec![Layer::gzip(&archive.finish())]).build()
}

/// Where distributions and languages keep what is installed.
fn layouts() -> Vec<(&'static str, Bundle)> {
    let release =
        |id: &str, version: &str| format!("ID={id}\nVERSION_ID={version}\nPRETTY_NAME=\"x\"\n");
    let package = |name: &str| CLEAN.replace("Package: libc6", &format!("Package: {name}"));
    let distroless = Archive::default()
        .directory("./")
        .directory("./etc/")
        .file("./usr/lib/os-release", release("debian", "\"12\""))
        .symlink("./etc/os-release", "../usr/lib/os-release")
        .file("./etc/debian_version", "12.5\n")
        .directory("./var/lib/dpkg/status.d/")
        .file("./var/lib/dpkg/status.d/base", package("base-files"))
        .file("./var/lib/dpkg/status.d/libc6", package("libc6"))
        .file(
            "./var/lib/dpkg/status.d/libc6.md5sums",
            "0 usr/lib/libc.so.6\n",
        );
    let installed = "C:Q1pZ8q\nP:busybox\nV:1.36.1-r30\nA:x86_64\nS:1\nI:1\nT:x\nU:x\nL:GPL-2.0-only\no:busybox\n\
        m:x <x@x>\nt:1\nc:x\nF:bin\nR:busybox\n\n";
    let alpine = || {
        Archive::default()
            .directory("bin/")
            .entry(&Entry::new("bin/busybox", b'0').content("x").mode(0o755))
            .symlink("bin/sh", "/bin/busybox")
            .file("etc/alpine-release", "3.20.3\n")
            .file("etc/os-release", release("alpine", "3.20.3"))
            .directory("lib/apk/db/")
            .file("lib/apk/db/installed", installed)
            .file("lib/apk/db/triggers", "")
            .file(
                "etc/apk/repositories",
                "https://dl-cdn.alpinelinux.org/alpine/v3.20/main\n",
            )
    };
    let program = fs::read(tool("nats-server")).unwrap();
    let go =
        Archive::default().entry(&Entry::new("nats-server", b'0').content(program).mode(0o755));
    vec![
        ("distroless", one(distroless)),
        ("alpine", one(alpine())),
        ("go", one(go)),
        (
            "python",
            one(system().file(STATUS, CLEAN).file(JINJA.0, JINJA.1)),
        ),
        (
            "python-on-alpine",
            one(alpine().file(
                "usr/lib/python3.12/site-packages/Jinja2-2.10.dist-info/METADATA",
                JINJA.1,
            )),
        ),
    ]
}

/// How layers are packed.
fn packings() -> Vec<(&'static str, Bundle)> {
    let archive = |note: &str| system().file(STATUS, CLEAN).file("packed", note).finish();
    let packed = |media_type: &str, archive: &[u8], blob: Vec<u8>| {
        Spec::of(vec![Layer::new(media_type, blob, archive)]).build()
    };
    let members = |bytes: &[u8]| bytes.chunks(500).flat_map(gzip).collect();
    let (a, b, c) = (archive("members"), archive("blocks"), archive("frames"));
    let frames = [zstd(&c[..900]), zstd(&c[900..]), skippable(b"a table")].concat();
    let d = archive("none");
    // The layer that Docker writes for an instruction that changes nothing.
    let nothing = [0; 1_024];
    let e = system_with(CLEAN);
    let docker = vec![
        Layer::new(DOCKER_GZIP, gzip(&e), &e),
        Layer::new(DOCKER_GZIP, gzip(&nothing), &nothing),
        Layer::new(DOCKER_GZIP, gzip(&nothing), &nothing),
    ];
    let listing = Archive::default()
        .file("stargz.index.json", "{\"version\":1,\"entries\":[]}")
        .finish();
    let open = system()
        .file(STATUS, CLEAN)
        .file("packed", "stargz")
        .without_end();
    let stargz = [&open[..], &listing].concat();
    let stargz_members = [gzip(&open), gzip(&listing), gzip(b"")].concat();
    vec![
        ("members", packed(TAR_GZIP, &a, members(&a))),
        ("blocks", packed(TAR_GZIP, &b, blocked_gzip(&b))),
        ("frames", packed(TAR_ZSTD, &c, frames)),
        ("not-packed", packed(TAR, &d, d.clone())),
        ("stargz", packed(TAR_GZIP, &stargz, stargz_members)),
        ("nothing", Spec::of(docker).build()),
    ]
}

/// What trees consist of.
fn trees() -> Vec<(&'static str, Bundle)> {
    let many = (0..5_000).fold(system().file(STATUS, CLEAN), |archive, number| {
        archive.file(
            &format!("srv/{}/{number}.txt", number % 50),
            number.to_string(),
        )
    });
    let merged = system()
        .file(STATUS, CLEAN)
        .directory("usr/")
        .directory("usr/bin/")
        .symlink("bin", "usr/bin")
        .symlink("lib", "usr/lib")
        .file("usr/bin/a", "a");
    let upper = Archive::default()
        .directory("usr/")
        .directory("usr/bin/")
        .file("usr/bin/b", "b")
        .file("usr/bin/a", "A");
    let lower = Layer::gzip(&merged.finish());
    // Version 2: effective, with CAP_NET_RAW permitted.
    let capability = "\u{1}\0\0\u{2}\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let attributes = system()
        .file(STATUS, CLEAN)
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.note", "x"),
        ])
        .entry(&Entry::new("usr/bin/ping", b'0').content("x").mode(0o755));
    let whiteouts = Archive::default()
        .file("usr/bin/.wh.a", "")
        .file("usr/bin/c", "c")
        .file("etc/x/.wh..wh..opq", "");
    vec![
        ("many-files", one(many)),
        (
            "merged",
            Spec::of(vec![lower.clone(), Layer::gzip(&upper.finish())]).build(),
        ),
        ("attributes", one(attributes)),
        (
            "whiteouts",
            Spec::of(vec![lower, Layer::gzip(&whiteouts.finish())]).build(),
        ),
    ]
}

/// A list of images as Docker has it, for two architectures.
fn docker_list() -> Bundle {
    let image = |architecture: &str| {
        let archive = system()
            .file(STATUS, CLEAN)
            .file("architecture", architecture)
            .finish();
        let layer = Layer::new(DOCKER_GZIP, gzip(&archive), &archive);
        let mut image = Spec::of(vec![layer])
            .config("/architecture", json!(architecture))
            .config_type(DOCKER_CONFIG)
            .build()
            .rewritten(|text| {
                text.replace(
                    "application/vnd.oci.image.manifest.v1+json",
                    DOCKER_MANIFEST,
                )
            });
        image.documents[0].media_type = DOCKER_MANIFEST;
        (
            image,
            json!({ "platform": { "os": "linux", "architecture": architecture } }),
        )
    };
    let mut list = Bundle::index(vec![image("amd64"), image("arm64")])
        .rewritten(|text| text.replace("application/vnd.oci.image.index.v1+json", DOCKER_LIST));
    list.documents.last_mut().unwrap().media_type = DOCKER_LIST;
    list
}
