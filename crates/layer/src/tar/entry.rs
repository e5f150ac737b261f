//! The kinds of entries, and how one is refused.

use crate::error::{LayerRefusal, Rule};
use crate::path::EntryPath;

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A folder that only names of others mention.
    ImpliedFolder,
    Folder,
    File,
    /// A hard link; the tree knows what it links to.
    HardLink,
    Symlink,
    /// A device or a FIFO.
    Special,
    /// What a whiteout removes.
    Removed,
    /// A marker: of an opaque folder, or the name of a global header.
    Marker,
}

/// Refuses the entry at a path.
pub(super) fn refuse(rule: Rule, path: &[u8], what: &str) -> LayerRefusal {
    let path = EntryPath::from_clean(path.get(..path.len().min(300)).unwrap_or_default());
    LayerRefusal::new(rule, format!("`{path}` {what}"))
}
