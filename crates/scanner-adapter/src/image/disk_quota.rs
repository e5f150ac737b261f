//! The quota of disk space for unpacked layers, which all scans share.
//!
//! A scan waits until it may write what its layers probably unpack to. One that turns out to need more starts again
//! with the whole quota, so that two scans never wait for each other, and one that needs more than that is over the
//! limit.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Space is reserved in these units.
const UNIT: u64 = 1 << 20;
/// By how much a reservation grows at a time, where that is free.
const STEP: u64 = 64 << 20;

/// The disk space of all scans.
#[derive(Debug)]
pub(crate) struct DiskQuota {
    units: Arc<Semaphore>,
    total: u32,
    folder: PathBuf,
    /// How many bytes stay free on the disk for others.
    min_free_bytes: u64,
}

/// The disk space of one scan; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct DiskReservation {
    quota: Arc<DiskQuota>,
    permit: Mutex<OwnedSemaphorePermit>,
    written: AtomicU64,
}

/// Why nothing more may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QuotaExceeded {
    /// The reservation is used up, and other scans have the rest.
    Reservation,
    /// The whole quota is used up.
    Quota {
        /// The quota.
        bytes: u64,
    },
    /// The layers of one image unpack to more than they may.
    Image {
        /// The limit of an image.
        bytes: u64,
    },
    /// The disk has no more than the bytes that stay free for others.
    Disk,
}

impl fmt::Display for QuotaExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reservation => f.write_str("it unpacks to more than was expected"),
            Self::Quota { bytes } => write!(
                f,
                "the image unpacks to more than the {bytes} bytes that all scans may use; see `layers.work_megabytes`"
            ),
            Self::Image { bytes } => write!(
                f,
                "the image unpacks to more than {bytes} bytes; see `layers.unpacked_megabytes_per_image`"
            ),
            Self::Disk => {
                f.write_str("only the space that stays free is left; see `layers.free_megabytes`")
            }
        }
    }
}

impl std::error::Error for QuotaExceeded {}

impl DiskQuota {
    /// Makes a quota for a folder, on whose disk so many bytes stay free.
    pub(crate) fn new(folder: PathBuf, bytes: u64, min_free_bytes: u64) -> Arc<Self> {
        let total = units_of(bytes).max(1);
        let permits = usize::try_from(total).unwrap_or(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            units: Arc::new(Semaphore::new(permits)),
            total,
            folder,
            min_free_bytes,
        })
    }

    /// Returns the whole quota.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.total) * UNIT
    }

    /// Waits until so many bytes, or the whole quota if that is less, can be reserved. Scans get them in their order.
    pub(crate) async fn reserve(self: &Arc<Self>, bytes: u64) -> Option<DiskReservation> {
        let units = units_of(bytes).clamp(1, self.total);
        let permit = self.units.clone().acquire_many_owned(units).await.ok()?;
        Some(DiskReservation {
            quota: self.clone(),
            permit: Mutex::new(permit),
            written: AtomicU64::new(0),
        })
    }

    /// Returns how many bytes of the disk may still be written.
    fn available_bytes(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.folder)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(free.saturating_sub(self.min_free_bytes))
    }
}

impl DiskReservation {
    /// Counts bytes that are about to be written, and reserves more where that is needed.
    pub(crate) fn add(&self, bytes: u64) -> Result<(), QuotaExceeded> {
        let before = self.written.fetch_add(bytes, Ordering::Relaxed);
        let after = before.saturating_add(bytes);
        if before / UNIT != after / UNIT || before == 0 {
            // Where the system does not say, the write itself fails.
            let available = self.quota.available_bytes().unwrap_or(u64::MAX);
            if available < bytes.max(UNIT) {
                return Err(QuotaExceeded::Disk);
            }
        }
        let mut permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let held = u64::try_from(permit.num_permits()).unwrap_or(u64::MAX);
            if after <= held.saturating_mul(UNIT) {
                return Ok(());
            }
            let bytes = self.quota.bytes();
            if held >= u64::from(self.quota.total) {
                return Err(QuotaExceeded::Quota { bytes });
            }
            let rest = u64::from(self.quota.total).saturating_sub(held);
            let more = u32::try_from(rest.min(STEP / UNIT)).unwrap_or(u32::MAX);
            match self.quota.units.clone().try_acquire_many_owned(more) {
                Ok(more) => permit.merge(more),
                Err(_) => return Err(QuotaExceeded::Reservation),
            }
        }
    }
}

fn units_of(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(mebibytes: u64) -> Arc<DiskQuota> {
        DiskQuota::new(std::env::temp_dir(), mebibytes * UNIT, 0)
    }

    #[tokio::test]
    async fn a_reservation_grows_where_space_is_free() {
        let quota = quota(100);
        let reservation = quota.reserve(UNIT).await.unwrap();
        reservation.add(3 * UNIT).unwrap();
        reservation.add(90 * UNIT).unwrap();
        let full = QuotaExceeded::Quota { bytes: 100 * UNIT };
        assert_eq!(reservation.add(8 * UNIT), Err(full));
        drop(reservation);
        assert_eq!(quota.units.available_permits(), 100);
    }

    #[tokio::test]
    async fn two_scans_that_need_more_than_the_quota_never_wait_for_each_other() {
        let quota = quota(10);
        let (one, two) = (quota.reserve(5 * UNIT).await, quota.reserve(5 * UNIT).await);
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one.add(6 * UNIT), Err(QuotaExceeded::Reservation));
        assert_eq!(two.add(6 * UNIT), Err(QuotaExceeded::Reservation));
        // Each releases its reservation before it reserves the whole quota.
        drop(one);
        drop(two);
        let all = quota.reserve(u64::MAX).await.unwrap();
        all.add(10 * UNIT).unwrap();
        assert_eq!(all.add(1), Err(QuotaExceeded::Quota { bytes: 10 * UNIT }));
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "the runtime ends with the test")]
    async fn scans_get_space_in_the_order_of_their_requests() {
        let quota = quota(10);
        let held = quota.reserve(8 * UNIT).await.unwrap();
        let large = tokio::spawn({
            let quota = quota.clone();
            async move { quota.reserve(10 * UNIT).await }
        });
        while quota.units.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        // A small one does not overtake it for ever.
        let small = quota.reserve(UNIT);
        assert!(
            tokio::time::timeout(std::time::Duration::ZERO, small)
                .await
                .is_err()
        );
        drop(held);
        assert!(large.await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_disk_keeps_the_space_that_stays_free() {
        let quota = DiskQuota::new(std::env::temp_dir(), u64::MAX, u64::MAX);
        let reservation = quota.reserve(UNIT).await.unwrap();
        assert_eq!(reservation.add(1), Err(QuotaExceeded::Disk));
    }
}
