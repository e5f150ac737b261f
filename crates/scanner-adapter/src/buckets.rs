//! The names of the buckets of a database, read from its file: they say of which systems it knows anything.
//!
//! Trivy finds nothing, and says nothing, where a system has no bucket. The file is a `BoltDB` (go.etcd.io/bbolt, page.go),
//! of which this reads only the tree of the root bucket. It trusts nothing that it reads.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::failure::{Failed, Kind};

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const PAGE_HEADER: usize = 16;
const ELEMENT: usize = 16;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
/// The flag of a leaf's element that is a bucket.
const IS_BUCKET: u32 = 0x01;
/// The sizes that a page can have; the second meta page is looked for at each, should the first be damaged.
const PAGE_SIZES: [u64; 6] = [4_096, 1_024, 2_048, 8_192, 16_384, 65_536];
/// The most that is read of the root bucket; a database has some hundred buckets.
const MOST_PAGES: usize = 4_096;
const MOST_BYTES: u64 = 16 << 20;

/// Returns the names of the buckets of a database.
///
/// # Errors
/// A file that is not whole or is no database.
pub(crate) fn names(database: &Path) -> Result<BTreeSet<String>, Failed> {
    let broken = |reason: String| Failed::new(Kind::DatabaseIncompatible, reason);
    let file = File::open(database).map_err(|error| broken(error.to_string()))?;
    read(&file).ok_or_else(|| broken("the names of its buckets cannot be read".to_owned()))
}

fn read(file: &File) -> Option<BTreeSet<String>> {
    let (page_size, root) = PAGE_SIZES
        .into_iter()
        .flat_map(|size| [meta(file, 0, size), meta(file, size, size)])
        .flatten()
        .max_by_key(|meta| meta.transaction)
        .map(|meta| (meta.page_size, meta.root))?;
    let mut names = BTreeSet::new();
    let mut left = vec![root];
    let (mut pages, mut bytes) = (0, 0);
    while let Some(number) = left.pop() {
        let page = page(file, number, page_size)?;
        pages += 1;
        bytes += u64::try_from(page.len()).ok()?;
        if pages > MOST_PAGES || bytes > MOST_BYTES || left.len() > MOST_PAGES {
            return None;
        }
        let (flags, count) = (u16_at(&page, 8)?, u16_at(&page, 10)?);
        for index in 0..usize::from(count) {
            let at = PAGE_HEADER + index * ELEMENT;
            match flags {
                BRANCH => left.push(u64_at(&page, at + 8)?),
                LEAF => {
                    let start = at.checked_add(usize_at(&page, at + 4)?)?;
                    let end = start.checked_add(usize_at(&page, at + 8)?)?;
                    let name = std::str::from_utf8(page.get(start..end)?).ok()?;
                    if u32_at(&page, at)? & IS_BUCKET != 0 {
                        names.insert(name.to_owned());
                    }
                }
                _ => return None,
            }
        }
    }
    Some(names)
}

struct Meta {
    page_size: u64,
    root: u64,
    transaction: u64,
}

/// Reads one of the two pages that say where the root bucket is; the newer one that is whole holds.
fn meta(file: &File, at: u64, page_size: u64) -> Option<Meta> {
    let mut page = [0; PAGE_HEADER + 64];
    file.read_exact_at(&mut page, at).ok()?;
    let body = page.get(PAGE_HEADER..)?;
    let is_meta = u32_at(body, 0)? == MAGIC
        && u32_at(body, 4)? == VERSION
        && u64::from(u32_at(body, 8)?) == page_size
        && fnv1a(body.get(..56)?) == u64_at(body, 56)?;
    is_meta.then_some(Meta {
        page_size,
        root: u64_at(body, 16)?,
        transaction: u64_at(body, 48)?,
    })
}

/// Reads a page with those that it overflows into.
fn page(file: &File, number: u64, page_size: u64) -> Option<Vec<u8>> {
    let at = number.checked_mul(page_size)?;
    let mut header = [0; PAGE_HEADER];
    file.read_exact_at(&mut header, at).ok()?;
    let size = u64::from(u32_at(&header, 12)?)
        .checked_add(1)?
        .checked_mul(page_size)
        .filter(|size| *size <= MOST_BYTES)?;
    let mut page = vec![0; usize::try_from(size).ok()?];
    file.read_exact_at(&mut page, at).ok()?;
    (u64_at(&page, 0)? == number).then_some(page)
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn usize_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32_at(bytes, at)?).ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The project's own database, as bytes.
    fn database() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/trivy-db");
        let made = Command::new(script)
            .arg("--out")
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        std::fs::read(folder.path().join("trivy.db")).unwrap()
    }

    fn named(bytes: &[u8]) -> Result<BTreeSet<String>, Failed> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trivy.db");
        std::fs::write(&path, bytes).unwrap();
        names(&path)
    }

    #[test]
    fn the_buckets_of_a_database_are_named() {
        let names = named(&database()).unwrap();
        for name in ["debian 12", "data-source", "vulnerability"] {
            assert!(names.contains(name), "{names:?}");
        }
        // The keys of a bucket are none of the root's.
        assert!(!names.contains("perl"));
    }

    #[test]
    fn a_damaged_database_is_refused_and_never_more() {
        let whole = database();
        assert!(named(&[]).is_err());
        assert!(named(&[0; 8_192]).is_err());
        // The root bucket's page is the last that is written.
        assert!(named(&whole[..whole.len() / 2]).is_err());
        let mut damaged = whole.clone();
        for at in (0..whole.len()).step_by(whole.len() / 997) {
            damaged[at] ^= 0xff;
            // Whatever comes of it, it comes to an end.
            drop(named(&damaged));
        }
        let mut one_meta = whole;
        one_meta[PAGE_HEADER] ^= 0xff;
        assert!(named(&one_meta).unwrap().contains("debian 12"));
    }
}
