//! Scan reports and SBOMs: compressed, stored under their digest.

use std::io::{self, Read as _, Write as _};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sluice_registry::digest_of;

use crate::State;
use crate::error::Error;

/// The largest report after decompression, in bytes.
const MAX_REPORT: u64 = 256 << 20;

impl State {
    /// Stores a report and returns its key.
    pub async fn store_report(&self, report: &[u8]) -> Result<String, Error> {
        let key = digest_of(report).to_string();
        let damaged = |source| Error::Report {
            key: key.clone(),
            source,
        };
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(report).map_err(damaged)?;
        let packed = encoder.finish().map_err(damaged)?;
        self.reports.put(&key, packed.into()).await?;
        Ok(key)
    }

    /// Reads a report by its key.
    pub async fn report(&self, key: &str) -> Result<Vec<u8>, Error> {
        let packed = self.reports.get(key).await?;
        let damaged = |source| Error::Report {
            key: key.to_owned(),
            source,
        };
        let mut report = Vec::new();
        GzDecoder::new(packed.as_slice())
            .take(MAX_REPORT)
            .read_to_end(&mut report)
            .map_err(damaged)?;
        // A truncated report has another digest.
        if digest_of(&report).as_str() != key {
            return Err(damaged(io::Error::other("its digest is another one")));
        }
        Ok(report)
    }
}
