//! What layers describe, read as Go's `archive/tar` reads it and put together as the image specification says.
//!
//! Lenient on purpose, as clients are: it is what the strict reader of the product is compared with.

use std::collections::BTreeMap;

use super::{Kind, Node, Tree, is_kept};
use crate::hostile::image::digest;

/// An entry of an archive as clients see it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name, as it is written.
    pub name: String,
    kind: u8,
    link: String,
    rights: (u32, u32, u32),
    device: (u32, u32),
    attributes: BTreeMap<String, Vec<u8>>,
    content: Vec<u8>,
}

/// Reads the entries of an archive.
///
/// # Errors
/// What is no archive to Go.
pub fn entries(archive: &[u8]) -> Result<Vec<Entry>, String> {
    let mut reader = Reader { archive, at: 0 };
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        entries.push(entry);
    }
    Ok(entries)
}

/// Puts layers together, the lowest first.
///
/// # Errors
/// What every client refuses.
pub fn unpack<T: AsRef<[u8]>>(layers: &[T]) -> Result<Tree, String> {
    let mut tree = Tree::default();
    for layer in layers {
        apply(&mut tree, entries(layer.as_ref())?)?;
    }
    Ok(tree)
}

struct Reader<'a> {
    archive: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads as many bytes, or says that they are not there.
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self
            .at
            .checked_add(length)
            .filter(|end| *end <= self.archive.len());
        let bytes = &self.archive[self.at..end.ok_or("unexpected end")?];
        self.at += length;
        Ok(bytes)
    }

    fn header(&mut self) -> Result<Option<&'a [u8]>, String> {
        if self.at == self.archive.len() {
            return Ok(None);
        }
        let header = self.take(512)?;
        if header.iter().any(|byte| *byte != 0) {
            return Ok(Some(header));
        }
        match self.archive.get(self.at..self.at + 512) {
            None if self.at == self.archive.len() => Ok(None),
            Some(next) if next.iter().all(|byte| *byte == 0) => Ok(None),
            _ => Err("one block of zeros and no second".to_owned()),
        }
    }

    fn next(&mut self) -> Result<Option<Entry>, String> {
        let mut records: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            check_sum(header)?;
            let mut size = number(&header[124..136])?;
            let kind = header[156];
            if !matches!(kind, b'x' | b'g' | b'L' | b'K')
                && let Some(told) = records.get("size")
            {
                size = std::str::from_utf8(told)
                    .ok()
                    .and_then(|told| told.parse().ok())
                    .ok_or("size")?;
            }
            let has_content = !matches!(kind, b'1'..=b'6');
            let size = if has_content {
                usize::try_from(size).map_err(|_| "size")?
            } else {
                0
            };
            let content = self.take(size)?;
            let filling = size.next_multiple_of(512) - size;
            self.at = self.archive.len().min(self.at + filling);
            match kind {
                b'x' => records = pax(content)?,
                b'g' => drop(pax(content)?),
                b'L' => long_name = Some(text(content)),
                b'K' => long_link = Some(text(content)),
                _ => return entry(header, content, &records, long_name, long_link).map(Some),
            }
        }
    }
}

fn entry(
    header: &[u8],
    content: &[u8],
    records: &BTreeMap<String, Vec<u8>>,
    long_name: Option<String>,
    long_link: Option<String>,
) -> Result<Entry, String> {
    let record = |key: &str| {
        records
            .get(key)
            .map(|value| String::from_utf8_lossy(value).into_owned())
    };
    let field = |range: std::ops::Range<usize>| {
        let value = number(&header[range])?;
        u32::try_from(value).map_err(|_| "a number that is too large".to_owned())
    };
    let owner = |key: &str, range| {
        record(key).map_or_else(
            || field(range),
            |told| told.parse().map_err(|_| key.to_owned()),
        )
    };
    let (mut name, prefix) = (text(&header[..100]), text(&header[345..500]));
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        name = format!("{prefix}/{name}");
    }
    let name = record("path").or(long_name).unwrap_or(name);
    if name.contains('\0') {
        return Err("a name with a zero byte".to_owned());
    }
    let kind = match header[156] {
        b'0' | 0 if name.ends_with('/') && header[156] == 0 => b'5',
        0 => b'0',
        other => other,
    };
    let prefix = "SCHILY.xattr.";
    let attributes = records.iter().filter_map(|(key, value)| {
        let key = key.strip_prefix(prefix)?;
        is_kept(key).then(|| (key.to_owned(), value.clone()))
    });
    Ok(Entry {
        kind,
        link: record("linkpath")
            .or(long_link)
            .unwrap_or_else(|| text(&header[157..257])),
        rights: (
            field(100..108)? & 0o7777,
            owner("uid", 108..116)?,
            owner("gid", 116..124)?,
        ),
        device: (field(329..337)?, field(337..345)?),
        attributes: attributes.collect(),
        content: content.to_vec(),
        name,
    })
}

/// Reads bytes up to the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Reads a number in octal, or in base 256.
fn number(field: &[u8]) -> Result<u64, String> {
    if field[0] & 0x80 != 0 {
        let bytes = field.iter().enumerate();
        return bytes
            .map(|(at, byte)| if at == 0 { byte & 0x7f } else { *byte })
            .try_fold(0_u64, |sum, byte| {
                sum.checked_mul(256)?.checked_add(u64::from(byte))
            })
            .ok_or_else(|| "a number that is too large".to_owned());
    }
    let digits = text(field);
    let digits = digits.trim_matches([' ', '\0']);
    if digits.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(digits, 8).map_err(|_| format!("`{digits}` is no number"))
}

fn check_sum(header: &[u8]) -> Result<(), String> {
    let blank = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| u64::from(blank(at, *byte)))
        .sum();
    (number(&header[148..156])? == sum)
        .then_some(())
        .ok_or_else(|| "a wrong checksum".to_owned())
}

/// Reads PAX records; of two with the same key the last counts.
fn pax(mut bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let mut records = BTreeMap::new();
    while !bytes.is_empty() {
        let space = bytes
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or("a record without a length")?;
        let length: usize = text(&bytes[..space])
            .parse()
            .map_err(|_| "a record without a length")?;
        let record = bytes.get(space + 1..length).ok_or("a record that is cut")?;
        let record = record
            .strip_suffix(b"\n")
            .ok_or("a record without an end")?;
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or("a record without a value")?;
        let key = String::from_utf8_lossy(&record[..equals]).into_owned();
        if matches!(&*key, "path" | "linkpath") && record[equals + 1..].contains(&0) {
            return Err("a name with a zero byte".to_owned());
        }
        records.insert(key, record[equals + 1..].to_vec());
        bytes = &bytes[length..];
    }
    Ok(records)
}

/// Returns a path in its clean form, within the root.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Follows the links in the folders of a path, as a client does that writes there.
fn resolved(tree: &Tree, path: &str) -> String {
    let mut at = String::new();
    let mut rest: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        let next = clean(&format!("{at}/{part}"));
        match tree.0.get(&next).map(|node| &node.kind) {
            Some(Kind::Symlink(target)) if !rest.is_empty() && links < 40 => {
                links += 1;
                if target.starts_with('/') {
                    at.clear();
                }
                rest.extend(target.rsplit('/').map(str::to_owned));
            }
            _ => at = next,
        }
    }
    at
}

fn remove(tree: &mut Tree, path: &str, keep: &dyn Fn(&str) -> bool) {
    let below = format!("{path}/");
    tree.0
        .retain(|name, _| !(name == path || name.starts_with(&below)) || keep(name));
}

fn apply(tree: &mut Tree, entries: Vec<Entry>) -> Result<(), String> {
    let mut written: Vec<String> = Vec::new();
    for entry in entries {
        let path = clean(&entry.name);
        if path.is_empty() {
            continue;
        }
        let path = resolved(tree, &path);
        // Also for a whiteout.
        add_parents(tree, &path);
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if name == ".wh..wh..opq" {
            let below = format!("{folder}/");
            let is_kept = |path: &str| written.iter().any(|kept| kept == path);
            tree.0
                .retain(|name, _| !name.starts_with(&below) || is_kept(name));
            continue;
        }
        if let Some(hidden) = name.strip_prefix(".wh.") {
            let hidden = clean(&format!("{folder}/{hidden}"));
            remove(tree, &hidden, &|_| false);
            continue;
        }
        let node = node(tree, &entry)?;
        let is_directory =
            |node: Option<&Node>| node.is_some_and(|node| node.kind == Kind::Directory);
        if !(node.kind == Kind::Directory && is_directory(tree.0.get(&path))) {
            remove(tree, &path, &|_| false);
        }
        written.push(path.clone());
        tree.0.insert(path, node);
    }
    Ok(())
}

fn add_parents(tree: &mut Tree, path: &str) {
    for (end, _) in path.match_indices('/') {
        let parent = Node {
            kind: Kind::Directory,
            rights: None,
            attributes: BTreeMap::new(),
        };
        tree.0.entry(path[..end].to_owned()).or_insert(parent);
    }
}

fn node(tree: &Tree, entry: &Entry) -> Result<Node, String> {
    let (mode, user, group) = entry.rights;
    let kind = match entry.kind {
        b'0' => Kind::File(digest(&entry.content)),
        b'1' => {
            let target = resolved(tree, &clean(&entry.link));
            let target = tree.0.get(&target).ok_or("a hard link to nothing")?;
            return Ok(target.clone());
        }
        b'2' => Kind::Symlink(entry.link.clone()),
        b'3' => Kind::Character(entry.device.0, entry.device.1),
        b'4' => Kind::Block(entry.device.0, entry.device.1),
        b'5' => Kind::Directory,
        b'6' => Kind::Pipe,
        other => {
            return Err(format!(
                "an entry of the kind `{}`",
                char::from(other).escape_default()
            ));
        }
    };
    let mode = if entry.kind == b'2' { 0 } else { mode };
    Ok(Node {
        rights: Some((mode, user, group)),
        attributes: entry.attributes.clone(),
        kind,
    })
}
