//! Images as GNU tar, podman and skopeo make them from real files.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use sluice_tests::clients::Podman;
use sluice_tests::hostile::{CLEAN, Layer, STATUS, Spec, system_with};
use sluice_tests::skopeo;

use super::{Publisher, UPSTREAM};

pub(super) fn publish(publisher: &mut Publisher, scratch: &Path) {
    let files = files(&scratch.join("files"));
    for (tag, format) in [
        ("tar-gnu", "gnu"),
        ("tar-posix", "posix"),
        ("tar-oldgnu", "oldgnu"),
    ] {
        let format = format!("--format={format}");
        let arguments = [
            &*format,
            "--numeric-owner",
            "--owner=3000000",
            "--xattrs",
            "-C",
        ];
        layer(
            publisher,
            tag,
            &tar(&arguments, &[files.to_str().unwrap(), "."]),
        );
    }
    let plain = ["--format=ustar", "--exclude=*long*", "-C"];
    layer(
        publisher,
        "tar-ustar",
        &tar(&plain, &[files.to_str().unwrap(), "."]),
    );
    layer(publisher, "debian", &debian());
    built(publisher, &files, scratch);
}

/// Publishes an image of one layer, which lies over a system that the database knows.
fn layer(publisher: &mut Publisher, tag: &'static str, archive: &[u8]) {
    let layers = vec![Layer::gzip(archive), Layer::gzip(&system_with(CLEAN))];
    let image = Spec::of(layers).build();
    assert_eq!(image.push(&publisher.registry, UPSTREAM, tag), 201, "{tag}");
    publisher.tags.push(tag);
}

fn tar(arguments: &[&str], paths: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .arg("--create")
        .args(arguments)
        .args(paths)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Makes files of every kind and returns their folder.
fn files(folder: &Path) -> PathBuf {
    let long = format!("long-{}", "n".repeat(140));
    let deep = folder.join("a/b/c").join("long-d".repeat(30)).join("e");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "deep").unwrap();
    fs::write(folder.join(&long), "long").unwrap();
    fs::write(folder.join("Käse 🧀"), "unicode").unwrap();
    fs::write(folder.join("empty"), "").unwrap();
    fs::write(folder.join("a/program"), "x").unwrap();
    fs::set_permissions(
        folder.join("a/program"),
        fs::Permissions::from_mode(0o4_755),
    )
    .unwrap();
    fs::hard_link(folder.join("a/program"), folder.join("a/program-again")).unwrap();
    symlink("a/program", folder.join("link")).unwrap();
    symlink(
        format!("a/b/c/{}/e/file", "long-d".repeat(30)),
        folder.join("long-link"),
    )
    .unwrap();
    symlink("/nowhere/../at/all", folder.join("dangling")).unwrap();
    let pipe = Command::new("mkfifo").arg(folder.join("pipe")).status();
    assert!(pipe.unwrap().success());
    folder.to_path_buf()
}

/// Packs a part of the Debian on which this runs: merged folders, hard links, thousands of files, its package database.
fn debian() -> Vec<u8> {
    let wanted = [
        "bin",
        "sbin",
        "lib",
        "lib64",
        "etc/debian_version",
        "etc/alternatives",
        "usr/bin/perl",
        "usr/bin/gunzip",
        "usr/bin/uncompress",
        "usr/share/perl",
        "usr/share/zoneinfo",
        "var/lib/dpkg/status",
        "var/lib/dpkg/alternatives",
    ];
    let there: Vec<&str> = wanted
        .into_iter()
        .filter(|path| Path::new("/").join(path).symlink_metadata().is_ok())
        .collect();
    // On a system that was not merged these are the folders themselves.
    let there: Vec<&str> = there
        .into_iter()
        .filter(|path| path.contains('/') || Path::new("/").join(path).is_symlink())
        .collect();
    assert!(there.contains(&STATUS), "the tests run on Debian");
    tar(&["--directory=/"], &there)
}

/// Builds an image with podman, changes it in a container, and publishes it in every way that tools have.
fn built(publisher: &mut Publisher, files: &Path, scratch: &Path) {
    let podman = Podman::new();
    let context = scratch.join("context");
    fs::create_dir_all(context.join("etc")).unwrap();
    fs::create_dir_all(context.join("var/lib/dpkg")).unwrap();
    fs::write(
        context.join("etc/os-release"),
        "ID=debian\nVERSION_ID=\"12\"\n",
    )
    .unwrap();
    fs::write(context.join("etc/debian_version"), "12.5\n").unwrap();
    fs::write(context.join(STATUS), CLEAN).unwrap();
    let copied = Command::new("cp")
        .arg("--archive")
        .arg(files)
        .arg(context.join("files"))
        .status();
    assert!(copied.unwrap().success());
    fs::remove_file(context.join("files/pipe")).unwrap();
    let steps = "FROM scratch\nCOPY etc /etc\nCOPY var /var\nCOPY files /opt/files\nENV A=b\nWORKDIR /srv/app\nLABEL a=b\nCMD [\"/opt/files/a/program\"]\n";
    fs::write(context.join("Containerfile"), steps).unwrap();
    let context = context.to_str().unwrap();
    podman.run(&["build", "--quiet", "--layers", "--tag", "built", context]);
    // As a later instruction would: something removed, replaced, and a folder emptied and filled again.
    let container = podman.run(&["create", "localhost/built", "/none"]);
    let root = podman.run(&["mount", container.trim()]);
    let root = Path::new(root.trim());
    fs::remove_file(root.join("opt/files/empty")).unwrap();
    fs::remove_dir_all(root.join("opt/files/a/b")).unwrap();
    fs::create_dir_all(root.join("opt/files/a/b")).unwrap();
    fs::write(root.join("opt/files/a/b/new"), "new").unwrap();
    podman.run(&["umount", container.trim()]);
    podman.run(&["commit", "--quiet", container.trim(), "committed"]);

    let image = "localhost/committed";
    let push = |more: &[&str], to: &str| {
        podman.run(
            &[
                &["push", "--quiet", "--tls-verify=false"],
                more,
                &[image, to],
            ]
            .concat(),
        );
    };
    push(
        &["--format", "oci"],
        &format!("docker://{}", publisher.reference("podman-oci")),
    );
    push(
        &["--format", "v2s2"],
        &format!("docker://{}", publisher.reference("podman-docker")),
    );
    let copy = |more: &[&str], from: &str, to: &str| {
        let copied = skopeo(
            "copy",
            &[&["--quiet", "--dest-tls-verify=false"], more].concat(),
            &[from, to],
        );
        assert!(
            copied.status.success(),
            "{}",
            String::from_utf8_lossy(&copied.stderr)
        );
    };
    for (tag, compression) in [("podman-zstd", "zstd"), ("podman-none", "none")] {
        let layout = format!("oci:{}", scratch.join(tag).display());
        let more = if compression == "none" {
            vec![]
        } else {
            vec!["--compression-format", compression]
        };
        push(&more, &layout);
        let more: &[&str] = if compression == "none" {
            &["--dest-decompress"]
        } else {
            &[]
        };
        copy(
            more,
            &layout,
            &format!("docker://{}", publisher.reference(tag)),
        );
    }
    let archive = scratch.join("saved.tar");
    podman.run(&[
        "save",
        "--quiet",
        "--format",
        "docker-archive",
        "--output",
        archive.to_str().unwrap(),
        image,
    ]);
    let saved = format!("docker-archive:{}", archive.display());
    copy(
        &[],
        &saved,
        &format!("docker://{}", publisher.reference("saved")),
    );
    copy(
        &["--format", "oci"],
        &saved,
        &format!("docker://{}", publisher.reference("saved-oci")),
    );
}
