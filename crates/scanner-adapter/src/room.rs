//! Room on the disk for unpacked layers, shared by all scans.
//!
//! A scan waits until it may write what its layers probably unpack to. One that turns out to need more begins anew
//! with all the room there is, so that two scans never wait for each other, and one that needs more than that is over
//! the limit.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room is given out in these units.
const UNIT: u64 = 1 << 20;
/// How much more is taken at a time, where it is free.
const STEP: u64 = 64 << 20;

/// The room of all scans.
#[derive(Debug)]
pub(crate) struct Quota {
    units: Arc<Semaphore>,
    total: u32,
    folder: PathBuf,
    /// What is left free on the disk for others.
    kept_free: u64,
}

/// The room of one scan; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    quota: Arc<Quota>,
    permit: Mutex<OwnedSemaphorePermit>,
    written: AtomicU64,
}

/// Why nothing more may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The room that was asked for is used up, and others have the rest.
    Reserved,
    /// All the room there is is used up.
    Quota {
        /// How much that is.
        bytes: u64,
    },
    /// The layers of one image unpack to more than they may.
    Image {
        /// How much that is.
        bytes: u64,
    },
    /// The disk has no more room to spare.
    Disk,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved => f.write_str("it unpacks to more than was expected"),
            Self::Quota { bytes } => write!(
                f,
                "the image unpacks to more than the {bytes} bytes that all scans may use; see `layers.work_megabytes`"
            ),
            Self::Image { bytes } => write!(
                f,
                "the image unpacks to more than {bytes} bytes; see `layers.unpacked_megabytes_per_image`"
            ),
            Self::Disk => {
                f.write_str("no room is left but what is kept free; see `layers.free_megabytes`")
            }
        }
    }
}

impl std::error::Error for Full {}

impl Quota {
    /// Shares out so many bytes in a folder, and keeps so many free on its disk.
    pub(crate) fn new(folder: PathBuf, bytes: u64, kept_free: u64) -> Arc<Self> {
        let total = units_of(bytes).max(1);
        let permits = usize::try_from(total).unwrap_or(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            units: Arc::new(Semaphore::new(permits)),
            total,
            folder,
            kept_free,
        })
    }

    /// Returns all that there is.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.total) * UNIT
    }

    /// Waits for room, in the order of those who ask; at most for all that there is.
    pub(crate) async fn room(self: &Arc<Self>, bytes: u64) -> Option<Room> {
        let units = units_of(bytes).clamp(1, self.total);
        let permit = self.units.clone().acquire_many_owned(units).await.ok()?;
        Some(Room {
            quota: self.clone(),
            permit: Mutex::new(permit),
            written: AtomicU64::new(0),
        })
    }

    /// Returns what the disk can spare.
    fn spare(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.folder)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(free.saturating_sub(self.kept_free))
    }
}

impl Room {
    /// Takes room for bytes that are about to be written.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), Full> {
        let before = self.written.fetch_add(bytes, Ordering::Relaxed);
        let after = before.saturating_add(bytes);
        if before / UNIT != after / UNIT || before == 0 {
            // What the system does not tell is found out by writing.
            let spare = self.quota.spare().unwrap_or(u64::MAX);
            if spare < bytes.max(UNIT) {
                return Err(Full::Disk);
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
                return Err(Full::Quota { bytes });
            }
            let left = u64::from(self.quota.total).saturating_sub(held);
            let more = u32::try_from(left.min(STEP / UNIT)).unwrap_or(u32::MAX);
            match self.quota.units.clone().try_acquire_many_owned(more) {
                Ok(more) => permit.merge(more),
                Err(_) => return Err(Full::Reserved),
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

    fn quota(mebibytes: u64) -> Arc<Quota> {
        Quota::new(std::env::temp_dir(), mebibytes * UNIT, 0)
    }

    #[tokio::test]
    async fn what_is_not_reserved_is_taken_where_it_is_free() {
        let quota = quota(100);
        let room = quota.room(UNIT).await.unwrap();
        room.take(3 * UNIT).unwrap();
        room.take(90 * UNIT).unwrap();
        let full = Full::Quota { bytes: 100 * UNIT };
        assert_eq!(room.take(8 * UNIT), Err(full));
        drop(room);
        assert_eq!(quota.units.available_permits(), 100);
    }

    #[tokio::test]
    async fn two_scans_that_need_more_than_there_is_never_wait_for_each_other() {
        let quota = quota(10);
        let (one, two) = (quota.room(5 * UNIT).await, quota.room(5 * UNIT).await);
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one.take(6 * UNIT), Err(Full::Reserved));
        assert_eq!(two.take(6 * UNIT), Err(Full::Reserved));
        // Each gives back what it has before it asks for all.
        drop(one);
        drop(two);
        let all = quota.room(u64::MAX).await.unwrap();
        all.take(10 * UNIT).unwrap();
        assert_eq!(all.take(1), Err(Full::Quota { bytes: 10 * UNIT }));
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "the runtime ends with the test")]
    async fn a_scan_waits_for_room_in_the_order_of_asking() {
        let quota = quota(10);
        let held = quota.room(8 * UNIT).await.unwrap();
        let large = tokio::spawn({
            let quota = quota.clone();
            async move { quota.room(10 * UNIT).await }
        });
        while quota.units.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        // A small one does not overtake it for ever.
        let small = quota.room(UNIT);
        assert!(
            tokio::time::timeout(std::time::Duration::ZERO, small)
                .await
                .is_err()
        );
        drop(held);
        assert!(large.await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_disk_that_others_need_is_left_alone() {
        let quota = Quota::new(std::env::temp_dir(), u64::MAX, u64::MAX);
        let room = quota.room(UNIT).await.unwrap();
        assert_eq!(room.take(1), Err(Full::Disk));
    }
}
