//! The number of advisories in each bucket of a database, read from its file before Trivy opens it.
//!
//! Trivy reports no findings and no error where a distribution has no bucket, and makes an empty database of a damaged
//! one. The file is a `BoltDB` (go.etcd.io/bbolt, page.go, bucket.go). Every page that can be reached is visited, so that
//! a file that was cut off is noticed. Nothing in it is trusted.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::trivy::failure::{FailureKind, TrivyFailure};

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
/// The sizes that a page can have. If the first meta page is damaged, the second is after a page of one of these sizes.
const PAGE_SIZES: [u64; 6] = [4_096, 1_024, 2_048, 8_192, 16_384, 65_536];
/// The most buckets at the root; a database has some hundred.
const MAX_BUCKETS: usize = 4_096;
/// The largest page that is read, those that it overflows into included.
const MAX_PAGE_BYTES: u64 = 64 << 20;

/// The number of entries of each bucket at the root, those of the buckets inside it included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct AdvisoryBuckets(BTreeMap<String, u64>);

impl AdvisoryBuckets {
    /// Counts the entries of a database.
    ///
    /// # Errors
    /// [`FailureKind::DatabaseIncompatible`] for a file that is damaged or no database; [`FailureKind::Unknown`] for one
    /// that cannot be opened.
    pub(crate) fn read(database: &Path) -> Result<Self, TrivyFailure> {
        let file = File::open(database)?;
        let size = file.metadata()?.len();
        let damaged = "`trivy.db` is damaged or was cut off";
        let counts = read_counts(&file, size)
            .ok_or_else(|| TrivyFailure::new(FailureKind::DatabaseIncompatible, damaged))?;
        Ok(Self(counts))
    }

    /// Returns the buckets with the number of entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, count)| (name.as_str(), *count))
    }

    /// Returns the names of the buckets that have any entry.
    pub(crate) fn filled(&self) -> impl Iterator<Item = &str> {
        self.iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, _)| name)
    }

    /// Returns the number of entries of a bucket.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Raises each number to that of other buckets, where that is larger.
    pub(crate) fn raise_to(&mut self, others: &Self) {
        for (name, count) in others.iter() {
            let most = self.0.entry(name.to_owned()).or_default();
            *most = (*most).max(count);
        }
    }

    #[cfg(test)]
    pub(crate) fn from_counts<N: Into<String>>(counts: impl IntoIterator<Item = (N, u64)>) -> Self {
        let counts = counts.into_iter();
        Self(counts.map(|(name, count)| (name.into(), count)).collect())
    }
}

fn read_counts(file: &File, size: u64) -> Option<BTreeMap<String, u64>> {
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
    let mut counts = BTreeMap::new();
    let mut pending = vec![meta.root];
    while let Some(number) = pending.pop() {
        let page = reader.page(number)?;
        for element in elements(&page)? {
            match element {
                Element::Page(number) => pending.push(number),
                Element::Bucket { name, value } => {
                    let name = std::str::from_utf8(name).ok()?.to_owned();
                    let entries = reader.entries(value)?;
                    let is_new = counts.insert(name, entries).is_none();
                    if !is_new || counts.len() > MAX_BUCKETS {
                        return None;
                    }
                }
                Element::Entry => {}
            }
        }
    }
    Some(counts)
}

/// Reads pages; at most as many as the file has, so that the reading of a cycle ends.
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
                .filter(|size| *size <= MAX_PAGE_BYTES)?;
            page = vec![0; usize::try_from(size).ok()?];
            self.file.read_exact_at(&mut page, at).ok()?;
        }
        (u64_at(&page, 0)? == number).then_some(page)
    }

    /// Counts the entries of a bucket, given by its value.
    fn entries(&mut self, bucket: &[u8]) -> Option<u64> {
        let mut entries = 0_u64;
        let mut pending = Vec::new();
        count(bucket, &mut entries, &mut pending)?;
        while let Some(number) = pending.pop() {
            let page = self.page(number)?;
            count_page(&page, &mut entries, &mut pending)?;
        }
        Some(entries)
    }
}

/// Counts the entries in the value of a bucket itself, or adds the page that holds them to those to read.
fn count(bucket: &[u8], entries: &mut u64, pending: &mut Vec<u64>) -> Option<()> {
    let root = u64_at(bucket, 0)?;
    if root != 0 {
        pending.push(root);
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

fn count_page(page: &[u8], entries: &mut u64, pending: &mut Vec<u64>) -> Option<()> {
    for element in elements(page)? {
        match element {
            Element::Page(number) => pending.push(number),
            Element::Bucket { value, .. } => count(value, entries, pending)?,
            Element::Entry => *entries = entries.checked_add(1)?,
        }
    }
    Some(())
}

/// An element of a page.
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

/// Reads one of the two meta pages, which say where the root bucket is; the newer undamaged one counts.
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

    fn counted(bytes: &[u8]) -> Result<AdvisoryBuckets, TrivyFailure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trivy.db");
        std::fs::write(&path, bytes).unwrap();
        AdvisoryBuckets::read(&path)
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
            assert_eq!(counts.count(bucket), advisories(file), "{bucket}");
        }
        assert!(counts.count("vulnerability") > 0);
        assert_eq!(counts.count("data-source"), 3);
        // The keys of a bucket are none of the root's.
        assert!(counts.iter().all(|(name, _)| name != "perl"));
    }

    #[test]
    fn a_damaged_database_is_refused_and_reading_it_ends() {
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
            // Whatever the result is, the reading ends.
            drop(counted(&damaged));
        }
        let mut one_meta = whole;
        one_meta[PAGE_HEADER] ^= 0xff;
        assert!(counted(&one_meta).unwrap().count("debian 12") > 0);
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
