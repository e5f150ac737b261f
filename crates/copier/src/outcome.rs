//! The outcome of a copy: the digest, the work that it took, and the attachments that came with it.

use std::collections::BTreeSet;
use std::fmt::Display;

use sluice_domain::Digest;
use sluice_registry::{CopyReport, Cost};

/// An image that is at its target now, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOutcome {
    /// The digest at the target.
    pub digest: Digest,
    /// The digest that was at the target before.
    pub before: Option<Digest>,
    /// The work for the image.
    pub work: Work,
    /// The attachments, where they are copied too.
    pub attachments: AttachmentOutcome,
}

/// The work of a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Work {
    /// The target was up to date.
    #[default]
    Unchanged,
    /// Content was copied.
    Copied(TransferStats),
    /// Content would be copied.
    Planned(Cost),
}

/// Bytes and blobs of a copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransferStats {
    /// The bytes that were transferred.
    pub bytes: u64,
    /// The blobs that were transferred.
    pub blobs_copied: u64,
    /// The blobs that were mounted from another repository.
    pub blobs_mounted: u64,
    /// The blobs that were at the target.
    pub blobs_skipped: u64,
}

/// The attachments of an image that were copied, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachmentOutcome {
    copied: BTreeSet<Digest>,
    planned_reads: BTreeSet<Digest>,
    /// The work for the attachments.
    pub work: Work,
    /// What was skipped, and why: listed but not attached, too large, or refused by the source.
    pub skipped: BTreeSet<String>,
    /// Why the attachments are incomplete.
    pub failure: Option<String>,
}

impl CopyOutcome {
    pub(crate) fn new(digest: Digest, before: Option<Digest>, work: Work) -> Self {
        Self {
            digest,
            before,
            work,
            attachments: AttachmentOutcome::default(),
        }
    }

    /// Returns the work for the image and that for its attachments.
    pub fn works(&self) -> [&Work; 2] {
        [&self.work, &self.attachments.work]
    }

    /// Tells whether nothing was copied, skipped or failed.
    pub fn is_unchanged(&self) -> bool {
        let unchanged = self
            .works()
            .into_iter()
            .all(|work| *work == Work::Unchanged);
        unchanged && self.attachments.skipped.is_empty() && self.attachments.failure.is_none()
    }
}

impl Work {
    fn add(&mut self, other: Self) {
        match (self, other) {
            (_, Self::Unchanged) => {}
            (Self::Copied(all), Self::Copied(stats)) => all.add(&stats),
            (Self::Planned(all), Self::Planned(cost)) => all.add(&cost),
            (all, work) => *all = work,
        }
    }
}

impl TransferStats {
    /// Adds the numbers of another copy.
    pub fn add(&mut self, other: &Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.blobs_copied += other.blobs_copied;
        self.blobs_mounted += other.blobs_mounted;
        self.blobs_skipped += other.blobs_skipped;
    }
}

impl From<&CopyReport> for TransferStats {
    fn from(report: &CopyReport) -> Self {
        Self {
            bytes: report.bytes_copied,
            blobs_copied: report.blobs_copied,
            blobs_mounted: report.blobs_mounted,
            blobs_skipped: report.blobs_skipped,
        }
    }
}

impl AttachmentOutcome {
    /// Returns the number of attachments that were copied, or would be.
    pub fn count(&self) -> u64 {
        u64::try_from(self.copied.len()).unwrap_or(u64::MAX)
    }

    pub(crate) fn add(&mut self, digest: &Digest, work: Work) {
        if self.copied.insert(digest.clone()) {
            self.work.add(work);
        }
    }

    /// Plans a manifest that must be fetched to decide what to copy; it counts as a pull.
    pub(crate) fn plan_read(&mut self, digest: &Digest) {
        if self.planned_reads.insert(digest.clone()) {
            self.work.add(Work::Planned(Cost {
                pulls: 1,
                requests: 1,
                ..Cost::default()
            }));
        }
    }

    pub(crate) fn skip(&mut self, what: impl Display, reason: impl Display) {
        self.skipped.insert(format!("{what}: {reason}"));
    }
}
