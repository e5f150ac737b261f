//! The size limits of streams.

use anyhow::Context as _;
use clap::Args;
use sluice_bus::StreamLimits;

/// The options for the size limits of streams.
#[derive(Debug, Args)]
pub(crate) struct LimitArguments {
    /// Maximum size of a stream, bucket or object store, as in `EVENTS=8GiB` or `KV_tags=2GiB`; may be repeated. Others
    /// keep their limits.
    #[arg(
        long = "max-bytes",
        env = "SLUICE_MAX_BYTES",
        value_name = "STREAM=SIZE",
        value_delimiter = ','
    )]
    max_bytes: Vec<String>,
}

impl LimitArguments {
    /// Parses the limits.
    pub(crate) fn parse(&self) -> anyhow::Result<StreamLimits> {
        let mut limits = StreamLimits::default();
        for limit in &self.max_bytes {
            limits.set(limit).context("--max-bytes")?;
        }
        Ok(limits)
    }
}
