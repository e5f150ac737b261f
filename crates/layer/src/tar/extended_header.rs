//! Extended headers of POSIX (PAX): records `LENGTH KEY=VALUE`.

use std::collections::BTreeSet;

use crate::error::{LayerRefusal, Rule};
use crate::path::Escaped;

/// What an extended header changes, as far as it decides what is unpacked.
#[derive(Debug, Default)]
pub(super) struct ExtendedHeader {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
}

/// Extended attributes that overlayfs, fuse-overlayfs and podman's storage take for their own:
/// they hide files of lower layers, or give a file another type.
const FORBIDDEN_ATTRIBUTES: [&[u8]; 4] = [
    b"SCHILY.xattr.trusted.",
    b"SCHILY.xattr.user.overlay.",
    b"SCHILY.xattr.user.fuseoverlayfs.",
    b"SCHILY.xattr.user.containers.override_stat",
];

/// The prefix of records that turn an entry into a sparse file, with another name and size.
const SPARSE: &[u8] = b"GNU.sparse.";

impl ExtendedHeader {
    /// Reads all records; each key may be there once.
    pub(super) fn parse(mut records: &[u8]) -> Result<Self, LayerRefusal> {
        let mut extended = Self::default();
        let mut keys = BTreeSet::new();
        while !records.is_empty() {
            let (key, value, rest) =
                record(records).ok_or_else(|| refused("a record is damaged".to_owned()))?;
            records = rest;
            if !keys.insert(key) {
                return Err(refused(format!("`{}` is there twice", Escaped(key))));
            }
            extended.set(key, value)?;
        }
        Ok(extended)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), LayerRefusal> {
        let bad = || {
            let value = value.get(..value.len().min(100)).unwrap_or_default();
            refused(format!("`{}` is `{}`", Escaped(key), Escaped(value)))
        };
        if key.contains(&0)
            || key.starts_with(SPARSE)
            || FORBIDDEN_ATTRIBUTES
                .iter()
                .any(|prefix| key.starts_with(prefix))
        {
            return Err(bad());
        }
        match key {
            b"path" | b"linkpath" => {
                // An empty value is ignored by Go, and removes the name by POSIX.
                if value.is_empty() || value.contains(&0) {
                    return Err(bad());
                }
                let slot = if key == b"path" {
                    &mut self.path
                } else {
                    &mut self.linkpath
                };
                *slot = Some(value.to_vec());
            }
            b"size" => {
                let size = integer(value).and_then(|size| u64::try_from(size).ok());
                self.size = Some(size.filter(|_| is_digits(value)).ok_or_else(bad)?);
            }
            b"uname" | b"gname" if value.contains(&0) => return Err(bad()),
            b"uid" | b"gid" if !value.is_empty() => {
                integer(value).ok_or_else(bad)?;
            }
            b"atime" | b"mtime" | b"ctime" if !value.is_empty() => {
                let mut parts = value.splitn(2, |byte| *byte == b'.');
                integer(parts.next().unwrap_or_default()).ok_or_else(bad)?;
                if !parts
                    .next()
                    .is_none_or(|fraction| fraction.iter().all(u8::is_ascii_digit))
                {
                    return Err(bad());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Refuses a global header that would change the entries after it, which Go does not let it.
    pub(super) fn check_global(&self) -> Result<(), LayerRefusal> {
        if self.path.is_some() || self.linkpath.is_some() || self.size.is_some() {
            return Err(refused(
                "a global one sets `path`, `linkpath` or `size`".to_owned(),
            ));
        }
        Ok(())
    }
}

fn refused(detail: String) -> LayerRefusal {
    LayerRefusal::new(
        Rule::ExtendedHeader,
        format!("in an extended header, {detail}"),
    )
}

/// Splits the first record off: its key, its value, and the records after it.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let (digits, _) = records.split_at(space);
    if !is_digits(digits) || digits.starts_with(b"0") {
        return None;
    }
    let length = usize::try_from(integer(digits)?).ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = record.split_at(equals);
    (!key.is_empty()).then_some((key, value.get(1..)?, rest))
}

fn is_digits(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

/// Reads a decimal number with an optional sign, as Go's `strconv.ParseInt` does.
fn integer(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_by_their_length() {
        let read = |text: &[u8]| ExtendedHeader::parse(text);
        let found = read(b"10 path=a\n11 size=12\n27 mtime=1700000000.123456\n").unwrap();
        assert_eq!(
            (found.path.as_deref(), found.size),
            (Some(&b"a"[..]), Some(12))
        );
        for bad in [
            &b"11 path=a\n"[..],
            b"8 path=a\n",
            b"+11 path=a\n",
            b"011 path=a\n",
            b"10 path=a\n10 path=b\n",
            b"8 path=\n",
            b"11 size=-1\n",
            b"11 size=+1\n",
            b"28 size=9223372036854775808\n",
            b"12 path=a\0b\n",
            b"5 =a\n",
            b"6 pat\n",
            b"11 mtime=x\n",
            b"13 mtime=1.x\n",
            b"22 GNU.sparse.major=1\n",
            b"36 SCHILY.xattr.trusted.overlay.x=y\n",
        ] {
            assert!(read(bad).is_err(), "{}", Escaped(bad));
        }
        assert!(read(b"26 SCHILY.xattr.user.a=\nb\n").is_ok());
        assert!(read(b"12 mtime=1.\n").is_ok() && read(b"").is_ok());
    }
}
