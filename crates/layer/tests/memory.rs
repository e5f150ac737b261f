//! A process of its own, whose memory is measured: it does not grow with the layer.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};

use sha2::{Digest as _, Sha256};
use sluice_layer::{LayerDescriptor, LayerType, Limits, read_layer};

/// The largest memory of this process so far, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

const FILE_BYTES: usize = 256 << 20;

/// The header of a file of so many zeros.
fn header() -> Vec<u8> {
    let mut block = vec![0_u8; 512];
    block[..5].copy_from_slice(b"zeros");
    for (offset, text) in [(100, "0000644"), (124, "02000000000"), (148, "        ")] {
        block[offset..offset + text.len()].copy_from_slice(text.as_bytes());
    }
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

fn member(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[test]
fn memory_does_not_grow_with_the_layer() {
    // A member for each MiB, so that the test does not compress for long.
    let (header, zeros) = (header(), vec![0; 1 << 20]);
    let mut hasher = Sha256::new_with_prefix(&header);
    let mut blob = member(&header);
    let part = member(&zeros);
    for _ in 0..FILE_BYTES / zeros.len() {
        hasher.update(&zeros);
        blob.extend_from_slice(&part);
    }
    let descriptor = LayerDescriptor {
        layer_type: LayerType::OciTarGzip,
        digest: digest(&blob).parse().unwrap(),
        size_bytes: blob.len() as u64,
        diff_id: format!("sha256:{}", hex::encode(hasher.finalize()))
            .parse()
            .unwrap(),
        annotations: BTreeMap::new(),
    };
    let before = peak_kib();
    let summary = read_layer(&blob[..], &descriptor, &Limits::default(), io::sink()).unwrap();
    assert_eq!(summary.largest_file_bytes, FILE_BYTES as u64);
    let grown = peak_kib() - before;
    assert!(grown < 8 * 1024, "{grown} KiB for 256 MiB of tar");
}
