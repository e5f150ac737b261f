//! What a copy tells while it goes on.

use std::fmt::Debug;

use sluice_domain::Digest;

/// Follows a copy; it is told in the middle of the work and must not wait for anything.
pub trait Watch: Debug + Send + Sync {
    /// Takes note of what happened.
    fn note(&self, progress: &Progress<'_>);
}

/// How a blob came to be in its repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It was there.
    Skipped,
    /// Another repository of the registry had it.
    Mounted,
    /// It was transferred.
    Copied,
}

/// What happened in a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// All that is to be there in the end is known; every blob of it ends once.
    Known {
        /// How many different blobs there are.
        blobs: u64,
        /// Their size.
        bytes: u64,
    },
    /// The transfer of a blob begins; if it began before, what arrived of it until now does not count.
    Begun {
        /// The blob.
        digest: &'a Digest,
        /// Its size.
        size: u64,
    },
    /// Some bytes of a blob arrived from the source.
    Arrived {
        /// The blob.
        digest: &'a Digest,
        /// How many more.
        bytes: u64,
    },
    /// A blob is there.
    Ended {
        /// The blob.
        digest: &'a Digest,
        /// Its size.
        size: u64,
        /// How it came there.
        arrival: Arrival,
    },
    /// A manifest was written.
    Manifest {
        /// The manifest.
        digest: &'a Digest,
    },
}
