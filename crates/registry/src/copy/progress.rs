//! The progress of a copy.

use std::fmt::Debug;

use sluice_domain::Digest;

/// Receives the progress of a copy; it is called in the middle of the work and must not block.
pub trait ProgressListener: Debug + Send + Sync {
    /// Receives one step.
    fn on_progress(&self, progress: &Progress<'_>);
}

/// How a blob came into its repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobOutcome {
    /// It existed already.
    Skipped,
    /// The registry mounted it from another repository.
    Mounted,
    /// It was transferred.
    Copied,
}

/// A step of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// All manifests were read; each blob will end with one [`Progress::BlobDone`].
    Planned {
        /// The number of different blobs.
        blobs: u64,
        /// Their size.
        bytes: u64,
    },
    /// The transfer of a blob starts; if it started before, the bytes received until now do not count.
    BlobStarted {
        /// The blob.
        digest: &'a Digest,
        /// Its size.
        size: u64,
    },
    /// More bytes of a blob arrived from the source.
    BytesReceived {
        /// The blob.
        digest: &'a Digest,
        /// The number of bytes.
        bytes: u64,
    },
    /// The target has a blob.
    BlobDone {
        /// The blob.
        digest: &'a Digest,
        /// Its size.
        size: u64,
        /// How it came there.
        outcome: BlobOutcome,
    },
    /// A manifest was pushed.
    ManifestPushed {
        /// The manifest.
        digest: &'a Digest,
    },
}
