//! Limits on the connections and bytes of all copies of a process together.

use std::sync::{Arc, LazyLock};

use tokio::sync::{Semaphore, SemaphorePermit};

/// The sizes of blobs are counted in these units, so that they fit the semaphore.
const UNIT: u64 = 64 << 10;
/// The defaults of a process.
const CONNECTIONS: u32 = 64;
const BYTES: u64 = 16 << 30;

static PROCESS_LIMITS: LazyLock<ConcurrencyLimits> =
    LazyLock::new(|| ConcurrencyLimits::new(CONNECTIONS, BYTES));

/// Limits that all copies with the same value share; cheap to clone.
#[derive(Debug, Clone)]
pub struct ConcurrencyLimits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connections: (Semaphore, u32),
    bytes: (Semaphore, u32),
}

impl ConcurrencyLimits {
    /// Limits the concurrent requests, at least 2, and the bytes of the blobs that are transferred concurrently.
    ///
    /// A blob that is larger than the limit is transferred alone.
    #[must_use]
    pub fn new(connections: u32, bytes: u64) -> Self {
        let connections = connections.max(2);
        let units = u32::try_from(bytes / UNIT)
            .unwrap_or(u32::MAX)
            .clamp(1, MAX_UNITS);
        Self(Arc::new(Inner {
            connections: (semaphore(connections), connections),
            bytes: (semaphore(units), units),
        }))
    }

    /// Returns the limits of copies that have none of their own.
    #[must_use]
    pub fn of_process() -> Self {
        PROCESS_LIMITS.clone()
    }

    /// Waits for the permits of a number of connections.
    pub(crate) async fn connections(&self, count: u32) -> Option<SemaphorePermit<'_>> {
        let (semaphore, most) = &self.0.connections;
        semaphore.acquire_many(count.min(*most)).await.ok()
    }

    /// Waits for the permits of a blob of this size.
    pub(crate) async fn bytes(&self, size: u64) -> Option<SemaphorePermit<'_>> {
        let (semaphore, most) = &self.0.bytes;
        let units = u32::try_from(size.div_ceil(UNIT)).unwrap_or(u32::MAX);
        semaphore.acquire_many(units.min(*most)).await.ok()
    }
}

/// The most permits that a semaphore has on a 32-bit machine.
const MAX_UNITS: u32 = 1 << 28;

fn semaphore(permits: u32) -> Semaphore {
    Semaphore::new(usize::try_from(permits).unwrap_or(Semaphore::MAX_PERMITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_blob_larger_than_the_limit_goes_alone() {
        let limits = ConcurrencyLimits::new(8, 1 << 20);
        let small = limits.bytes(1).await.unwrap();
        let waiting =
            async { tokio::time::timeout(std::time::Duration::ZERO, limits.bytes(1 << 40)).await };
        assert!(waiting.await.is_err());
        drop(small);
        let large = limits.bytes(1 << 40).await.unwrap();
        assert_eq!(limits.0.bytes.0.available_permits(), 0);
        drop(large);
        assert_eq!(limits.0.bytes.0.available_permits(), 16);
    }
}
