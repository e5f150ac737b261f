//! How many advisories each bucket of a database has, read from its file before Trivy opens it.
//!
//! Trivy finds nothing, and says nothing, where a system has no bucket, and makes an empty database of a damaged one. The
//! file is a `BoltDB` (go.etcd.io/bbolt, page.go, bucket.go). Every page that can be reached is visited, so that a file
//! that was cut off is found out. Nothing in it is trusted.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::failure::{Failed, Kind};

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const PAGE_HEADER: usize = 16;
const ELEMENT: usize = 16;
/// A bucket's value begins with the number of its page and a sequence number.
const BUCKET_HEADER: usize = 16;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
/// The flag of a leaf's element that is a bucket.
const IS_BUCKET: u32 = 0x01;
/// The sizes that a page can have; the second meta page is looked for at each, should the first be damaged.
const PAGE_SIZES: [u64; 6] = [4_096, 1_024, 2_048, 8_192, 16_384, 65_536];
/// The most buckets at the root; a database has some hundred.
const MOST_BUCKETS: usize = 4_096;
/// The largest page that is read, those that it overflows into included.
const MOST_PAGE_BYTES: u64 = 64 << 20;

/// The number of entries of each bucket at the root, those of the buckets inside it included.
pub(crate) type Counts = BTreeMap<String, u64>;

/// Counts the entries of a database.
///
/// # Errors
/// [`Kind::DatabaseIncompatible`] for a file that is not whole or is no database; [`Kind::Unknown`] for one that cannot
/// be opened.
pub(crate) fn counts(database: &Path) -> Result<Counts, Failed> {
    let unreadable = |error: std::io::Error| Failed::new(Kind::Unknown, error.to_string());
    let file = File::open(database).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let damaged = "`trivy.db` is damaged or was cut off";
    read(&file, size).ok_or_else(|| Failed::new(Kind::DatabaseIncompatible, damaged))
}

fn read(file: &File, size: u64) -> Option<Counts> {
    let meta = PAGE_SIZES
        .into_iter()
        .flat_map(|size| [meta(file, 0, size), meta(file, size, size)])
        .flatten()
        .max_by_key(|meta| meta.transaction)?;
    let mut reader = Reader {
        file,
        page_size: meta.page_size,
        pages_left: size / meta.page_size,
    };
    let mut counts = Counts::new();
    let mut left = vec![meta.root];
    while let Some(number) = left.pop() {
        let page = reader.page(number)?;
        for element in elements(&page)? {
            match element {
                Element::Page(number) => left.push(number),
                Element::Bucket { name, value } => {
                    let name = std::str::from_utf8(name).ok()?.to_owned();
                    let entries = reader.entries(value)?;
                    let is_new = counts.insert(name, entries).is_none();
                    if !is_new || counts.len() > MOST_BUCKETS {
                        return None;
                    }
                }
                Element::Entry => {}
            }
        }
    }
    Some(counts)
}

/// Reads pages; at most as many as the file has, so that a circle comes to an end.
struct Reader<'a> {
    file: &'a File,
    page_size: u64,
    pages_left: u64,
}

impl Reader<'_> {
    /// Reads a page with those that it overflows into.
    fn page(&mut self, number: u64) -> Option<Vec<u8>> {
        let at = number.checked_mul(self.page_size)?;
        let mut page = vec![0; usize::try_from(self.page_size).ok()?];
        self.file.read_exact_at(&mut page, at).ok()?;
        let pages = u64::from(u32_at(&page, 12)?).checked_add(1)?;
        self.pages_left = self.pages_left.checked_sub(pages)?;
        if pages > 1 {
            let size = pages
                .checked_mul(self.page_size)
                .filter(|size| *size <= MOST_PAGE_BYTES)?;
            page = vec![0; usize::try_from(size).ok()?];
            self.file.read_exact_at(&mut page, at).ok()?;
        }
        (u64_at(&page, 0)? == number).then_some(page)
    }

    /// Counts the entries of a bucket, given by its value.
    fn entries(&mut self, bucket: &[u8]) -> Option<u64> {
        let mut entries = 0_u64;
        let mut left = Vec::new();
        count(bucket, &mut entries, &mut left)?;
        while let Some(number) = left.pop() {
            let page = self.page(number)?;
            count_page(&page, &mut entries, &mut left)?;
        }
        Some(entries)
    }
}

/// Counts what lies in a bucket's value itself, or notes the page where the rest is.
fn count(bucket: &[u8], entries: &mut u64, left: &mut Vec<u64>) -> Option<()> {
    let root = u64_at(bucket, 0)?;
    if root != 0 {
        left.push(root);
        return Some(());
    }
    for element in elements(bucket.get(BUCKET_HEADER..)?)? {
        match element {
            Element::Entry => *entries = entries.checked_add(1)?,
            // Only a bucket that has none inside is stored in its value (bucket.go, `inlineable`).
            Element::Page(_) | Element::Bucket { .. } => return None,
        }
    }
    Some(())
}

fn count_page(page: &[u8], entries: &mut u64, left: &mut Vec<u64>) -> Option<()> {
    for element in elements(page)? {
        match element {
            Element::Page(number) => left.push(number),
            Element::Bucket { value, .. } => count(value, entries, left)?,
            Element::Entry => *entries = entries.checked_add(1)?,
        }
    }
    Some(())
}

/// What a page lists.
enum Element<'a> {
    /// Another page of the same bucket.
    Page(u64),
    /// A bucket inside.
    Bucket { name: &'a [u8], value: &'a [u8] },
    /// A key with a value.
    Entry,
}

fn elements(page: &[u8]) -> Option<Vec<Element<'_>>> {
    let (flags, count) = (u16_at(page, 8)?, u16_at(page, 10)?);
    let mut elements = Vec::with_capacity(usize::from(count));
    for index in 0..usize::from(count) {
        let at = PAGE_HEADER + index * ELEMENT;
        elements.push(match flags {
            BRANCH => Element::Page(u64_at(page, at + 8)?),
            LEAF => {
                let key = at.checked_add(usize_at(page, at + 4)?)?;
                let value = key.checked_add(usize_at(page, at + 8)?)?;
                let end = value.checked_add(usize_at(page, at + 12)?)?;
                let (name, value) = (page.get(key..value)?, page.get(value..end)?);
                if u32_at(page, at)? & IS_BUCKET == 0 {
                    Element::Entry
                } else {
                    Element::Bucket { name, value }
                }
            }
            _ => return None,
        });
    }
    Some(elements)
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

    fn counted(bytes: &[u8]) -> Result<Counts, Failed> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trivy.db");
        std::fs::write(&path, bytes).unwrap();
        counts(&path)
    }

    /// How many advisories the project has of an ecosystem.
    fn advisories(file: &str) -> u64 {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/advisories/");
        let text = std::fs::read_to_string(format!("{folder}{file}")).unwrap();
        text.lines().count().try_into().unwrap()
    }

    #[test]
    fn the_entries_of_every_bucket_are_counted() {
        let counts = counted(&database()).unwrap();
        for (bucket, file) in [
            ("debian 12", "debian-12.jsonl"),
            ("npm::Sluice advisories", "npm.jsonl"),
            ("pip::Sluice advisories", "pypi.jsonl"),
        ] {
            assert_eq!(counts[bucket], advisories(file), "{bucket}");
        }
        assert!(counts["vulnerability"] > 0);
        assert_eq!(counts["data-source"], 3);
        // The keys of a bucket are none of the root's.
        assert!(!counts.contains_key("perl"));
    }

    #[test]
    fn a_damaged_database_is_refused_and_reading_it_comes_to_an_end() {
        let whole = database();
        assert!(counted(&[]).is_err());
        assert!(counted(&[0; 8_192]).is_err());
        // The root bucket's page is the last that is written; what is cut off anywhere before is missed too.
        for part in 1..8 {
            assert!(counted(&whole[..whole.len() * part / 8]).is_err(), "{part}");
        }
        let mut damaged = whole.clone();
        for at in (0..whole.len()).step_by(whole.len() / 997) {
            damaged[at] ^= 0xff;
            // Whatever comes of it, it comes to an end.
            drop(counted(&damaged));
        }
        let mut one_meta = whole;
        one_meta[PAGE_HEADER] ^= 0xff;
        assert!(counted(&one_meta).unwrap().contains_key("debian 12"));
    }

    #[test]
    fn a_branch_that_leads_back_to_itself_is_refused() {
        let mut looped = database();
        let root = usize::try_from(u64_at(&looped, PAGE_HEADER + 16).unwrap()).unwrap() * 4_096;
        looped[root + 8..root + 10].copy_from_slice(&BRANCH.to_le_bytes());
        looped[root + 10..root + 12].copy_from_slice(&1_u16.to_le_bytes());
        let number = u64::try_from(root / 4_096).unwrap().to_le_bytes();
        looped[root + PAGE_HEADER + 8..root + PAGE_HEADER + 16].copy_from_slice(&number);
        assert!(counted(&looped).is_err());
    }
}
