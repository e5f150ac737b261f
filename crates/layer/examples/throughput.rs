//! Measures the reader on a blob: `cargo run --profile profiling -p sluice-layer --example throughput -- FILE`.
//!
//! Compare with `time (gzip -dc FILE | sha256sum)`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write as _};

use sha2::{Digest as _, Sha256};
use sluice_layer::{LayerDescriptor, LayerType, Limits, read_layer};

fn hash(mut source: impl Read) -> io::Result<(String, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    let mut total = 0;
    loop {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            return Ok((format!("sha256:{}", hex::encode(hasher.finalize())), total));
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
        total += count as u64;
    }
}

#[expect(clippy::disallowed_methods, reason = "real time is what is measured")]
fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(1)
        .ok_or("name a blob compressed with gzip")?;
    let (digest, size_bytes) = hash(File::open(&path)?)?;
    let (diff_id, tar_bytes) = hash(flate2::read::MultiGzDecoder::new(File::open(&path)?))?;
    let descriptor = LayerDescriptor {
        layer_type: LayerType::OciTarGzip,
        digest: digest.parse()?,
        size_bytes,
        diff_id: diff_id.parse()?,
        annotations: BTreeMap::new(),
    };
    let begin = std::time::Instant::now();
    let summary = read_layer(
        File::open(&path)?,
        &descriptor,
        &Limits::default(),
        io::sink(),
    )?;
    let seconds = begin.elapsed().as_secs_f64();
    writeln!(
        io::stdout(),
        "{} entries, {:.0} MiB of tar in {seconds:.2} s: {:.0} MiB/s",
        summary.entries,
        tar_bytes as f64 / 1_048_576.0,
        tar_bytes as f64 / 1_048_576.0 / seconds,
    )?;
    Ok(())
}
