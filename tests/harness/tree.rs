//! Trees of files: those that a client has unpacked, and those that layers describe.

mod layers;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

pub use layers::{entries, unpack};

use crate::hostile::image::digest;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file with the digest of its content.
    File(String),
    /// A directory.
    Directory,
    /// A symbolic link with its target.
    Symlink(String),
    /// A character device with its numbers.
    Character(u32, u32),
    /// A block device with its numbers.
    Block(u32, u32),
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
}

/// A file, directory, link or device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permissions, owner and group; nothing where no layer says them, and permissions of 0 for links.
    pub rights: Option<(u32, u32, u32)>,
    /// Extended attributes that a client keeps: `user.*` and `security.capability`.
    pub attributes: BTreeMap<String, Vec<u8>>,
}

/// A tree: paths without a leading slash, and what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<String, Node>);

impl Tree {
    /// Reads a folder without following links.
    pub fn of_folder(folder: &Path) -> Self {
        let mut tree = Self::default();
        tree.add_folder(folder, "");
        tree
    }

    fn add_folder(&mut self, folder: &Path, prefix: &str) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let inside = format!("{prefix}{name}");
            let node = read_node(&path);
            if node.kind == Kind::Directory {
                self.add_folder(&path, &format!("{inside}/"));
            }
            self.0.insert(inside, node);
        }
    }

    /// Returns the content's digest of a file, if there is one.
    pub fn file(&self, path: &str) -> Option<&str> {
        match &self.0.get(path)?.kind {
            Kind::File(digest) => Some(digest),
            _ => None,
        }
    }

    /// Returns what differs from another tree, one line for each path; what no layer says is not compared.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut paths: Vec<&String> = self.0.keys().chain(other.0.keys()).collect();
        paths.sort();
        paths.dedup();
        let differs = |path: &&String| match (self.0.get(*path), other.0.get(*path)) {
            (Some(a), Some(b)) => {
                let unsaid = a.rights.is_none() || b.rights.is_none();
                a.kind != b.kind || a.attributes != b.attributes || !unsaid && a.rights != b.rights
            }
            _ => true,
        };
        let paths = paths.into_iter().filter(differs);
        paths
            .map(|path| format!("{path}: {:?} or {:?}", self.0.get(path), other.0.get(path)))
            .collect()
    }
}

fn read_node(path: &Path) -> Node {
    let metadata = fs::symlink_metadata(path).unwrap();
    let (kind, device) = (metadata.file_type(), metadata.rdev());
    let numbers = (
        u32::try_from((device >> 8) & 0xfff).unwrap(),
        u32::try_from((device & 0xff) | ((device >> 12) & 0xf_ff00)).unwrap(),
    );
    let kind = if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Symlink(fs::read_link(path).unwrap().to_string_lossy().into_owned())
    } else if kind.is_char_device() {
        Kind::Character(numbers.0, numbers.1)
    } else if kind.is_block_device() {
        Kind::Block(numbers.0, numbers.1)
    } else if kind.is_fifo() {
        Kind::Pipe
    } else if kind.is_socket() {
        Kind::Socket
    } else {
        Kind::File(digest(&fs::read(path).unwrap()))
    };
    let mode = match kind {
        Kind::Symlink(_) => 0,
        _ => metadata.mode() & 0o7777,
    };
    Node {
        attributes: attributes(path),
        rights: Some((mode, metadata.uid(), metadata.gid())),
        kind,
    }
}

/// Reads the extended attributes that clients keep.
fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names) else {
        return BTreeMap::new();
    };
    let names = names[..length].split(|byte| *byte == 0);
    let names = names.map(|name| String::from_utf8_lossy(name).into_owned());
    let mut attributes = BTreeMap::new();
    for name in names.filter(|name| is_kept(name)) {
        let mut value = vec![0; 65_536];
        let length = rustix::fs::lgetxattr(path, name.as_str(), &mut value).unwrap();
        value.truncate(length);
        attributes.insert(name, value);
    }
    attributes
}

fn is_kept(name: &str) -> bool {
    name.starts_with("user.") || name == "security.capability"
}
