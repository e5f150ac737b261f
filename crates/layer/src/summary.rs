//! The summary of a layer that was read, which is stored and compared with those of other layers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sluice_domain::Digest;

use crate::layer_type::{Compression, LayerType};
use crate::packages::{Database, LanguagePackages};
use crate::path::{EntryPath, PathSet};

/// The version of the rules and of what a summary means.
///
/// A summary of another version is of no use: the layer is read again.
pub const RULES_VERSION: u32 = 1;

/// A layer as its manifest and its configuration describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// The media type.
    pub layer_type: LayerType,
    /// The digest of the blob.
    pub digest: Digest,
    /// The size of the blob.
    pub size_bytes: u64,
    /// The digest of the tar, from `rootfs.diff_ids` of the configuration.
    pub diff_id: Digest,
    /// The annotations of the descriptor.
    pub annotations: BTreeMap<String, String>,
}

/// A layer that has exactly one reading.
///
/// Holds what the checks of a whole image need, so that a layer is read once for all images that
/// have it. It is made by `read_layer` alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSummary {
    /// The [`RULES_VERSION`] under which it was read.
    pub rules_version: u32,
    /// The media type.
    pub layer_type: LayerType,
    /// The digest of the blob.
    pub digest: Digest,
    /// The size of the blob.
    pub size_bytes: u64,
    /// The digest of the tar.
    pub diff_id: Digest,
    /// The size of the tar.
    pub uncompressed_bytes: u64,
    /// How many entries the tar has, extended headers not counted.
    pub entries: u64,
    /// The bytes of the largest file.
    pub largest_file_bytes: u64,
    /// Findings that are allowed and still worth reporting.
    pub notes: Vec<Note>,
    /// Package databases, in the order of the tar.
    pub databases: Vec<Database>,
    /// Packages of languages.
    pub languages: Vec<LanguagePackages>,
    /// How many files are named like SBOMs that scanners believe.
    pub sboms: u64,
    /// The first of those, at most [`crate::EXAMPLES`].
    pub sbom_examples: Vec<EntryPath>,
    /// How many files with packages lie in folders that the scanner leaves out: `proc`, `sys` and
    /// `dev` at the root, and `.git` anywhere.
    pub left_out: u64,
    /// The first of those, at most [`crate::EXAMPLES`].
    pub left_out_examples: Vec<EntryPath>,
    /// Links, whiteouts and folders, for the comparison with other layers.
    pub(crate) tree: TreeSummary,
}

/// What the checks of a whole image need of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct TreeSummary {
    /// Symbolic links.
    pub(crate) symlinks: PathSet,
    /// Paths that a whiteout removes.
    pub(crate) whiteouts: PathSet,
    /// Folders that are opaque.
    pub(crate) opaque: PathSet,
    /// Folders that have entries before they are entries themselves, or never are.
    pub(crate) implied_folders: Vec<EntryPath>,
    /// Links on the way to package databases, and where they lead.
    pub(crate) database_links: Vec<(EntryPath, EntryPath)>,
    /// Entries on that way that are no links.
    pub(crate) database_parents: Vec<EntryPath>,
    /// Paths of global extended headers: some clients remove what lies there.
    pub(crate) global_headers: Vec<EntryPath>,
    /// Entries that are called as global extended headers are.
    pub(crate) called_global_headers: PathSet,
}

/// A finding that is allowed, and that a person or a policy may want to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum Note {
    /// Rule 8: the media type names another compression than the blob has. Every client goes by
    /// the blob.
    OtherCompression {
        /// What the media type names.
        declared: Compression,
        /// What the blob has.
        actual: Compression,
    },
    /// Rule 17: an annotation leads some clients (stargz and SOCI snapshotters, podman 5.0 to 5.2)
    /// to another list of files than the tar. That list was not compared with the tar.
    SecondView {
        /// The annotation.
        annotation: String,
    },
}

/// Returns the annotations, of a layer or a manifest, that lead clients to a second list of files.
#[must_use]
pub fn alternative_file_lists(annotations: &BTreeMap<String, String>) -> Vec<Note> {
    const PREFIXES: [&str; 4] = [
        "containerd.io/snapshot/",
        "io.github.containers.zstd-chunked.",
        "io.containers.zstd-chunked.",
        "com.amazon.soci.",
    ];
    annotations
        .keys()
        .filter(|key| PREFIXES.iter().any(|prefix| key.starts_with(prefix)))
        .map(|key| Note::SecondView {
            annotation: key.chars().filter(|c| !c.is_control()).take(200).collect(),
        })
        .collect()
}
