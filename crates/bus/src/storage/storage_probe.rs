//! Probes that store an entry to find out whether the server stores anything.

use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::connection::Bus;
use crate::connection::storage_health::{ADVICE, NOT_STORING};
use crate::error::Error;

/// The bucket of the probes; its entries expire.
const BUCKET: &str = "tombstones";
/// More than a memory page, so that it does not fit into what is left of the last one.
const PROBE: Bytes = Bytes::from_static(&[0; 6 << 10]);
const PROBE_LIMIT: Duration = Duration::from_secs(3);
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

impl Bus {
    /// Stores a probe, and returns the problem with its remedy where the server does not store it.
    ///
    /// One stream is probed. A stream that failed while the disk was full fails until the server is restarted.
    ///
    /// # Errors
    /// A bucket that is not provisioned.
    pub async fn storage_problem(&self) -> Result<Option<String>, Error> {
        let bucket = self.bucket(BUCKET).await?;
        let key = self.probe_key();
        let stored = tokio::time::timeout(PROBE_LIMIT, bucket.put(&key, PROBE)).await;
        Ok(match stored {
            Ok(Ok(_)) => None,
            Ok(Err(_)) | Err(_) => Some(format!("{NOT_STORING}; {ADVICE}")),
        })
    }

    /// Stores a probe every 30 s until `stopping` is cancelled.
    ///
    /// Where nothing is stored no schedule fires either, so without a probe an idle service would not notice. Only for
    /// services that may write the bucket.
    ///
    /// # Errors
    /// A bucket that is not provisioned.
    pub async fn probe_storage(&self, stopping: CancellationToken) -> Result<(), Error> {
        let bucket = self.bucket(BUCKET).await?;
        loop {
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                () = tokio::time::sleep(PROBE_INTERVAL) => {}
            }
            if let Err(error) = bucket.put(&self.probe_key(), PROBE).await {
                tracing::warn!(%error, "a storage probe failed");
            }
        }
    }

    fn probe_key(&self) -> String {
        format!("probe.{}", self.service)
    }
}
