//! Layers as real builders write them: none may be refused.

use std::io::Write as _;
use std::process::{Command, Stdio};

use sluice_layer::{EntryForm, Language, PackageManager};

use crate::build::*;
use crate::clients::Layer;
use crate::strict::*;
use crate::verdicts::{Verdict, check};

fn accepted(layers: &[Layer]) {
    if let Verdict::Refused(error) = check(layers) {
        panic!("{error}");
    }
}

/// An entry as Go's writer makes it where the name or a time needs an extended header.
fn go(entry: Raw, records: &[(&str, &[u8])]) -> Vec<Raw> {
    vec![pax(b'x', records), entry]
}

#[test]
fn a_debian_base_with_merged_usr_and_layers_of_apt_on_it_pass() {
    let base = [
        symlink("bin", "usr/bin"),
        symlink("lib", "usr/lib"),
        symlink("lib64", "usr/lib64"),
        symlink("sbin", "usr/sbin"),
        folder("dev/"),
        device(b'3', "dev/console", (5, 1)),
        device(b'3', "dev/null", (1, 3)),
        folder("etc/"),
        symlink("etc/os-release", "../usr/lib/os-release"),
        folder("tmp/"),
        folder("usr/"),
        folder("usr/bin/"),
        Raw {
            mode: 0o104_755,
            ..file("usr/bin/passwd", "elf")
        },
        file("usr/bin/perl", "elf"),
        hard_link("usr/bin/perl5.36.0", "usr/bin/perl"),
        folder("usr/lib/"),
        file("usr/lib/os-release", "ID=debian\n"),
        folder("var/"),
        folder("var/lib/"),
        folder("var/lib/dpkg/"),
        file("var/lib/dpkg/status", "Package: base-files\n"),
        symlink("var/run", "/run"),
    ];
    let apt = [
        folder("etc/"),
        file("etc/ld.so.cache", "x"),
        folder("usr/"),
        folder("usr/bin/"),
        file("usr/bin/curl", "elf"),
        folder("var/"),
        folder("var/lib/"),
        folder("var/lib/apt/"),
        folder("var/lib/apt/lists/"),
        file("var/lib/apt/lists/.wh..wh..opq", ""),
        folder("var/lib/dpkg/"),
        file("var/lib/dpkg/status", "Package: curl\n"),
        file("var/lib/dpkg/.wh.status-old", ""),
        folder("tmp/"),
        file("tmp/.wh.build", ""),
    ];
    let layers = [bare(tar(&base)), bare(tar(&apt)), bare(tar(&[]))];
    accepted(&layers);
    let (contents, _) = read_image(&layers).unwrap();
    let [found] = &contents.databases[..] else {
        panic!("{:?}", contents.databases);
    };
    assert_eq!(
        (found.layer, found.database.manager),
        (1, PackageManager::Dpkg)
    );
    assert_eq!(found.database.form, EntryForm::File);
}

#[test]
fn layers_of_docker_buildkit_kaniko_and_buildah_pass() {
    let times: [(&str, &[u8]); 3] = [
        ("atime", b"1700000000.123456789"),
        ("ctime", b"1700000000.1"),
        ("mtime", b"1700000000"),
    ];
    let capability: [(&str, &[u8]); 1] = [(
        "SCHILY.xattr.security.capability",
        b"\x01\0\0\x02\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    )];
    let long_path = [&b"usr/share/"[..], &[b'n'; 180]].concat();
    let entries = [
        // Docker puts the type into the mode.
        vec![Raw {
            mode: 0o040_755,
            ..folder("usr/")
        }],
        vec![Raw {
            mode: 0o040_755,
            ..folder("usr/share/")
        }],
        go(
            Raw {
                mode: 0o100_644,
                ..file("usr/share/a", "x")
            },
            &times,
        ),
        go(
            Raw {
                mode: 0o100_755,
                ..file("usr/share/ping", "elf")
            },
            &capability,
        ),
        go(file("usr/share/nnn", "x"), &[("path", &long_path)]),
        vec![Raw {
            mode: 0o120_777,
            ..symlink("usr/share/l", "a")
        }],
        vec![Raw {
            mode: 0o100_644,
            ..hard_link("usr/share/h", "usr/share/a")
        }],
        vec![Raw {
            mode: 0o120_777,
            ..hard_link("usr/share/hl", "usr/share/l")
        }],
        // kaniko names the root and its folders with a slash in front.
        vec![folder("/"), folder("/kaniko/"), file("/kaniko/x", "x")],
        vec![file("usr/share/.wh.old", "")],
    ]
    .concat();
    for media_type in [GZIP, DOCKER_GZIP, ZSTD] {
        let tar = tar(&entries);
        let blob = if media_type == ZSTD {
            zstd(&tar)
        } else {
            gzip(&tar)
        };
        accepted(&[layer(media_type, blob, &tar)]);
    }
}

#[test]
fn layers_without_entries_for_their_folders_pass() {
    // ko, jib and bazel name files alone; bazel starts names with `./`, and GNU tar has long names.
    let ko = [
        folder("ko-app"),
        file("/ko-app/server", "elf"),
        file("var/run/ko/x", "x"),
    ];
    let bazel = [
        Raw {
            magic: GNU,
            ..folder("./")
        },
        Raw {
            magic: GNU,
            ..file("./app/node_modules/a/package.json", "{}")
        },
        long(b'L', &[&b"./app/"[..], &[b'b'; 150]].concat()),
        Raw {
            magic: GNU,
            ..file("./app/bbb", "x")
        },
        long(b'K', &[b't'; 150]),
        Raw {
            magic: GNU,
            ..symlink("./app/link", "ttt")
        },
    ];
    let apko = [
        file("lib/apk/db/installed", "P:busybox\n"),
        symlink("bin/sh", "/bin/busybox"),
        file(
            "usr/lib/python3/site-packages/x-1.dist-info/METADATA",
            "Name: x\n",
        ),
    ];
    let padded = [tar(&apko), vec![0; 9 * 1024]].concat();
    let layers = [bare(tar(&ko)), bare(tar(&bazel)), bare(padded)];
    accepted(&layers);
    let (contents, _) = read_image(&layers).unwrap();
    let languages: Vec<_> = contents
        .languages
        .iter()
        .map(|found| found.language)
        .collect();
    assert_eq!(languages, [Language::Node, Language::Python]);
    assert_eq!(contents.databases[0].database.manager, PackageManager::Apk);
}

#[test]
fn databases_behind_the_links_of_fedora_and_of_merged_alpine_pass() {
    let fedora = [
        folder("var/lib"),
        symlink("var/lib/rpm", "../../usr/lib/sysimage/rpm"),
        file("usr/lib/sysimage/rpm/rpmdb.sqlite", "SQLite format 3"),
    ];
    let alpine = [
        symlink("lib", "usr/lib"),
        file("usr/lib/apk/db/installed", "P:musl\n"),
    ];
    for entries in [&fedora[..], &alpine[..]] {
        let layers = [bare(tar(entries))];
        accepted(&layers);
        let (contents, _) = read_image(&layers).unwrap();
        assert_eq!(contents.databases.len(), 1);
        assert_eq!(contents.databases[0].database.form, EntryForm::File);
    }
}

#[test]
fn packages_behind_hard_links_of_another_name_are_told() {
    // uv links from its cache under the same name, pnpm from its store under a digest.
    let entries = [
        file("root/.cache/uv/x-1.dist-info/METADATA", "Name: x\n"),
        hard_link(
            "app/x-1.dist-info/METADATA",
            "root/.cache/uv/x-1.dist-info/METADATA",
        ),
        file("store/ab/cdef", "{}"),
        hard_link("app/node_modules/y/package.json", "store/ab/cdef"),
        symlink("opt/p/z-1.dist-info", "../hidden"),
        file("opt/hidden/METADATA", "Name: z\n"),
        symlink("usr/share/java/a.jar", "a-1.jar"),
        symlink("usr/share/java/b.jar", "/srv/b.bin"),
        symlink("opt/q/y.dist-info", "/opt/r/y.dist-info"),
        folder("srv/.git"),
        file("srv/.git/z.jar", "PK"),
        file("opt/x.spdx.json", "{}"),
    ];
    let layers = [bare(tar(&entries))];
    accepted(&layers);
    let (contents, _) = read_image(&layers).unwrap();
    let hidden: Vec<String> = contents
        .unscannable_packages
        .iter()
        .map(ToString::to_string)
        .collect();
    let expected = [
        "opt/p/z-1.dist-info",
        "app/node_modules/y/package.json",
        "usr/share/java/b.jar",
        "srv/.git/z.jar",
    ];
    assert_eq!(hidden, expected);
    assert_eq!(contents.sboms.len(), 1);
    let names = [".wh.app", ".wh.srv", ".wh.opt", ".wh.usr"];
    let removal = [
        layers[0].clone(),
        bare(tar(&names.map(|name| file(name, "")))),
    ];
    let (contents, _) = read_image(&removal).unwrap();
    assert_eq!(contents.unscannable_packages, []);
}

#[test]
fn tars_of_the_tar_program_pass_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("a".repeat(60)).join("b".repeat(90));
    std::fs::create_dir_all(&deep).unwrap();
    for number in 0..300 {
        std::fs::write(deep.join(format!("file-{number}")), vec![b'x'; number]).unwrap();
    }
    std::fs::write(
        folder.path().join("f\u{151}tan\u{fa}s\u{ed}tv\u{e1}ny.crt"),
        "x",
    )
    .unwrap();
    std::os::unix::fs::symlink("b".repeat(120), folder.path().join("link")).unwrap();
    std::fs::write(folder.path().join("file"), "x").unwrap();
    std::fs::hard_link(folder.path().join("file"), folder.path().join("hard")).unwrap();
    for (format, order) in [
        ("gnu", "none"),
        ("oldgnu", "name"),
        ("pax", "name"),
        ("ustar", "name"),
    ] {
        let output = Command::new("tar")
            .args([
                &format!("--format={format}"),
                &format!("--sort={order}"),
                "-c",
                "-C",
            ])
            .arg(folder.path())
            .arg(".")
            .stderr(Stdio::inherit())
            .output()
            .expect("tar is needed: apt-get install tar");
        if format != "ustar" {
            assert!(output.status.success());
        }
        let tar = output.stdout;
        accepted(&[layer(GZIP, gzip(&tar), &tar)]);
        accepted(&[layer(ZSTD, zstd(&tar), &tar)]);
    }
}

#[test]
fn a_layer_of_many_members_and_of_many_small_files_passes() {
    let mut entries = vec![folder("usr/")];
    for number in 0..20_000 {
        if number % 100 == 0 {
            entries.push(folder(format!("usr/{:03}", number / 100)));
        }
        entries.push(file(format!("usr/{:03}/{number}", number / 100), "x"));
    }
    let bytes = tar(&entries);
    // pigz --independent and eStargz write a member for each part.
    let blob: Vec<u8> = bytes.chunks(100_000).flat_map(gzip).collect();
    let (summary, written) = read(&layer(GZIP, blob, &bytes)).unwrap();
    assert_eq!((summary.entries, written), (20_201, bytes));
}

#[test]
fn python_writes_tars_that_pass_in_every_format() {
    let script = r"
import io, sys, tarfile
out = io.BytesIO()
tar = tarfile.open(fileobj=out, mode='w', format=getattr(tarfile, sys.argv[1]))
for name, kind, link in [('./', b'5', ''), ('./a/', b'5', ''), ('./a/' + 'n' * 140, b'0', ''), ('./l', b'2', 'x' * 120), ('./h', b'1', './a/' + 'n' * 140)]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mtime = kind, link, 1.5
    info.size = 3 if kind == b'0' else 0
    tar.addfile(info, io.BytesIO(b'abc'))
tar.close()
sys.stdout.buffer.write(out.getvalue())
";
    for format in ["GNU_FORMAT", "PAX_FORMAT"] {
        let mut child = Command::new("python3")
            .args(["-", format])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed: apt-get install python3");
        child
            .stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        let tar = child.wait_with_output().unwrap().stdout;
        assert!(tar.len() > 2048);
        accepted(&[layer(GZIP, gzip(&tar), &tar)]);
    }
}
