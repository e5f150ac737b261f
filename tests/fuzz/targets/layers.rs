//! Layers: a bare tar, or an image that is generated from the bytes, read by the strict reader and by
//! readers that work as clients do.
#![no_main]
#![allow(dead_code, reason = "the modules are those of the tests of `layer`, which use more of them")]

#[path = "../../../crates/layer/tests/it/build.rs"]
mod build;
#[path = "../../../crates/layer/tests/it/clients.rs"]
mod clients;
#[path = "../../../crates/layer/tests/it/generate.rs"]
mod generate;
#[path = "../../../crates/layer/tests/it/go_tar.rs"]
mod go_tar;
#[path = "../../../crates/layer/tests/it/strict.rs"]
mod strict;
#[path = "../../../crates/layer/tests/it/verdicts.rs"]
mod verdicts;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((mode, bytes)) = data.split_first() else {
        return;
    };
    if mode % 2 == 0 {
        verdicts::check(&generate::image(bytes));
    } else if !bytes.is_empty() {
        verdicts::check(&[strict::bare(with_checksums(bytes))]);
    }
});

/// Mends the checksum of every block, which no fuzzer would guess.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut tar = bytes.to_vec();
    for block in tar.chunks_exact_mut(512).filter(|block| block[257] == b'u') {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    tar
}
