//! What is in an archive, entry by entry (the `d` rows).

use super::super::archive::{Archive, Entry};
use super::super::image::{Layer, Spec};
use super::super::{CLEAN, STATUS, VULNERABLE, system, system_with};
use super::{Case, base};
use crate::hostile::Bundle;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = names();
    cases.extend(links());
    cases.extend(kinds());
    cases.extend(whiteouts());
    cases.extend(extended());
    cases
}

/// One layer of this archive.
fn one(archive: Archive) -> Bundle {
    Spec::of(vec![Layer::gzip(&archive.finish())]).build()
}

/// A clean system, and a layer of this archive over it.
fn over(archive: Archive) -> Bundle {
    Spec::of(vec![base(), Layer::gzip(&archive.finish())]).build()
}

fn names() -> Vec<Case> {
    let status = |path: &str| system().file(path, CLEAN);
    let evil = |path: &str| over(Archive::default().file(path, VULNERABLE));
    let deep = format!("{}file", "d/".repeat(300));
    let long = "n".repeat(120);
    vec![
        Case::refused(
            "d01",
            "rule 13,",
            one(status(STATUS).file(STATUS, VULNERABLE)),
        ),
        Case::refused(
            "d01-dot",
            "rule 13,",
            one(status(STATUS).file("./var/lib/dpkg/status", VULNERABLE)),
        ),
        Case::refused(
            "d01-slashes",
            "rule 13,",
            one(status(STATUS).file("var//lib/dpkg/./status", VULNERABLE)),
        ),
        Case::refused("d02", "rule 13,", evil("../var/lib/dpkg/status")),
        Case::refused(
            "d02-within",
            "rule 13,",
            evil("a/../../var/lib/dpkg/status"),
        ),
        Case::refused("d02-inside", "rule 13,", evil("var/lib/x/../dpkg/status")),
        Case::promoted("d03-absolute", one(status("/var/lib/dpkg/status"))),
        Case::promoted("d03-dot", one(status("./var/lib/dpkg/status"))),
        Case::promoted("d03-slashes", one(status("//var/lib/dpkg/status"))),
        Case::vulnerable("d03-evil", evil("./var/lib/dpkg/status")),
        Case::promoted(
            "d16",
            one(status(STATUS).file("VAR/lib/dpkg/status", VULNERABLE)),
        ),
        Case::promoted(
            "d-root",
            one(Archive::default()
                .directory("./")
                .raw(&status(STATUS).without_end())),
        ),
        Case::refused(
            "d-deep",
            "",
            one(status(STATUS).pax(&[("path", &deep)]).file("x", "x")),
        ),
        Case::promoted(
            "d-gnu",
            one(status(STATUS).long_name(b'L', &long).file("n", "x")),
        ),
        Case::vulnerable(
            "d-gnu-evil",
            over(
                Archive::default()
                    .long_name(b'L', STATUS)
                    .file("harmless", VULNERABLE),
            ),
        ),
        Case::refused("d-empty", "rule 13,", one(status(STATUS).file("", "x"))),
        Case::refused(
            "d-below-file",
            "rule 14,",
            one(system().file("var/lib/dpkg", "x").file(STATUS, VULNERABLE)),
        ),
    ]
}

fn links() -> Vec<Case> {
    let beside = |archive: Archive| archive.file("opt/status", VULNERABLE);
    let evil = |path: &str| Archive::default().file(path, VULNERABLE);
    let linked = Layer::gzip(&system_with(CLEAN));
    let linking = |archive: Archive| Layer::gzip(&archive.finish());
    vec![
        Case::refused(
            "d04",
            "rule 14,",
            over(
                Archive::default()
                    .symlink("opt", "var/lib/dpkg")
                    .file("opt/status", VULNERABLE),
            ),
        ),
        Case::refused(
            "d05",
            "rule 14,",
            Spec::of(vec![
                linking(system().file(STATUS, CLEAN).symlink("opt", "var/lib/dpkg")),
                linking(evil("opt/status")),
            ])
            .build(),
        ),
        Case::refused(
            "d06-hard",
            "",
            one(beside(system()).hard_link(STATUS, "opt/status")),
        ),
        Case::refused(
            "d06-symlink",
            "",
            one(beside(system()).symlink(STATUS, "/opt/status")),
        ),
        Case::refused(
            "d06-folder",
            "",
            one(system()
                .symlink("var/lib/dpkg", "../../opt")
                .file("opt/status", VULNERABLE)),
        ),
        Case::refused(
            "d07",
            "rule 14,",
            Spec::of(vec![
                linked,
                linking(evil("opt/status")),
                linking(
                    Archive::default()
                        .hard_link("opt/link", "opt/status")
                        .hard_link(STATUS, "opt/status"),
                ),
            ])
            .build(),
        ),
        // What every system has: a directory that is a link, and two names of one file.
        Case::promoted(
            "d-merged",
            one(system()
                .file(STATUS, CLEAN)
                .directory("usr/bin/")
                .symlink("bin", "usr/bin")
                .file("usr/bin/perl", "x")
                .hard_link("usr/bin/perl5", "usr/bin/perl")),
        ),
        Case::refused(
            "d-hard-outside",
            "",
            one(system()
                .file(STATUS, CLEAN)
                .hard_link("opt/x", "../../etc/shadow")),
        ),
    ]
}

fn kinds() -> Vec<Case> {
    let evil =
        |kind: u8| over(Archive::default().entry(&Entry::new(STATUS, kind).content(VULNERABLE)));
    vec![
        Case::refused("d08", "rule 12,", evil(b'7')),
        Case::refused("d09", "rule 12,", evil(b'Z')),
        Case::refused("d08-sparse", "rule 12,", evil(b'S')),
        Case::vulnerable("d10", evil(0)),
        Case::promoted(
            "d-devices",
            one(system()
                .file(STATUS, CLEAN)
                .entry(&Entry::new("dev/null", b'3').device(1, 3).mode(0o666))
                .entry(&Entry::new("dev/loop0", b'4').device(7, 0).mode(0o660))
                .entry(&Entry::new("run/pipe", b'6'))
                .entry(&Entry::new("usr/bin/su", b'0').content("x").mode(0o4_755))
                .entry(&Entry::new("home/user", b'5').owner(1_000).mode(0o700))),
        ),
        Case::refused(
            "d12f",
            "rule 14,",
            over(Archive::default().entry(&Entry::new(STATUS, b'3'))),
        ),
    ]
}

fn whiteouts() -> Vec<Case> {
    let more = |archive: Archive| Layer::gzip(&archive.finish());
    let lower = || {
        more(
            system()
                .file(STATUS, VULNERABLE)
                .file("etc/x/a", "a")
                .file("etc/x/b", "b"),
        )
    };
    let hiding = |archive: Archive| Spec::of(vec![lower(), more(archive)]).build();
    let empty = |path: &str| Archive::default().file(path, "");
    let clean = |archive: Archive| archive.file(STATUS, CLEAN);
    vec![
        Case::refused(
            "d11",
            "rule 14,",
            over(Archive::default().file("a/x", "x").file("a/.wh.x", "")),
        ),
        Case::refused(
            "d11b",
            "rule 14,",
            over(Archive::default().file("a/.wh.x", "").file("a/x", "x")),
        ),
        Case::promoted("d12", hiding(clean(empty("etc/x/.wh.a")))),
        Case::promoted(
            "d12b",
            hiding(clean(empty("etc/x/.wh..wh..opq").file("etc/x/c", "c"))),
        ),
        Case::promoted("d12e", hiding(clean(empty("etc/.wh.x")))),
        Case::refused("d12c", "rule 14,", over(empty(".wh..wh..opq"))),
        Case::refused("d12i", "rule 14,", over(empty("etc/.wh.."))),
        Case::refused("d12-empty", "rule 14,", over(empty("etc/.wh."))),
        Case::promoted(
            "d12g",
            hiding(clean(Archive::default().file("etc/x", "a file now"))),
        ),
        // The whole database is hidden: what is left is a system of which nothing is known.
        Case::refused("d12-database", "", over(empty("var/lib/dpkg/.wh.status"))),
    ]
}

fn extended() -> Vec<Case> {
    let evil = || Entry::new("harmless", b'0').content(VULNERABLE);
    let sized = Archive::default().pax(&[("size", &VULNERABLE.len().to_string())]);
    let xattr = |key: &str| {
        let archive = system().file(STATUS, CLEAN).pax(&[(key, "y")]);
        one(archive.directory("etc/x"))
    };
    vec![
        Case::vulnerable(
            "d13",
            over(Archive::default().pax(&[("path", STATUS)]).entry(&evil())),
        ),
        Case::vulnerable(
            "d13b",
            over(sized.entry(&Entry::new(STATUS, b'0').content(VULNERABLE).size(0))),
        ),
        Case::refused(
            "d13b-other",
            "",
            over(
                Archive::default()
                    .pax(&[("size", "0")])
                    .file(STATUS, VULNERABLE),
            ),
        ),
        Case::refused(
            "d13c",
            "rule 15,",
            over(
                Archive::default()
                    .pax(&[("path", "harmless"), ("path", STATUS)])
                    .entry(&evil()),
            ),
        ),
        Case::refused(
            "d13d",
            "rule 15,",
            over(
                Archive::default()
                    .records(b'g', &[("path", STATUS)])
                    .entry(&evil()),
            ),
        ),
        Case::promoted(
            "d-comment",
            one(Archive::default()
                .global_comment("pax_global_header")
                .raw(&system().file(STATUS, CLEAN).without_end())),
        ),
        Case::refused(
            "d-comment-name",
            "rule 12, header",
            one(Archive::default()
                .global_comment(STATUS)
                .raw(&system().file(STATUS, CLEAN).without_end())),
        ),
        Case::refused(
            "d15",
            "rule 15,",
            xattr("SCHILY.xattr.trusted.overlay.opaque"),
        ),
        Case::refused(
            "d15-redirect",
            "rule 15,",
            xattr("SCHILY.xattr.trusted.overlay.redirect"),
        ),
        Case::refused(
            "d15-user",
            "rule 15,",
            xattr("SCHILY.xattr.user.overlay.opaque"),
        ),
        Case::promoted("d15-comment", xattr("SCHILY.xattr.user.comment")),
        Case::promoted(
            "d-times",
            one(system()
                .file(STATUS, CLEAN)
                .pax(&[
                    ("mtime", "1700000000.123456789"),
                    ("uid", "1000"),
                    ("gname", "users"),
                ])
                .file("etc/x", "x")),
        ),
        Case::refused(
            "d17",
            "",
            over(
                Archive::default()
                    .pax(&[("path", "var/lib/dpkg/status\0x")])
                    .entry(&evil()),
            ),
        ),
        Case::refused(
            "d-sparse",
            "rule 15,",
            over(
                Archive::default()
                    .pax(&[
                        ("GNU.sparse.major", "1"),
                        ("GNU.sparse.minor", "0"),
                        ("GNU.sparse.name", STATUS),
                    ])
                    .entry(&evil()),
            ),
        ),
        Case::refused(
            "d-pax-cut",
            "rule 15,",
            over(
                Archive::default()
                    .entry(&Entry::new("x", b'x').content("99 path=var/lib\n"))
                    .entry(&evil()),
            ),
        ),
        Case::refused(
            "d-sum",
            "rule 12,",
            over(Archive::default().raw(&{
                let mut bytes = Archive::default().file(STATUS, VULNERABLE).without_end();
                bytes[0] ^= 1;
                bytes
            })),
        ),
    ]
}
