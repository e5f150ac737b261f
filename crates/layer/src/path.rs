//! Paths within an image, as bytes, and sets of them as digests.

use std::fmt::{self, Write as _};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The clean path of an entry: components joined by `/`, none of them empty, `.` or `..`.
///
/// The root is the empty path. Names are bytes; where they are written, control characters,
/// backslashes and what is no UTF-8 become `\xNN`, so that a name steers no terminal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Takes a path that is clean already.
    pub(crate) fn from_clean(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped(&self.0))
    }
}

impl Serialize for EntryPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EntryPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = Vec::with_capacity(text.len());
        let mut parts = text.split("\\x");
        bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
        for part in parts {
            let (code, rest) = part
                .split_at_checked(2)
                .ok_or_else(|| D::Error::custom("a path ends in the middle of `\\xNN`"))?;
            bytes.push(u8::from_str_radix(code, 16).map_err(D::Error::custom)?);
            bytes.extend_from_slice(rest.as_bytes());
        }
        Ok(Self(bytes))
    }
}

/// Bytes as they are written for people.
pub(crate) struct Escaped<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() || character == '\\' || is_invisible(character) {
                    let mut utf8 = [0; 4];
                    for byte in character.encode_utf8(&mut utf8).bytes() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                } else {
                    f.write_char(character)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Returns whether a character changes the order or the look of others.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The parents of a path, the nearest first, without the root.
pub(crate) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'/')
        .filter_map(|(index, _)| path.get(..index))
}

/// Where a link leads, by the names alone, and `rest` below it; nothing if that is above the root.
pub(crate) fn resolve(link: &[u8], target: &[u8], rest: &[u8]) -> Option<Vec<u8>> {
    let mut components: Vec<&[u8]> = Vec::new();
    if !target.starts_with(b"/") {
        components.extend(link.split(|byte| *byte == b'/'));
        components.pop();
    }
    for component in target
        .split(|byte| *byte == b'/')
        .chain(rest.split(|byte| *byte == b'/'))
    {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop()?;
            }
            name => components.push(name),
        }
    }
    Some(components.join(&b'/'))
}

/// The last component of a path.
pub(crate) fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// The first 120 bits of the SHA-256 of a path.
///
/// It stands for the path where millions of them are kept: nobody finds two paths with one such
/// digest (2^60 tries), and with its kind a path takes 16 bytes, however long it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PathDigest([u8; 15]);

impl PathDigest {
    pub(crate) fn of(path: &[u8]) -> Self {
        let digest = Sha256::digest(path);
        let mut short = [0; 15];
        for (to, from) in short.iter_mut().zip(digest) {
            *to = from;
        }
        Self(short)
    }
}

/// A set of paths that can be asked for members and no more.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct PathSet(Vec<PathDigest>);

impl PathSet {
    pub(crate) fn new(mut members: Vec<PathDigest>) -> Self {
        members.sort_unstable();
        members.dedup();
        members.shrink_to_fit();
        Self(members)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = PathDigest> {
        self.0.iter().copied()
    }

    pub(crate) fn contains(&self, path: &[u8]) -> bool {
        !self.0.is_empty() && self.0.binary_search(&PathDigest::of(path)).is_ok()
    }

    /// Returns whether the path or one of its parents is a member.
    pub(crate) fn covers(&self, path: &[u8]) -> bool {
        self.contains(path) || ancestors(path).any(|parent| self.contains(parent))
    }
}

impl fmt::Debug for PathSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PathSet({} paths)", self.0.len())
    }
}

impl Serialize for PathSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|member| member.0).collect();
        serializer.serialize_str(&hex::encode(bytes))
    }
}

impl<'de> Deserialize<'de> for PathSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = hex::decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        let (members, rest) = bytes.as_chunks::<15>();
        if !rest.is_empty() {
            return Err(D::Error::custom("a set of paths is cut"));
        }
        Ok(Self::new(members.iter().copied().map(PathDigest).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_without_control_characters_and_read_back() {
        for bytes in [
            &b"usr/bin/sh"[..],
            b"a\x1b[2Jb",
            b"back\\slash\\x41",
            b"\xff\xfelatin",
            "f\u{151}tan\u{fa}".as_bytes(),
            "a\u{202e}b".as_bytes(),
            b"",
        ] {
            let path = EntryPath::from_clean(bytes);
            let json = serde_json::to_string(&path).unwrap();
            assert!(!path.to_string().contains(char::is_control), "{json}");
            assert_eq!(serde_json::from_str::<EntryPath>(&json).unwrap(), path);
        }
    }

    #[test]
    fn a_set_of_paths_knows_its_members_after_it_was_stored() {
        let set = PathSet::new([&b"a/b"[..], b"c"].map(PathDigest::of).to_vec());
        let stored = serde_json::to_string(&set).unwrap();
        let set: PathSet = serde_json::from_str(&stored).unwrap();
        assert!(set.contains(b"a/b") && set.contains(b"c") && !set.contains(b"a"));
        assert!(set.covers(b"a/b/x/y") && !set.covers(b"a/bc"));
        assert!(serde_json::from_str::<PathSet>("\"00\"").is_err());
    }

    #[test]
    fn parents_are_listed_from_the_nearest_on() {
        let found: Vec<&[u8]> = ancestors(b"a/bb/c").collect();
        assert_eq!(found, [&b"a/bb"[..], b"a"]);
        assert_eq!(file_name(b"a/bb/c"), b"c");
        assert_eq!(file_name(b"a"), b"a");
    }
}
