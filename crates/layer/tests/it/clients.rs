//! Reference readers that unpack an image as containerd, Docker and podman do, and one that sees
//! what Trivy sees. They are written for these tests, from the sources of those programs, and share
//! nothing with the strict reader.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, Read as _};

use crate::build::sha256;
use crate::go_tar::{self, Entry};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Folder,
    /// Content, and whether a hard link made the name.
    File(Vec<u8>, bool),
    Symlink(Vec<u8>),
    Special(u8, (i64, i64)),
}

/// A file tree, without its root.
pub(crate) type Tree = BTreeMap<Vec<u8>, Node>;

/// A layer as a client gets it.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) media_type: &'static str,
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: String,
}

/// A client with a way to lay layers on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    ContainerdOverlay,
    ContainerdNative,
    DockerOverlay,
    /// podman before 5.4, which checks no diff id.
    PodmanOverlay,
    PodmanVfs,
}

impl Client {
    pub(crate) const ALL: [Self; 5] = [
        Self::ContainerdOverlay,
        Self::ContainerdNative,
        Self::DockerOverlay,
        Self::PodmanOverlay,
        Self::PodmanVfs,
    ];

    fn is_containerd(self) -> bool {
        matches!(self, Self::ContainerdOverlay | Self::ContainerdNative)
    }

    fn is_overlay(self) -> bool {
        !matches!(self, Self::ContainerdNative | Self::PodmanVfs)
    }

    /// Unpacks all layers.
    pub(crate) fn unpack(self, layers: &[Layer]) -> Result<Tree, String> {
        let mut tree = Tree::new();
        for layer in layers {
            let tar = self.decompress(layer)?;
            let checks_diff_id = !matches!(self, Self::PodmanOverlay | Self::PodmanVfs);
            if checks_diff_id && sha256(&tar) != layer.diff_id {
                return Err("diff id".to_owned());
            }
            let entries = go_tar::read(&tar)?;
            if !self.is_containerd() {
                check_duplicates(&entries)?;
            }
            if self.is_overlay() {
                let mut upper = Unpacking::default();
                upper.apply(self, &entries)?;
                lay_over(&mut tree, &upper);
            } else {
                let mut unpacking = Unpacking {
                    tree: std::mem::take(&mut tree),
                    ..Unpacking::default()
                };
                unpacking.apply(self, &entries)?;
                tree = unpacking.tree;
            }
        }
        Ok(tree)
    }

    fn decompress(self, layer: &Layer) -> Result<Vec<u8>, String> {
        let blob = &layer.blob;
        let sniffed = match blob.as_slice() {
            [0x1f, 0x8b, 8, ..] => "gzip",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, _, _, _, _, ..] if self.is_containerd() => "zstd",
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] if self == Self::DockerOverlay => "zstd",
            [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', b'Z', 0, ..]
                if !self.is_containerd() =>
            {
                return Err("bzip2 and xz are not built here".to_owned());
            }
            _ => "tar",
        };
        let oci_raw = layer.media_type.starts_with("application/vnd.oci.")
            && !layer.media_type.ends_with("gzip")
            && !layer.media_type.ends_with("zstd");
        let kind = if self.is_containerd() && oci_raw {
            "tar"
        } else {
            sniffed
        };
        // Docker runs unpigz, which is content with anything behind the last member.
        decode(kind, blob, self == Self::DockerOverlay)
    }
}

/// Decodes all members or frames; a lenient program ends at what is none.
fn decode(kind: &str, blob: &[u8], lenient: bool) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = blob;
    if kind == "tar" {
        return Ok(blob.to_vec());
    }
    let mut members = 0;
    while !rest.is_empty() {
        let before = bytes.len();
        let outcome = if kind == "gzip" {
            let mut decoder = flate2::bufread::GzDecoder::new(&mut rest);
            decoder.read_to_end(&mut bytes)
        } else if matches!(rest, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) {
            skip_frame(&mut rest)
        } else {
            zstd::stream::read::Decoder::with_buffer(&mut rest)
                .map(zstd::stream::read::Decoder::single_frame)
                .and_then(|mut decoder| {
                    decoder.window_log_max(29)?;
                    decoder.read_to_end(&mut bytes)
                })
        };
        match outcome {
            Ok(_) => members += 1,
            Err(_) if lenient && members > 0 => {
                bytes.truncate(before);
                break;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(bytes)
}

fn skip_frame(rest: &mut &[u8]) -> std::io::Result<usize> {
    let cut = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let length: [u8; 4] = rest.get(4..8).ok_or_else(cut)?.try_into().unwrap();
    let length = u32::from_le_bytes(length) as usize + 8;
    if rest.len() < length {
        return Err(cut());
    }
    rest.consume(length);
    Ok(0)
}

/// Go's `path.Clean`, and then `..` at the root as what it is there: the root.
fn clean(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join(&b'/')
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() {
        return name.to_vec();
    }
    [folder, b"/", name].concat()
}

/// tar-split, which Docker and podman keep each layer with, takes a name once.
fn check_duplicates(entries: &[Entry]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for entry in entries {
        let absolute = entry.name.starts_with(b"/");
        if !seen.insert((absolute, clean(&entry.name))) {
            return Err("duplicates of file paths not supported".to_owned());
        }
    }
    Ok(())
}

/// A tree that a layer is unpacked into; for overlayfs it begins empty and has marks.
#[derive(Default)]
struct Unpacking {
    tree: Tree,
    opaque: BTreeSet<Vec<u8>>,
    unpacked: BTreeSet<Vec<u8>>,
}

const WHITEOUT: Node = Node::Special(b'3', (0, 0));

impl Unpacking {
    fn apply(&mut self, client: Client, entries: &[Entry]) -> Result<(), String> {
        entries
            .iter()
            .try_for_each(|entry| self.apply_entry(client, entry))
    }

    fn apply_entry(&mut self, client: Client, entry: &Entry) -> Result<(), String> {
        if client == Client::DockerOverlay && entry.typeflag == b'g' {
            return Ok(());
        }
        let name = clean(&entry.name);
        let (parent, base) = split(&name);
        let folder = self.resolve(parent, 0)?;
        let path = join(&folder, base);
        if path.is_empty() {
            return Ok(());
        }
        self.make_folders(&folder)?;
        if base.starts_with(b".wh.") {
            return self.apply_whiteout(client, &folder, base);
        }
        if self.tree.contains_key(&path)
            && !(self.tree[&path] == Node::Folder && entry.typeflag == b'5')
        {
            remove(&mut self.tree, &path);
        }
        let node = match entry.typeflag {
            b'0' => Node::File(entry.content.clone(), false),
            b'1' => self.link_target(&entry.link)?,
            b'2' if entry.link.is_empty() => return Err("symlink: no such file".to_owned()),
            b'2' => Node::Symlink(entry.link.clone()),
            b'3' | b'4' => {
                // The kernel takes 12 bits of the major number and 20 of the minor.
                let (major, minor) = entry.device;
                Node::Special(entry.typeflag, (major & 0xfff, minor & 0xf_ffff))
            }
            b'5' => Node::Folder,
            b'6' => Node::Special(b'6', (0, 0)),
            b'g' => return Ok(()),
            other => return Err(format!("unhandled tar header type {other}")),
        };
        if !client.is_containerd()
            && entry
                .xattrs
                .get(&b"trusted.overlay.opaque"[..])
                .map(Vec::as_slice)
                == Some(b"y")
        {
            self.opaque.insert(path.clone());
        }
        self.unpacked.insert(path.clone());
        self.tree.insert(path, node);
        Ok(())
    }

    fn apply_whiteout(&mut self, client: Client, folder: &[u8], base: &[u8]) -> Result<(), String> {
        if base == b".wh..wh..opq" {
            if client.is_overlay() {
                self.opaque.insert(folder.to_vec());
                return Ok(());
            }
            let below: Vec<Vec<u8>> = self
                .tree
                .keys()
                .filter(|path| is_below(path, folder) && !self.unpacked.contains(*path))
                .cloned()
                .collect();
            for path in below {
                remove(&mut self.tree, &path);
            }
            return Ok(());
        }
        let target = &base[4..];
        if matches!(target, b"" | b"." | b"..") {
            return Err("invalid whiteout".to_owned());
        }
        let path = join(folder, target);
        if client.is_overlay() {
            if self.tree.contains_key(&path) {
                if !client.is_containerd() {
                    return Err("mknod: file exists".to_owned());
                }
                remove(&mut self.tree, &path);
            }
            self.tree.insert(path, WHITEOUT);
        } else {
            remove(&mut self.tree, &path);
        }
        Ok(())
    }

    fn link_target(&self, link: &[u8]) -> Result<Node, String> {
        let name = clean(link);
        let (parent, base) = split(&name);
        let path = join(&self.resolve(parent, 0)?, base);
        match self.tree.get(&path) {
            Some(Node::File(content, _)) => Ok(Node::File(content.clone(), true)),
            Some(Node::Folder) => Err("link: operation not permitted".to_owned()),
            Some(node) => Ok(node.clone()),
            None => Err("link: no such file".to_owned()),
        }
    }

    /// Follows symbolic links within the root.
    fn resolve(&self, path: &[u8], links: usize) -> Result<Vec<u8>, String> {
        if links > 40 {
            return Err("too many links".to_owned());
        }
        let mut done: Vec<u8> = Vec::new();
        let mut parts = path.split(|byte| *byte == b'/');
        while let Some(part) = parts.next() {
            match part {
                b"" | b"." => continue,
                b".." => {
                    done = split(&done).0.to_vec();
                    continue;
                }
                _ => {}
            }
            let next = join(&done, part);
            let Some(Node::Symlink(target)) = self.tree.get(&next) else {
                done = next;
                continue;
            };
            let mut whole = if target.starts_with(b"/") {
                target.clone()
            } else {
                join(&done, target)
            };
            for rest in parts.by_ref() {
                whole = join(&whole, rest);
            }
            return self.resolve(&whole, links + 1);
        }
        Ok(done)
    }

    fn make_folders(&mut self, folder: &[u8]) -> Result<(), String> {
        let mut done: Vec<u8> = Vec::new();
        for part in folder.split(|byte| *byte == b'/').filter(|p| !p.is_empty()) {
            done = join(&done, part);
            match self.tree.get(&done) {
                None => {
                    self.tree.insert(done.clone(), Node::Folder);
                }
                Some(Node::Folder) => {}
                Some(_) => return Err("not a directory".to_owned()),
            }
        }
        Ok(())
    }
}

fn is_below(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty()
        || path
            .strip_prefix(folder)
            .is_some_and(|rest| rest.starts_with(b"/"))
}

fn remove(tree: &mut Tree, path: &[u8]) {
    tree.retain(|other, _| other != path && !is_below(other, path));
}

/// What overlayfs shows of an upper layer on a lower one.
fn lay_over(lower: &mut Tree, upper: &Unpacking) {
    for (path, node) in &upper.tree {
        let is_merged = *node == Node::Folder && lower.get(path) == Some(&Node::Folder);
        if !is_merged {
            remove(lower, path);
        } else if upper.opaque.contains(path) {
            lower.retain(|other, _| !is_below(other, path));
        }
        if *node != WHITEOUT {
            lower.insert(path.clone(), node.clone());
        }
    }
}

/// The regular files that Trivy analyses, by the names in the tars.
pub(crate) fn trivy(layers: &[Layer]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, String> {
    let mut files = BTreeMap::new();
    for layer in layers {
        let kind = match layer.blob.as_slice() {
            [0x1f, 0x8b, ..] => "gzip",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
            _ => "tar",
        };
        see(&mut files, &decode(kind, &layer.blob, true)?)?;
    }
    Ok(files)
}

/// What Trivy sees of tars that it is given; it sniffs them once more.
pub(crate) fn trivy_of_tars(tars: &[Vec<u8>]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, String> {
    let layers: Vec<Layer> = tars
        .iter()
        .map(|tar| Layer {
            media_type: "",
            blob: tar.clone(),
            diff_id: String::new(),
        })
        .collect();
    trivy(&layers)
}

fn see(files: &mut BTreeMap<Vec<u8>, Vec<u8>>, tar: &[u8]) -> Result<(), String> {
    let mut added = BTreeMap::new();
    for entry in go_tar::read(tar)? {
        let path = lexical(&entry.name);
        let (folder, base) = split(&path);
        if base == b".wh..wh..opq" {
            if !folder.is_empty() {
                files.retain(|other, _| !is_below(other, folder));
            }
        } else if let Some(target) = base.strip_prefix(b".wh.") {
            let target = join(folder, target);
            files.retain(|other, _| *other != target && !is_below(other, &target));
        } else if entry.typeflag == b'0' && matches!(entry.mode & !0o7777, 0 | 0o100_000) {
            added.insert(path, entry.content);
        }
    }
    files.extend(added);
    Ok(())
}

/// Go's `path.Clean` of a relative name: leading `..` stay.
fn lexical(name: &[u8]) -> Vec<u8> {
    let absolute = name.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if absolute => {}
            _ => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// The file that a program in the container opens under a path.
pub(crate) fn open(tree: &Tree, path: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let unpacking = Unpacking {
        tree: tree.clone(),
        ..Unpacking::default()
    };
    let path = unpacking.resolve(path, 0).ok()?;
    match tree.get(&path) {
        Some(Node::File(content, _)) => Some((path, content.clone())),
        _ => None,
    }
}
