//! The errors of the reader, and the rules that a layer can break.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};
use sluice_domain::Digest;
use thiserror::Error;

/// Why a layer has no summary.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The layer does not have exactly one reading. Final.
    #[error(transparent)]
    Refused(#[from] LayerRefusal),
    /// The layer is larger than what is read. Final, unless the limits change.
    #[error("{limit} is over the limit of {max}")]
    Limit {
        /// What is too large.
        limit: &'static str,
        /// What it may be at most.
        max: u64,
    },
    /// The source gave other bytes than those of the descriptor's digest.
    ///
    /// It says nothing about the layer: a registry or a connection is at fault.
    #[error("the blob is not {expected}: got {size_bytes} bytes with digest {actual}")]
    WrongBytes {
        /// The descriptor's digest.
        expected: Digest,
        /// The digest of the bytes that came.
        actual: Digest,
        /// How many bytes came.
        size_bytes: u64,
    },
    /// The blob could not be read. Transient.
    #[error("failed to read the blob")]
    Source(#[source] io::Error),
    /// The tar could not be written. Transient.
    #[error("failed to write the unpacked tar")]
    Output(#[source] io::Error),
}

/// A layer, or the layers of an image, that not every client reads in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{detail} ({rule})")]
pub struct LayerRefusal {
    /// The rule that is broken.
    pub rule: Rule,
    /// What was found, on one line, without control characters.
    pub detail: String,
}

impl LayerRefusal {
    pub(crate) fn new(rule: Rule, detail: impl Into<String>) -> Self {
        Self {
            rule,
            detail: detail.into(),
        }
    }
}

/// A rule that a layer can break.
///
/// The numbers are those of the list that the rules come from (`docs/SECURITY.md` repeats it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rule {
    /// Rule 6: the size is that of the descriptor, and not 0.
    Size,
    /// Rule 8: the compression is the one that every client finds.
    Compression,
    /// Rule 9: the tar does not look compressed itself.
    NestedCompression,
    /// Rule 10: nothing but whole members or frames, with right checksums.
    Framing,
    /// Rule 11: the digest of the tar is the diff id.
    DiffId,
    /// Rule 12: headers that every reader of tars reads in the same way.
    Header,
    /// Rule 12: kinds of entries that every client unpacks.
    EntryType,
    /// Rule 12: nothing follows the end of the tar.
    End,
    /// Rule 13: names are plain, and each is there once.
    Name,
    /// Rule 14: no entry lies below a link or a file, and hard links name earlier entries.
    Link,
    /// Rule 14: whiteouts have one meaning.
    Whiteout,
    /// Rule 14: device nodes are no whiteouts of overlayfs.
    Device,
    /// Rule 15: extended headers have one meaning.
    ExtendedHeader,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 13] = [
        Self::Size,
        Self::Compression,
        Self::NestedCompression,
        Self::Framing,
        Self::DiffId,
        Self::Header,
        Self::EntryType,
        Self::End,
        Self::Name,
        Self::Link,
        Self::Whiteout,
        Self::Device,
        Self::ExtendedHeader,
    ];

    /// Returns the number of the rule.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Size => 6,
            Self::Compression => 8,
            Self::NestedCompression => 9,
            Self::Framing => 10,
            Self::DiffId => 11,
            Self::Header | Self::EntryType | Self::End => 12,
            Self::Name => 13,
            Self::Link | Self::Whiteout | Self::Device => 14,
            Self::ExtendedHeader => 15,
        }
    }

    /// Returns the name of the rule, which stays as it is.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Compression => "compression",
            Self::NestedCompression => "nested_compression",
            Self::Framing => "framing",
            Self::DiffId => "diff_id",
            Self::Header => "header",
            Self::EntryType => "entry_type",
            Self::End => "end",
            Self::Name => "name",
            Self::Link => "link",
            Self::Whiteout => "whiteout",
            Self::Device => "device",
            Self::ExtendedHeader => "extended_header",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}, {}", self.number(), self.name())
    }
}
