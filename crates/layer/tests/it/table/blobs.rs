//! Compression, framing and digests: rules 6 and 8 to 12.

use sluice_layer::{Error, LayerDescriptor, Limits, Note, Rule, read_layer};

use super::{STATUS, accepted, content, package, refused_since_readers_differ, status};
use crate::build::*;
use crate::clients::Client;
use crate::strict::*;

#[test]
fn c01_to_c03_framing_that_clients_sniff_in_two_ways_is_refused() {
    let (a, b) = (package("alpha"), package("bravo"));
    let plain = accepted(&[layer(GZIP, gzip(&a), &a)]);
    assert!(
        content(&plain, STATUS)
            .unwrap()
            .starts_with(b"Package: alpha")
    );

    // c02: a tar whose first name is the head of a skippable frame that ends before a zstd frame.
    let frame = zstd(&b);
    let mut hidden = vec![0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
    hidden.extend_from_slice(b"x");
    let length = u32::try_from(package("alpha").len() + 1024 - 8).unwrap();
    hidden[4..8].copy_from_slice(&length.to_le_bytes());
    let mut polyglot = open_tar(&[file(&hidden, "x")]);
    polyglot.extend_from_slice(&a);
    polyglot.resize(length as usize + 8, 0);
    polyglot.extend_from_slice(&frame);
    for media_type in [ZSTD, GZIP, DOCKER_TAR] {
        let c02 = layer(media_type, polyglot.clone(), &b);
        refused_since_readers_differ(std::slice::from_ref(&c02), Rule::Compression);
        let unpacked = Client::ContainerdOverlay
            .unpack(std::slice::from_ref(&c02))
            .unwrap();
        assert!(
            content(&unpacked, STATUS)
                .unwrap()
                .starts_with(b"Package: bravo")
        );
    }
    assert_eq!(broken_rule(&[bare(polyglot)]), Some(Rule::Compression));
    let c02b = [skippable(b"hello"), frame].concat();
    refused_since_readers_differ(&[layer(ZSTD, c02b, &b)], Rule::Compression);

    // c03: a tar inside the extra field of a gzip member.
    let c03 = gzip_extra(&b, &a[..a.len() - 1024]);
    refused_since_readers_differ(&[bare(c03.clone())], Rule::Compression);
    accepted(&[layer(GZIP, c03, &b)]);
}

#[test]
fn q01_a_tar_that_would_be_decompressed_once_more_is_refused() {
    for magic in [
        &b"\x1f\x8b"[..],
        b"\x1f\x8b\x08",
        b"\x28\xb5\x2f\xfd",
        b"\x5f\x2a\x4d\x18",
        b"BZh",
        b"\xfd7zXZ",
    ] {
        let name = [magic, b"name"].concat();
        let tar = tar(&[file(&name, "x")]);
        let expected = if magic == b"\xfd7zXZ" {
            None // Its sixth byte is a NUL, which no name has.
        } else {
            Some(Rule::NestedCompression)
        };
        assert_eq!(broken_rule(&[layer(GZIP, gzip(&tar), &tar)]), expected);
        assert_eq!(broken_rule(&[layer(ZSTD, zstd(&tar), &tar)]), expected);
    }
    let name = tar(&[file(b"\xfd7zXZ\0", "x")]);
    assert_eq!(
        broken_rule(&[layer(GZIP, gzip(&name), &name)]),
        Some(Rule::NestedCompression)
    );
    let twice = gzip(&package("alpha"));
    assert_eq!(
        broken_rule(&[layer(GZIP, gzip(&twice), &twice)]),
        Some(Rule::NestedCompression)
    );
}

#[test]
fn c04_to_c07_a_tar_with_another_digest_than_the_diff_id_is_refused() {
    let (a, b) = (package("alpha"), package("bravo"));
    let c04 = layer(GZIP, gzip(&b), &a);
    refused_since_readers_differ(std::slice::from_ref(&c04), Rule::DiffId);
    let honest = layer(GZIP, gzip(&a), &a);
    // c06, diff ids [A, A] over blobs A and B; c07d, the same layer twice.
    refused_since_readers_differ(&[honest.clone(), c04], Rule::DiffId);
    accepted(&[honest.clone(), honest]);
}

#[test]
fn c08_to_c10_what_is_no_whole_member_of_gzip_is_refused() {
    let a = package("alpha");
    let whole = gzip(&a);
    for junk in [&b"\0"[..], b"\x1f", b"\x1f\x8b", b"junk", &[0; 600]] {
        let c08 = [&whole[..], junk].concat();
        refused_since_readers_differ(&[layer(GZIP, c08, &a)], Rule::Framing);
    }
    let halves = [gzip(&a[..700]), gzip(&a[700..])].concat();
    accepted(&[layer(GZIP, halves, &a)]); // c09
    accepted(&[layer(GZIP, [whole.clone(), gzip(b"")].concat(), &a)]);
    for cut in 1..9 {
        let c10 = whole[..whole.len() - cut].to_vec();
        assert_eq!(broken_rule(&[layer(GZIP, c10, &a)]), Some(Rule::Framing));
    }
    for flipped in 1..9 {
        let mut c10 = whole.clone();
        let at = c10.len() - flipped;
        c10[at] ^= 1;
        assert_eq!(broken_rule(&[layer(GZIP, c10, &a)]), Some(Rule::Framing));
    }
}

#[test]
fn c11_what_follows_the_end_of_a_tar_is_refused() {
    let (a, b) = (package("alpha"), package("bravo"));
    let c11 = [a.clone(), b].concat();
    assert_eq!(
        broken_rule(&[layer(GZIP, gzip(&c11), &c11)]),
        Some(Rule::End)
    );
    let entry = file("etc/x", "x");
    let single = [
        open_tar(&[status("alpha")]),
        vec![0; 512],
        tar(std::slice::from_ref(&entry)),
    ]
    .concat();
    assert_eq!(broken_rule(&[bare(single)]), Some(Rule::End)); // c11b
    let mut last = a;
    *last.last_mut().unwrap() = 1;
    assert_eq!(broken_rule(&[bare(last)]), Some(Rule::End));
    let open = open_tar(std::slice::from_ref(&entry));
    accepted(&[bare(open.clone())]); // c11c
    accepted(&[bare([open.clone(), vec![0; 512]].concat())]);
    accepted(&[bare([open.clone(), vec![0; 10 * 1024]].concat())]);
    accepted(&[bare([open.clone(), vec![0; 1024 + 7]].concat())]);
    for cut in [1, 511, 512, 513, 700] {
        let cut = open[..open.len() - cut].to_vec();
        assert_eq!(
            broken_rule(&[bare(cut.clone())]),
            Some(Rule::End),
            "{}",
            cut.len()
        );
    }
    assert_eq!(
        broken_rule(&[bare([open, vec![0; 600]].concat())]),
        Some(Rule::End)
    );
}

#[test]
fn c12_what_is_no_whole_frame_of_zstd_is_refused() {
    let a = package("alpha");
    let frames = [
        zstd(&a[..700]),
        skippable(b"in the middle"),
        zstd(&a[700..]),
        skippable(b""),
    ];
    accepted(&[layer(ZSTD, frames.concat(), &a)]); // c12y
    let whole = zstd(&a);
    for junk in [
        &b"\0"[..],
        b"\x28",
        b"\x28\xb5\x2f\xfd",
        b"junk and more",
        b"\x50\x2a\x4d\x18\x05\0\0\0x",
        &gzip(&a),
    ] {
        let c12x = [&whole[..], junk].concat();
        refused_since_readers_differ(&[layer(ZSTD, c12x, &a)], Rule::Framing);
    }
    for cut in 1..whole.len().min(40) {
        let cut = whole[..whole.len() - cut].to_vec();
        if cut.len() > 4 {
            assert_eq!(broken_rule(&[layer(ZSTD, cut, &a)]), Some(Rule::Framing));
        }
    }
    let mut damaged = whole;
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(
        broken_rule(&[layer(ZSTD, damaged, &a)]),
        Some(Rule::Framing)
    );
    // The frames of zstd before 0.8, which some decoders still know.
    let old = [&[0x27, 0xb5, 0x2f, 0xfd][..], &[0; 600]].concat();
    assert!(broken_rule(&[layer(ZSTD, old, &a)]).is_some());
}

#[test]
fn c12_a_window_of_zstd_beyond_the_limit_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    std::io::Write::write_all(&mut encoder, &package("alpha")).unwrap();
    let blob = encoder.finish().unwrap();
    let window = layer(ZSTD, blob, &package("alpha"));
    assert_eq!(broken_rule(&[window]), Some(Rule::Framing));
}

#[test]
fn c13_another_compression_than_the_type_says_is_noted_where_clients_agree() {
    let a = package("alpha");
    for (media_type, blob) in [
        (GZIP, a.clone()),
        (GZIP, zstd(&a)),
        (ZSTD, gzip(&a)),
        (DOCKER_TAR, gzip(&a)),
        (DOCKER_GZIP, a.clone()),
    ] {
        let layer = layer(media_type, blob, &a);
        accepted(std::slice::from_ref(&layer));
        let (summary, _) = read(&layer).unwrap();
        assert!(matches!(summary.notes[..], [Note::OtherCompression { .. }]));
    }
    for head in [&b"BZh91AY"[..], b"\xfd7zXZ\0\0\x04"] {
        let packed = [head, &[0; 1200]].concat();
        for media_type in [GZIP, ZSTD, DOCKER_TAR, DOCKER_GZIP, TAR] {
            let c13b = layer(media_type, packed.clone(), &a);
            assert_eq!(broken_rule(&[c13b]), Some(Rule::Compression));
        }
    }
    refused_since_readers_differ(&[layer(TAR, gzip(&a), &a)], Rule::Compression); // c13g
}

fn read_as(blob: &[u8], descriptor: &LayerDescriptor) -> Result<(), Error> {
    read_layer(blob, descriptor, &Limits::default(), std::io::sink()).map(drop)
}

#[test]
fn c13e_j09_v01_a_blob_that_is_not_the_one_of_its_descriptor_is_refused() {
    let a = package("alpha");
    let good = layer(GZIP, gzip(&a), &a);
    let rule = |outcome: Result<(), Error>| match outcome {
        Err(Error::Refused(refused)) => refused.rule,
        other => panic!("{other:?}"),
    };
    let empty = LayerDescriptor {
        size_bytes: 0,
        ..descriptor(&good)
    };
    assert_eq!(rule(read_as(b"", &empty)), Rule::Size); // c13e
    for size_bytes in [good.blob.len() as u64 + 5, good.blob.len() as u64 - 5] {
        let j09 = LayerDescriptor {
            size_bytes,
            ..descriptor(&good)
        };
        assert_eq!(rule(read_as(&good.blob, &j09)), Rule::Size);
    }
    // v01: other bytes, which say nothing about the layer, whatever is wrong with them.
    let other = package("bravo");
    for bytes in [
        gzip(&other),
        b"not even gzip".to_vec(),
        good.blob[..20].to_vec(),
    ] {
        let mut v01 = descriptor(&good);
        v01.size_bytes = bytes.len() as u64;
        assert!(matches!(
            read_as(&bytes, &v01),
            Err(Error::WrongBytes { .. })
        ));
    }
}
