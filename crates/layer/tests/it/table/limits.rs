//! Limits, failures that are not the layer's, and annotations.

use std::collections::BTreeMap;

use sluice_layer::{
    Error, LayerDescriptor, LayerType, Limits, Note, alternative_file_lists, read_layer,
};

use super::package;
use crate::build::*;
use crate::strict::*;

#[test]
fn every_limit_ends_the_reading() {
    let small = Limits {
        compressed_bytes: 4096,
        uncompressed_bytes: 20_000,
        entries: 8,
        file_bytes: 4096,
        path_bytes: 100,
        path_depth: 5,
        pax_bytes: 1024,
        ratio: 20,
        ratio_after_bytes: 8192,
        zstd_window_log: 27,
    };
    let noise: Vec<u8> = (0..5000_u32).map(|n| (n * n % 251) as u8).collect();
    let many: Vec<Raw> = (0..9).map(|n| folder(format!("d{n}"))).collect();
    let cases = [
        (tar(&[file("a", &noise)]), "file"),
        (tar(&many), "entries"),
        (tar(&[file("a/b/c/d/e/f", "")]), "depth"),
        (
            tar(&[pax(b'x', &[("path", &[b'a'; 101])]), file("a", "")]),
            "length",
        ),
        (
            tar(&[pax(b'x', &[("comment", &[b'a'; 1100])]), file("a", "")]),
            "extended",
        ),
        (
            tar(&[
                file("a/b", ""),
                file("c/d", ""),
                file("e/f", ""),
                file("g/h", ""),
                file("i", ""),
            ]),
            "names",
        ),
        (vec![0; 15_000], "ratio"),
        ([tar(&[]), vec![0; 15_000]].concat(), "ratio"),
    ];
    for (tar, expected) in cases {
        let layer = layer(GZIP, gzip(&tar), &tar);
        let outcome = read_layer(
            &layer.blob[..],
            &descriptor(&layer),
            &small,
            std::io::sink(),
        );
        let Err(Error::Limit { limit, .. }) = outcome else {
            panic!("{expected}: {outcome:?}");
        };
        assert!(limit.contains(expected), "{limit} for {expected}");
    }
    let large = bare(vec![0; 5120]);
    let outcome = read_layer(
        &large.blob[..],
        &descriptor(&large),
        &small,
        std::io::sink(),
    );
    assert!(matches!(outcome, Err(Error::Limit { limit, .. }) if limit.contains("blob")));
    let no_ratio = Limits {
        ratio: 1 << 40,
        ..small
    };
    let zeros = vec![0; 30_000];
    let bomb = layer(GZIP, gzip(&zeros), &zeros);
    let outcome = read_layer(
        &bomb.blob[..],
        &descriptor(&bomb),
        &no_ratio,
        std::io::sink(),
    );
    assert!(matches!(outcome, Err(Error::Limit { limit, .. }) if limit.contains("unpacked")));
}

#[test]
fn failures_of_the_source_and_of_the_output_say_nothing_about_the_layer() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("cancelled"))
        }
    }
    impl std::io::Write for Broken {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("no space"))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let a = package("alpha");
    for layer in [
        layer(GZIP, gzip(&a), &a),
        layer(ZSTD, zstd(&a), &a),
        bare(a.clone()),
    ] {
        let descriptor = descriptor(&layer);
        for cut in [0, 3, 20, layer.blob.len() - 1, layer.blob.len()] {
            let source = std::io::Read::chain(&layer.blob[..cut], Broken);
            let outcome = read_layer(source, &descriptor, &Limits::default(), std::io::sink());
            assert!(
                matches!(outcome, Err(Error::Source(_))),
                "{cut}: {outcome:?}"
            );
        }
        let outcome = read_layer(&layer.blob[..], &descriptor, &Limits::default(), Broken);
        assert!(matches!(outcome, Err(Error::Output(_))), "{outcome:?}");
    }
}

#[test]
fn annotations_that_lead_to_a_second_list_of_files_are_told() {
    let a = package("alpha");
    let layer = layer(GZIP, gzip(&a), &a);
    let annotations = [
        "containerd.io/snapshot/stargz/toc.digest",
        "io.github.containers.zstd-chunked.manifest-position",
        "io.containers.zstd-chunked.manifest-checksum",
        "org.opencontainers.image.title",
    ];
    let descriptor = LayerDescriptor {
        layer_type: LayerType::OciTarGzip,
        annotations: annotations
            .map(|key| (key.to_owned(), String::new()))
            .into(),
        ..descriptor(&layer)
    };
    let summary = read_layer(
        &layer.blob[..],
        &descriptor,
        &Limits::default(),
        std::io::sink(),
    )
    .unwrap();
    let second = |note: &&Note| matches!(note, Note::SecondView { .. });
    assert_eq!(summary.notes.iter().filter(second).count(), 3);
    assert_eq!(alternative_file_lists(&BTreeMap::new()), []);
}
