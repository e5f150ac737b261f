//! How much of one image is read at most, all its layers together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sluice_layer::{ImageContents, Limits};

use crate::error::Error;
use crate::image::disk_quota::{DiskReservation, QuotaExceeded};

/// How much of one image is read at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageLimits {
    /// The limits of each layer.
    pub(crate) layer: Limits,
    /// The bytes of all tars.
    pub(crate) unpacked_bytes: u64,
    /// The entries of all tars.
    pub(crate) entries: u64,
}

impl ImageLimits {
    /// Checks an image as a whole.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for one that is over a limit.
    pub(crate) fn check(&self, contents: &ImageContents) -> Result<(), Error> {
        let ImageContents {
            uncompressed_bytes,
            entries,
            ..
        } = contents;
        if *uncompressed_bytes > self.unpacked_bytes {
            let bytes = self.unpacked_bytes;
            return Err(over_limit(&QuotaExceeded::Image { bytes }.to_string()));
        }
        if *entries > self.entries {
            return Err(over_limit(&format!(
                "the image has {entries} entries, and at most {} are read; see `layers.entries_per_image`",
                self.entries
            )));
        }
        Ok(())
    }
}

/// Returns the error of an image that is too large to be scanned.
pub(crate) fn over_limit(reason: &str) -> Error {
    Error::Unsupported(format!("not scanned: limit: {reason}"))
}

/// What the layers of one image may use together. The disk space is free again when the last thread has ended.
#[derive(Debug)]
pub(crate) struct ImageBudget {
    disk: DiskReservation,
    unpacked: AtomicU64,
    limit: u64,
}

impl ImageBudget {
    /// Lets an image use reserved disk space, and unpack to at most so many bytes.
    pub(crate) fn new(disk: DiskReservation, limit: u64) -> Arc<Self> {
        Arc::new(Self {
            disk,
            unpacked: AtomicU64::new(0),
            limit,
        })
    }

    /// Counts unpacked bytes of any layer of the image.
    pub(crate) fn add_unpacked(&self, bytes: u64) -> Result<(), QuotaExceeded> {
        let before = self.unpacked.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.limit {
            return Err(QuotaExceeded::Image { bytes: self.limit });
        }
        Ok(())
    }

    /// Counts bytes that are about to be written to the disk.
    pub(crate) fn add_written(&self, bytes: u64) -> Result<(), QuotaExceeded> {
        self.disk.add(bytes)
    }
}
