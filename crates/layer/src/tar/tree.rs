//! Which paths one layer has, and what each of them is; its whiteouts are only recorded, and applied in `stacked_layers`.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use crate::error::{Error, Rule};
use crate::limits::Limits;
use crate::packages::DATABASE_FOLDERS;
use crate::path::{EntryPath, PathDigest, PathSet, ancestors, file_name};
use crate::summary::TreeSummary;

use super::entry::{Kind, refuse};

/// A node takes one byte, so that a path takes 16.
#[derive(Clone, Copy)]
struct Node {
    kind: Kind,
}

/// How many bytes of memory the implied folders of a summary may take.
const MAX_IMPLIED_BYTES: usize = 64 << 20;

/// What an implied folder takes beside its name: a vector and its allocation.
const IMPLIED_FOLDER_BYTES: usize = 64;

/// How many global headers a layer may have.
const MAX_GLOBAL_HEADERS: usize = 100;

/// Names of global headers, as git and GNU tar write them.
fn is_called_global_header(path: &[u8]) -> bool {
    let name = file_name(path);
    name == b"pax_global_header" || name.starts_with(b"GlobalHead.")
}

/// Returns whether a path is a folder of package databases, or above one.
fn leads_to_database(path: &[u8]) -> bool {
    DATABASE_FOLDERS.into_iter().any(|folder| {
        folder
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    })
}

/// The paths of a layer.
pub(super) struct Tree<'a> {
    limits: &'a Limits,
    nodes: HashMap<PathDigest, Node>,
    /// A folder that is known to be one, with all its parents.
    last_folder: Vec<u8>,
    /// Folders with an implied folder somewhere below.
    above_implied: HashSet<PathDigest>,
    implied_bytes: usize,
    opaque: Vec<PathDigest>,
    called_global_headers: Vec<PathDigest>,
    summary: TreeSummary,
}

impl<'a> Tree<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            nodes: HashMap::new(),
            last_folder: Vec::new(),
            above_implied: HashSet::new(),
            implied_bytes: 0,
            opaque: Vec::new(),
            called_global_headers: Vec::new(),
            summary: TreeSummary::default(),
        }
    }

    /// Adds an entry that is no link and no marker.
    pub(super) fn add(&mut self, path: &[u8], kind: Kind) -> Result<(), Error> {
        self.ensure_parents(path)?;
        if kind != Kind::Symlink && leads_to_database(path) {
            self.summary
                .database_parents
                .push(EntryPath::from_clean(path));
        }
        self.insert(path, kind)
    }

    /// Adds a hard link, which must name an earlier entry that is no folder.
    pub(super) fn add_hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Error> {
        let kind = self
            .nodes
            .get(&PathDigest::of(target))
            .map(|node| node.kind);
        match kind {
            Some(kind @ (Kind::File | Kind::Symlink | Kind::Special)) => {
                if kind == Kind::Symlink {
                    // Where the other name leads is not kept: to no place that is known.
                    self.add_symlink_target(path, b"\0");
                }
                self.add(path, kind)
            }
            _ => {
                let target = EntryPath::from_clean(target);
                let what = format!("is a hard link to `{target}`, which is no file before it");
                Err(refuse(Rule::Link, path, &what).into())
            }
        }
    }

    /// Notes where a link leads, if package databases may lie behind it.
    pub(super) fn add_symlink_target(&mut self, path: &[u8], target: &[u8]) {
        if leads_to_database(path) {
            self.summary
                .database_links
                .push((EntryPath::from_clean(path), EntryPath::from_clean(target)));
        }
    }

    /// Adds a global header: some clients remove what has its name, and make its folder.
    pub(super) fn add_global_header(&mut self, path: &[u8]) -> Result<(), Error> {
        if !is_called_global_header(path) || ancestors(path).next().is_some() {
            return Err(refuse(Rule::Header, path, "is the name of a global header").into());
        }
        if self.summary.global_headers.len() >= MAX_GLOBAL_HEADERS {
            return Err(Error::Limit {
                limit: "the number of global headers",
                max: MAX_GLOBAL_HEADERS as u64,
            });
        }
        self.summary
            .global_headers
            .push(EntryPath::from_clean(path));
        self.insert(path, Kind::Marker)
    }

    /// Adds a whiteout or the marker of an opaque folder.
    pub(super) fn add_whiteout(&mut self, path: &[u8]) -> Result<(), Error> {
        self.ensure_parents(path)?;
        let name = file_name(path);
        let folder = path
            .get(..path.len().saturating_sub(name.len() + 1))
            .unwrap_or_default();
        if name == b".wh..wh..opq" {
            return self.add_opaque(path, folder);
        }
        let target = name.strip_prefix(b".wh.").unwrap_or_default();
        if matches!(target, b"" | b"." | b"..") || target.starts_with(b".wh.") {
            return Err(refuse(Rule::Whiteout, path, "is a whiteout of no name").into());
        }
        let target = [folder, if folder.is_empty() { b"" } else { b"/" }, target].concat();
        self.insert(&target, Kind::Removed)
    }

    fn add_opaque(&mut self, path: &[u8], folder: &[u8]) -> Result<(), Error> {
        if folder.is_empty() {
            return Err(refuse(Rule::Whiteout, path, "makes the root opaque").into());
        }
        let digest = PathDigest::of(folder);
        // Clients remove folders there that were no entries before the marker, with their files.
        if self.above_implied.contains(&digest) {
            return Err(refuse(
                Rule::Whiteout,
                path,
                "follows files in folders that are no entries",
            )
            .into());
        }
        self.insert(path, Kind::Marker)?;
        self.opaque.push(digest);
        Ok(())
    }

    /// Checks that all parents are folders, and adds those that are new (rule 14).
    fn ensure_parents(&mut self, path: &[u8]) -> Result<(), Error> {
        let Some(parent) = ancestors(path).next() else {
            return Ok(());
        };
        if parent == self.last_folder {
            return Ok(());
        }
        let mut missing = Vec::new();
        for folder in ancestors(path) {
            match self
                .nodes
                .get(&PathDigest::of(folder))
                .map(|node| node.kind)
            {
                None => missing.push(folder),
                // Its parents were checked when it came.
                Some(Kind::Folder | Kind::ImpliedFolder) => break,
                Some(Kind::Removed) => {
                    return Err(
                        refuse(Rule::Whiteout, path, "lies below what a whiteout removes").into(),
                    );
                }
                Some(_) => {
                    let folder = EntryPath::from_clean(folder);
                    let what = format!("lies below `{folder}`, which is no folder");
                    return Err(refuse(Rule::Link, path, &what).into());
                }
            }
        }
        for folder in missing.into_iter().rev() {
            if file_name(folder).starts_with(b".wh.") {
                return Err(refuse(
                    Rule::Whiteout,
                    path,
                    "lies in a folder with the name of a whiteout",
                )
                .into());
            }
            self.insert(folder, Kind::ImpliedFolder)?;
            self.implied_bytes += folder.len() + IMPLIED_FOLDER_BYTES;
            if self.implied_bytes > MAX_IMPLIED_BYTES {
                return Err(Error::Limit {
                    limit: "the memory for folders that are no entries, in bytes",
                    max: MAX_IMPLIED_BYTES as u64,
                });
            }
            self.summary
                .implied_folders
                .push(EntryPath::from_clean(folder));
            for above in ancestors(folder).map(PathDigest::of) {
                // Those above it were added with it.
                if !self.above_implied.insert(above) {
                    break;
                }
            }
        }
        self.last_folder.clear();
        self.last_folder.extend_from_slice(parent);
        Ok(())
    }

    /// Adds a path that was not there; only an implied folder may become an entry.
    fn insert(&mut self, path: &[u8], kind: Kind) -> Result<(), Error> {
        let max = usize::try_from(self.limits.entries).unwrap_or(usize::MAX);
        if self.nodes.len() >= max {
            return Err(Error::Limit {
                limit: "the number of names of a layer",
                max: self.limits.entries,
            });
        }
        let digest = PathDigest::of(path);
        if kind != Kind::Marker && is_called_global_header(path) {
            self.called_global_headers.push(digest);
        }
        match self.nodes.entry(digest) {
            Entry::Vacant(vacant) => {
                vacant.insert(Node { kind });
                Ok(())
            }
            Entry::Occupied(mut occupied) => match (occupied.get().kind, kind) {
                (Kind::ImpliedFolder, Kind::Folder) => {
                    occupied.insert(Node { kind });
                    Ok(())
                }
                (Kind::Removed, _) | (_, Kind::Removed) => Err(refuse(
                    Rule::Whiteout,
                    path,
                    "is there and has a whiteout, or has two",
                )
                .into()),
                (Kind::ImpliedFolder, _) => {
                    Err(refuse(Rule::Link, path, "is no folder, and files lie below it").into())
                }
                _ => Err(refuse(Rule::Name, path, "is there twice").into()),
            },
        }
    }

    pub(super) fn into_summary(self) -> TreeSummary {
        let of_kind = |wanted| {
            let nodes = self.nodes.iter();
            PathSet::new(
                nodes
                    .filter(|(_, node)| node.kind == wanted)
                    .map(|(path, _)| *path)
                    .collect(),
            )
        };
        TreeSummary {
            symlinks: of_kind(Kind::Symlink),
            whiteouts: of_kind(Kind::Removed),
            opaque: PathSet::new(self.opaque),
            called_global_headers: PathSet::new(self.called_global_headers),
            ..self.summary
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_takes_sixteen_bytes() {
        assert_eq!(size_of::<(PathDigest, Node)>(), 16);
    }
}
