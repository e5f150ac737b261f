//! The entries of a tar, read so that no reader of tars can see others (rules 12 to 15).

mod entry;
mod extended_header;
mod header;
mod packages;
pub(crate) mod stream;
mod tree;

use std::io::{BufRead, Write};

use crate::error::{Error, LayerRefusal, Rule};
use crate::limits::Limits;
use crate::path::{Escaped, file_name, resolve};
use crate::summary::TreeSummary;

use self::entry::{Kind, refuse};
use self::extended_header::ExtendedHeader;
use self::header::Header;
use self::packages::Packages;
use self::stream::{BLOCK_BYTES, TarStream};
use self::tree::Tree;

/// What the entries of a layer are.
pub(crate) struct Entries {
    pub(crate) count: u64,
    pub(crate) largest_file_bytes: u64,
    pub(crate) packages: Packages,
    pub(crate) tree: TreeSummary,
}

/// Reads all entries and the end of the tar.
pub(crate) fn read_entries<B: BufRead, W: Write>(
    stream: &mut TarStream<'_, B, W>,
    limits: &Limits,
) -> Result<Entries, Error> {
    let mut reader = EntryReader {
        limits,
        tree: Tree::new(limits),
        packages: Packages::default(),
        pending: Pending::default(),
        count: 0,
        largest_file_bytes: 0,
    };
    while let Some(block) = stream.block()? {
        if is_zero(&block) {
            read_end(stream)?;
            break;
        }
        reader.read_entry(&block, stream)?;
    }
    reader.pending.check_unused()?;
    Ok(Entries {
        count: reader.count,
        largest_file_bytes: reader.largest_file_bytes,
        packages: reader.packages,
        tree: reader.tree.into_summary(),
    })
}

/// Reads what may follow a first block of zeros: nothing, or a second one and zeros to the end.
fn read_end<B: BufRead, W: Write>(stream: &mut TarStream<'_, B, W>) -> Result<(), Error> {
    match stream.block()? {
        None => return Ok(()),
        Some(block) if !is_zero(&block) => {
            return Err(
                LayerRefusal::new(Rule::End, "an entry follows a single block of zeros").into(),
            );
        }
        Some(_) => {}
    }
    if !stream.rest_is_zero()? {
        return Err(LayerRefusal::new(Rule::End, "bytes follow the end of the tar").into());
    }
    Ok(())
}

fn is_zero(block: &[u8; BLOCK_BYTES]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// Extended headers that belong to the next entry.
#[derive(Default)]
struct Pending {
    extended: Option<ExtendedHeader>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Pending {
    fn check_unused(&self) -> Result<(), LayerRefusal> {
        if self.extended.is_some() || self.long_name.is_some() || self.long_link.is_some() {
            return Err(LayerRefusal::new(
                Rule::ExtendedHeader,
                "an extended header belongs to no entry",
            ));
        }
        Ok(())
    }

    /// Stores a header for the next entry; readers differ in which of two such headers counts.
    fn set<T>(slot: &mut Option<T>, value: T) -> Result<(), LayerRefusal> {
        if slot.replace(value).is_some() {
            return Err(LayerRefusal::new(
                Rule::ExtendedHeader,
                "an entry has two extended headers of one kind",
            ));
        }
        Ok(())
    }
}

struct EntryReader<'a> {
    limits: &'a Limits,
    tree: Tree<'a>,
    packages: Packages,
    pending: Pending,
    count: u64,
    largest_file_bytes: u64,
}

impl EntryReader<'_> {
    fn read_entry<B: BufRead, W: Write>(
        &mut self,
        block: &[u8; BLOCK_BYTES],
        stream: &mut TarStream<'_, B, W>,
    ) -> Result<(), Error> {
        let header = Header::parse(block)?;
        match header.typeflag {
            b'x' => {
                let extended = ExtendedHeader::parse(&self.special_content(&header, stream)?)?;
                Pending::set(&mut self.pending.extended, extended)?;
            }
            b'L' => {
                let name = long_string(&self.special_content(&header, stream)?)?;
                Pending::set(&mut self.pending.long_name, name)?;
            }
            b'K' => {
                let link = long_string(&self.special_content(&header, stream)?)?;
                Pending::set(&mut self.pending.long_link, link)?;
            }
            b'g' => {
                // Go forgets what belongs to the next entry here, and other readers do not.
                self.pending.check_unused()?;
                ExtendedHeader::parse(&self.special_content(&header, stream)?)?.check_global()?;
                self.count_entry()?;
                let path = self.clean_path(&header.name)?;
                self.tree.add_global_header(&path)?;
            }
            _ => {
                let pending = std::mem::take(&mut self.pending);
                self.add(apply(header, pending)?, stream)?;
            }
        }
        Ok(())
    }

    /// Reads the content of a header that is no entry.
    fn special_content<B: BufRead, W: Write>(
        &self,
        header: &Header,
        stream: &mut TarStream<'_, B, W>,
    ) -> Result<Vec<u8>, Error> {
        if header.size > self.limits.pax_bytes {
            return Err(Error::Limit {
                limit: "the size of an extended header in bytes",
                max: self.limits.pax_bytes,
            });
        }
        stream.content(header.size)
    }

    fn count_entry(&mut self) -> Result<(), Error> {
        self.count += 1;
        if self.count > self.limits.entries {
            return Err(Error::Limit {
                limit: "the number of entries of a layer",
                max: self.limits.entries,
            });
        }
        Ok(())
    }

    fn add<B: BufRead, W: Write>(
        &mut self,
        header: Header,
        stream: &mut TarStream<'_, B, W>,
    ) -> Result<(), Error> {
        self.count_entry()?;
        let path = self.clean_path(&header.name)?;
        let kind = kind(&header, &path)?;
        if kind != Kind::File && header.size != 0 {
            return Err(refuse(Rule::Header, &path, "has content and is no regular file").into());
        }
        if header.size > self.limits.file_bytes {
            return Err(Error::Limit {
                limit: "the size of a file in bytes",
                max: self.limits.file_bytes,
            });
        }
        if file_name(&path).starts_with(b".wh.") {
            if !matches!(header.typeflag, b'0' | b'1' | 0) || header.size != 0 {
                return Err(
                    refuse(Rule::Whiteout, &path, "is a whiteout and no empty file").into(),
                );
            }
            return self.tree.add_whiteout(&path);
        }
        let mut target = if header.typeflag == b'1' {
            Some(self.clean_path(&header.link)?)
        } else {
            None
        };
        match &target {
            Some(target) => self.tree.add_hard_link(&path, target)?,
            None => self.tree.add(&path, kind)?,
        }
        if kind == Kind::Symlink {
            if header.link.is_empty() {
                return Err(refuse(Rule::Link, &path, "is a symbolic link to nothing").into());
            }
            self.tree.add_symlink_target(&path, &header.link);
            target = Some(resolve(&path, &header.link, b"").unwrap_or_default());
        }
        self.packages
            .add(&path, kind, target.as_deref(), header.size)?;
        self.largest_file_bytes = self.largest_file_bytes.max(header.size);
        stream.skip(header.size)
    }

    /// Cleans a name as Go's `path.Clean` does, and refuses what could lead elsewhere (rule 13).
    fn clean_path(&self, name: &[u8]) -> Result<Vec<u8>, Error> {
        if name.is_empty() {
            return Err(LayerRefusal::new(Rule::Name, "an entry has no name").into());
        }
        if name.contains(&0) {
            return Err(refuse(Rule::Name, name, "has a NUL in its name").into());
        }
        if name.len() > self.limits.path_bytes {
            return Err(Error::Limit {
                limit: "the length of a name in bytes",
                max: self.limits.path_bytes as u64,
            });
        }
        let mut clean = Vec::with_capacity(name.len());
        let mut depth = 0;
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(refuse(Rule::Name, name, "has `..` in its name").into()),
                _ => {}
            }
            if depth > 0 {
                clean.push(b'/');
            }
            clean.extend_from_slice(component);
            depth += 1;
        }
        if depth > self.limits.path_depth {
            return Err(Error::Limit {
                limit: "the depth of a name",
                max: self.limits.path_depth as u64,
            });
        }
        Ok(clean)
    }
}

/// Returns the kind that every client gives to an entry (rule 12).
fn kind(header: &Header, path: &[u8]) -> Result<Kind, LayerRefusal> {
    let (kind, mode_type) = match header.typeflag {
        // Go takes a name that ends in a slash for a folder in old archives only.
        0 if header.name.ends_with(b"/") => (Kind::Folder, 0o040_000),
        b'0' | 0 => (Kind::File, 0o100_000),
        b'1' => (Kind::HardLink, 0),
        b'2' => (Kind::Symlink, 0o120_000),
        b'3' => (Kind::Special, 0o020_000),
        b'4' => (Kind::Special, 0o060_000),
        b'5' => (Kind::Folder, 0o040_000),
        b'6' => (Kind::Special, 0o010_000),
        other => {
            return Err(refuse(
                Rule::EntryType,
                path,
                &format!("is of type `{}`", Escaped(&[other])),
            ));
        }
    };
    // Scanners believe the type in the mode, clients the one of the entry.
    let in_mode = header.mode & !0o7777;
    if in_mode != 0 && in_mode != mode_type && (kind != Kind::HardLink || in_mode > 0o170_000) {
        return Err(refuse(
            Rule::Header,
            path,
            "has a mode of another type than its own",
        ));
    }
    if matches!(header.typeflag, b'3' | b'4') {
        check_device(header, path)?;
    }
    if path.is_empty() && kind != Kind::Folder {
        return Err(LayerRefusal::new(Rule::Name, "the root is no folder"));
    }
    Ok(kind)
}

/// Refuses device numbers that are a whiteout of overlayfs, or become one when they are cut to
/// what the kernel takes: 12 bits and 20 bits.
fn check_device(header: &Header, path: &[u8]) -> Result<(), LayerRefusal> {
    let (major, minor) = header.device;
    if !(0..=0xfff).contains(&major) || !(0..=0xf_ffff).contains(&minor) {
        return Err(refuse(
            Rule::Device,
            path,
            "has device numbers that do not fit",
        ));
    }
    if header.typeflag == b'3' && (major, minor) == (0, 0) {
        return Err(refuse(
            Rule::Device,
            path,
            "is the character device 0:0, a whiteout of overlayfs",
        ));
    }
    Ok(())
}

/// Puts extended headers over a header, where all readers agree on how.
fn apply(mut header: Header, pending: Pending) -> Result<Header, LayerRefusal> {
    let extended = pending.extended.unwrap_or_default();
    let twice = |what: &str| {
        LayerRefusal::new(
            Rule::ExtendedHeader,
            format!("an entry has its {what} in two extended headers"),
        )
    };
    header.name = match (extended.path, pending.long_name) {
        (Some(_), Some(_)) => return Err(twice("name")),
        (Some(name), None) | (None, Some(name)) => name,
        (None, None) => header.name,
    };
    header.link = match (extended.linkpath, pending.long_link) {
        (Some(_), Some(_)) => return Err(twice("link")),
        (Some(link), None) | (None, Some(link)) => link,
        (None, None) => header.link,
    };
    if let Some(size) = extended.size {
        if header.size != 0 && header.size != size {
            return Err(LayerRefusal::new(
                Rule::ExtendedHeader,
                format!("an entry has two sizes, {} and {size}", header.size),
            ));
        }
        header.size = size;
    }
    Ok(header)
}

/// Reads the content of a GNU long name: a string, and NULs to its end.
fn long_string(content: &[u8]) -> Result<Vec<u8>, LayerRefusal> {
    let length = content
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(content.len());
    let (text, rest) = content.split_at(length);
    if text.is_empty() || rest.iter().any(|byte| *byte != 0) {
        return Err(LayerRefusal::new(
            Rule::ExtendedHeader,
            "a GNU long name is empty or goes on behind a NUL",
        ));
    }
    Ok(text.to_vec())
}
