//! Headers, names, links and whiteouts: rules 12 to 16.

use sluice_layer::{EntryForm, Error, Rule};

use super::{STATUS, accepted, content, refused_since_readers_differ, status};
use crate::build::*;
use crate::clients::Node;
use crate::strict::*;

#[test]
fn d01_a_name_that_is_there_twice_is_refused() {
    let folders = [folder("var"), folder("var/lib"), folder("var/lib/dpkg")];
    for second in [
        "var/lib/dpkg/status",
        "./var/lib/dpkg/status",
        "/var/lib//dpkg/./status",
    ] {
        let twice = Raw {
            name: second.into(),
            ..status("bravo")
        };
        let entries = [&folders[..], &[status("alpha"), twice]].concat();
        let d01 = bare(tar(&entries));
        assert_eq!(broken_rule(std::slice::from_ref(&d01)), Some(Rule::Name));
        // tar-split compares an absolute name with a relative one as different names.
        if !second.starts_with('/') {
            refused_since_readers_differ(&[d01], Rule::Name);
        }
    }
    // Docker and podman refuse a folder that is there twice as well.
    let entries = [folder("etc/"), file("etc/x", "x"), folder("./etc")];
    refused_since_readers_differ(&[bare(tar(&entries))], Rule::Name);
    accepted(&[bare(tar(&[
        folder("./"),
        folder("./etc/"),
        file("/etc//x", "x"),
    ]))]); // d03
}

#[test]
fn d02_names_that_lead_up_are_refused() {
    for name in ["../var/lib/dpkg/status", "a/../../x", "a/..", "..", "/.."] {
        let d02 = bare(tar(&[Raw {
            name: name.into(),
            ..status("alpha")
        }]));
        assert_eq!(broken_rule(std::slice::from_ref(&d02)), Some(Rule::Name));
        if name.starts_with("../var") {
            refused_since_readers_differ(&[d02], Rule::Name);
        }
    }
    for root in [file("", "x"), file("./", "x"), symlink("/", "x")] {
        assert_eq!(broken_rule(&[bare(tar(&[root]))]), Some(Rule::Name));
    }
}

#[test]
fn d04_d05_an_entry_below_a_link_is_refused() {
    let below = Raw {
        name: b"lib/dpkg/status".to_vec(),
        ..status("alpha")
    };
    let link = symlink("lib", "var/lib");
    refused_since_readers_differ(&[bare(tar(&[link.clone(), below.clone()]))], Rule::Link);
    assert_eq!(
        broken_rule(&[bare(tar(&[below.clone(), link.clone()]))]),
        Some(Rule::Link)
    );
    // d05: the link is in a lower layer, as it is in every Debian image since the merge of /usr.
    let lower = bare(tar(&[folder("var/"), folder("var/lib/"), link]));
    let upper = bare(tar(std::slice::from_ref(&below)));
    refused_since_readers_differ(&[lower.clone(), upper.clone()], Rule::Link);
    // With a folder of its own the link is replaced for everybody.
    let own = bare(tar(&[folder("lib/"), folder("lib/dpkg/"), below]));
    accepted(&[lower.clone(), own]);
    // So it is when a layer between them removed the link.
    let removal = bare(tar(&[file(".wh.lib", "")]));
    accepted(&[lower, removal, upper]);
}

#[test]
fn d06_a_database_that_is_a_link_is_told() {
    let folders = [folder("var/"), folder("var/lib/"), folder("var/lib/dpkg/")];
    let real = Raw {
        name: b"srv/x".to_vec(),
        ..status("alpha")
    };
    for (link, form) in [
        (hard_link(STATUS, "srv/x"), EntryForm::HardLink),
        (symlink(STATUS, "/srv/x"), EntryForm::Symlink),
    ] {
        let layers = [bare(tar(&[
            &folders[..],
            &[folder("srv"), real.clone(), link],
        ]
        .concat()))];
        accepted(&layers);
        let (contents, _) = read_image(&layers).unwrap();
        let forms: Vec<_> = contents.databases.iter().map(|d| d.database.form).collect();
        assert_eq!(forms, [form]);
    }
    for link in ["var/lib/dpkg", "var/lib", "var"] {
        let layers = [bare(tar(&[
            symlink(link, "/srv"),
            folder("srv"),
            file("srv/status", "x"),
        ]))];
        accepted(&layers);
        let (contents, _) = read_image(&layers).unwrap();
        assert!(
            contents
                .databases
                .iter()
                .any(|d| d.database.form == EntryForm::ThroughSymlink)
        );
    }
}

#[test]
fn a_hard_link_to_a_link_on_the_way_to_a_database_is_told() {
    let entries = [
        symlink("tmp", "/srv"),
        folder("var"),
        folder("var/lib"),
        hard_link("var/lib/dpkg", "tmp"),
        folder("srv"),
        file("srv/status", "Package: bravo\n"),
    ];
    let layers = [bare(tar(&entries))];
    let tree = accepted(&layers);
    assert!(crate::clients::open(&tree, STATUS.as_bytes()).is_some());
    let (contents, _) = read_image(&layers).unwrap();
    assert!(!contents.databases.is_empty());
    // A folder of an upper layer replaces the link, and with it what it hid.
    let upper = bare(tar(&[
        folder("var/lib"),
        folder("var/lib/dpkg"),
        file(STATUS, "x"),
    ]));
    let (contents, _) = read_image(&[layers[0].clone(), upper]).unwrap();
    let forms: Vec<_> = contents.databases.iter().map(|d| d.database.form).collect();
    assert_eq!(forms, [EntryForm::File]);
}

#[test]
fn d07_a_hard_link_to_what_the_layer_does_not_have_is_refused() {
    let lower = bare(tar(&[file("a", "x")]));
    let upper = bare(tar(&[hard_link("b", "a")]));
    refused_since_readers_differ(&[lower, upper], Rule::Link);
    for target in ["b", "c", "", "../a", "d"] {
        let entries = [folder("d"), hard_link("b", target), file("c", "x")];
        assert!(broken_rule(&[bare(tar(&entries))]).is_some(), "{target}");
    }
    let within = [file("a", "x"), hard_link("b", "./a"), hard_link("c", "/b")];
    accepted(&[bare(tar(&within))]);
    let to_link = [symlink("a", "usr"), hard_link("b", "a"), file("b/x", "x")];
    assert_eq!(broken_rule(&[bare(tar(&to_link))]), Some(Rule::Link));
}

#[test]
fn d08_d09_types_of_entries_that_clients_do_not_unpack_are_refused() {
    for typeflag in [b'7', b'Z', b'S', b'M', b'A', b'8', b'D', b'V', 0xff] {
        let entry = Raw {
            typeflag,
            ..status("alpha")
        };
        assert_eq!(broken_rule(&[bare(tar(&[entry]))]), Some(Rule::EntryType));
    }
}

#[test]
fn d10_d14_old_regular_files_are_read_as_all_clients_do() {
    let entry = |typeflag, name: &str| Raw {
        typeflag,
        ..file(name, "x")
    };
    let tree = accepted(&[bare(tar(&[entry(0, "a"), entry(b'0', "b/")]))]);
    assert_eq!(
        (content(&tree, "a"), content(&tree, "b")),
        (Some(&b"x"[..]), Some(&b"x"[..]))
    );
    let tree = accepted(&[bare(tar(&[Raw {
        typeflag: 0,
        ..file("c/", "")
    }]))]);
    assert_eq!(tree[&b"c"[..]], Node::Folder);
    // An old folder with content: Go reads the content as headers.
    assert_eq!(
        broken_rule(&[bare(tar(&[entry(0, "c/")]))]),
        Some(Rule::Header)
    );
}

#[test]
fn d11_d12_whiteouts_with_two_meanings_are_refused() {
    for entries in [
        vec![file("a", "x"), file(".wh.a", "")],
        vec![file(".wh.a", ""), file("a", "x")],
        vec![folder("d"), file("d/a", "x"), file(".wh.d", "")],
        vec![file(".wh.d", ""), folder("d"), file("d/a", "x")],
        vec![file(".wh.", "")],
        vec![file("d/.wh..", "")],
        vec![file(".wh...", "")],
        vec![file(".wh..wh.aufs", "")],
        vec![file(".wh..wh..opq", "")],
        vec![file(".wh.a", "content")],
        vec![folder(".wh.a")],
        vec![symlink(".wh.a", "b")],
        vec![file(".wh.a/b", "x")],
        vec![file(".wh.a", ""), file(".wh.a", "")],
        vec![file("d/sub/x", "x"), file("d/.wh..wh..opq", "")],
    ] {
        let layers = [bare(tar(&entries))];
        assert_eq!(broken_rule(&layers), Some(Rule::Whiteout), "{entries:?}");
    }
    let lower = bare(tar(&[
        folder("d"),
        file("d/a", "1"),
        file("b", "1"),
        folder("e"),
        file("e/x", "1"),
    ]));
    let upper = [
        file(".wh.b", ""),
        folder("d"),
        file("d/.wh..wh..opq", ""),
        file("d/c", "2"),
        hard_link(".wh.e", ".wh.b"),
    ];
    let tree = accepted(&[lower, bare(tar(&upper))]);
    let paths: Vec<_> = tree
        .keys()
        .map(|path| String::from_utf8_lossy(path))
        .collect();
    assert_eq!(paths, ["d", "d/c"]);
}

#[test]
fn d12f_device_nodes_that_are_whiteouts_of_overlayfs_are_refused() {
    let lower = bare(tar(&[folder("dev"), file("dev/a", "1")]));
    for numbers in [(0, 0), (0x1000, 0), (0, 0x10_0000), (0x1000, 0x10_0000)] {
        let upper = bare(tar(&[folder("dev"), device(b'3', "dev/a", numbers)]));
        refused_since_readers_differ(&[lower.clone(), upper], Rule::Device);
    }
    // What the base images of real distributions have.
    let devices = [
        folder("dev"),
        device(b'3', "dev/console", (5, 1)),
        device(b'3', "dev/null", (1, 3)),
        device(b'3', "dev/tty", (5, 0)),
        device(b'4', "dev/loop0", (7, 0)),
        device(b'4', "dev/none", (0, 0)),
        Raw::new(b'6', "dev/initctl", b""),
    ];
    accepted(&[bare(tar(&devices))]);
}

#[test]
fn d12g_a_folder_that_becomes_a_file_is_over_reported_at_most() {
    let lower = bare(tar(&[folder("d"), file("d/a", "1")]));
    let tree = accepted(&[lower, bare(tar(&[file("d", "2")]))]);
    assert_eq!(tree.len(), 1);
}

#[test]
fn d13_d17_extended_headers_with_two_meanings_are_refused() {
    let a = status("alpha");
    let named = |records: &[(&str, &[u8])]| vec![pax(b'x', records), file("short", "x")];
    accepted(&[bare(tar(&named(&[("path", b"a/long/name")])))]);
    let no_size = Raw {
        size: octal(0, 12),
        ..file("x", "xyz")
    };
    let tree = accepted(&[bare(tar(&[pax(b'x', &[("size", b"3")]), no_size]))]);
    assert_eq!(content(&tree, "x"), Some(&b"xyz"[..]));
    for entries in [
        named(&[("path", b"a"), ("path", b"b")]), // d13c
        named(&[("path", b"")]),
        named(&[("path", b"a\0b")]), // d17
        named(&[("size", b"2")]),
        named(&[("size", b"-1")]),
        named(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")]),
        named(&[("GNU.sparse.name", b"other")]),
        named(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")]), // d15
        named(&[("SCHILY.xattr.trusted.overlay.redirect", b"/x")]),
        named(&[("SCHILY.xattr.user.overlay.opaque", b"y")]),
        named(&[("SCHILY.xattr.user.fuseoverlayfs.opaque", b"y")]),
        named(&[("SCHILY.xattr.user.containers.override_stat", b"0:0:0120777")]),
        vec![pax(b'g', &[("path", b"a")]), a.clone()],
        vec![pax(b'g', &[("size", b"1")]), a.clone()],
        vec![pax(b'x', &[]), pax(b'x', &[]), a.clone()],
        vec![pax(b'x', &[("path", b"b")]), pax(b'g', &[]), a.clone()],
        vec![pax(b'x', &[("path", b"b")])],
        vec![long(b'L', b"b"), long(b'L', b"c"), a.clone()],
        vec![long(b'L', b"b"), pax(b'x', &[("path", b"c")]), a.clone()],
        vec![long(b'L', b"b\0c"), a.clone()],
        vec![long(b'L', b""), a.clone()],
        vec![long(b'K', b"b")],
    ] {
        let layers = [bare(tar(&entries))];
        assert_eq!(
            broken_rule(&layers),
            Some(Rule::ExtendedHeader),
            "{entries:?}"
        );
    }
    accepted(&[bare(tar(&[
        long(b'L', b"a/long/name"),
        long(b'K', b"where"),
        symlink("x", "y"),
    ]))]);
    accepted(&[bare(tar(&[pax(b'g', &[("comment", b"0123")]), a.clone()]))]); // d13d
    let attributes: [(&str, &[u8]); 3] = [
        ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0 \0\0"),
        ("SCHILY.xattr.user.Trusted.x", b"y"),
        ("mtime", b"1700000000.5"),
    ];
    accepted(&[bare(tar(&[pax(b'x', &attributes), a.clone()]))]);
    // Some clients remove the file of a lower layer that has the name of a global header.
    let lower = bare(tar(&[file("pax_global_header", "x")]));
    let upper = bare(tar(&[pax(b'g', &[("comment", b"0123")]), a]));
    refused_since_readers_differ(&[lower, upper], Rule::Header);
}

fn tool() -> Raw {
    file("bin/tool", "x")
}

fn with_size(size: &[u8]) -> Raw {
    Raw {
        size: size.to_vec(),
        ..tool()
    }
}

fn with_mode(mode: u64) -> Raw {
    Raw { mode, ..tool() }
}

fn with_magic(magic: [u8; 8], prefix: &[u8], trailer: [u8; 4]) -> Raw {
    Raw {
        magic,
        prefix: prefix.to_vec(),
        trailer,
        ..tool()
    }
}

fn with_sum(sum: Sum) -> Raw {
    Raw {
        sum,
        ..file("caf\u{e9}", "x")
    }
}

fn with_time(mtime: &[u8]) -> Raw {
    Raw {
        mtime: mtime.to_vec(),
        ..tool()
    }
}

#[test]
fn headers_that_go_and_others_read_in_two_ways_are_refused() {
    let with_content = Raw {
        content: vec![b'x'; 512],
        size: octal(512, 12),
        ..symlink("a", "b")
    };
    let folder_with_size = Raw {
        size: octal(1, 12),
        ..folder("d")
    };
    for case in [
        with_sum(Sum::Wrong),
        with_magic(*b"ustar\x0000", b"p", *b"tar\0"),
        with_magic(*b"ustar   ", b"", [0; 4]),
        with_magic(*b"unknown!", b"", [0; 4]),
        with_magic(GNU, b"not a time", [0; 4]),
        with_size(&base256(-1, 12)),
        with_size(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        with_size(b"\x00000000000001"),
        with_size(b"1\x000000000 "),
        with_size(b"0000000009\0"),
        with_size(b"+00000000001"),
        with_size(b"\t0000000001\0"),
        with_time(b"x"),
        // Trivy believes the type in the mode, and looks for no packages in it.
        with_mode(0o040_755),
        with_mode(0o120_777),
        with_mode(0o1_000_755),
        folder_with_size,
        with_content,
    ] {
        let layer = bare(tar(std::slice::from_ref(&case)));
        assert_eq!(broken_rule(&[layer]), Some(Rule::Header), "{case:?}");
    }
    let largest = bare(tar(&[with_size(&base256(i64::MAX, 12))]));
    assert!(matches!(read(&largest), Err(Error::Limit { .. })));
}

#[test]
fn headers_that_old_and_new_programs_write_are_read() {
    for good in [
        with_sum(Sum::Signed),
        with_magic(GNU, b"", [0; 4]),
        with_magic(V7, b"", [0; 4]),
        with_magic(USTAR, b"usr/local", [0; 4]),
        with_size(&base256(1, 12)),
        with_size(b"          1 "),
        with_size(b"1"),
        with_time(&base256(-5, 12)),
        with_mode(0o104_755),
    ] {
        accepted(&[bare(tar(&[good]))]);
    }
}
