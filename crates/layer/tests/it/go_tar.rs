//! A tar reader that works as Go's `archive/tar`, the one of containerd, Docker, podman and Trivy.
//!
//! It is lenient where Go is, so that it shows what a client would do with an input that the strict
//! reader refuses.

use std::collections::BTreeMap;

/// An entry as Go gives it to its caller.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) typeflag: u8,
    pub(crate) mode: i64,
    pub(crate) device: (i64, i64),
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Reads all entries, and how many bytes of the tar were read.
pub(crate) fn read(tar: &[u8]) -> Result<Vec<Entry>, String> {
    let mut reader = Reader { tar, at: 0 };
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        entries.push(entry);
    }
    Ok(entries)
}

struct Reader<'a> {
    tar: &'a [u8],
    at: usize,
}

struct Header {
    entry: Entry,
    size: i64,
}

impl<'a> Reader<'a> {
    /// Reads a block; a part of one is an error, none is the end.
    fn block(&mut self) -> Result<Option<&'a [u8]>, String> {
        let rest = &self.tar[self.at.min(self.tar.len())..];
        if rest.is_empty() {
            return Ok(None);
        }
        let block = rest.get(..512).ok_or("unexpected EOF")?;
        self.at += 512;
        Ok(Some(block))
    }

    fn next(&mut self) -> Result<Option<Entry>, String> {
        let (mut records, mut name, mut link) = (BTreeMap::new(), Vec::new(), Vec::new());
        loop {
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            if block.iter().all(|byte| *byte == 0) {
                return match self.block()? {
                    None => Ok(None),
                    Some(block) if block.iter().all(|byte| *byte == 0) => Ok(None),
                    Some(_) => Err("zero block and then a header".to_owned()),
                };
            }
            let mut header = header(block)?;
            match header.entry.typeflag {
                b'x' => records = pax(&self.content(header.size)?)?,
                b'g' => {
                    let records = pax(&self.content(header.size)?)?;
                    if let Some(path) = records.get(&b"path"[..]).filter(|path| !path.is_empty()) {
                        header.entry.name.clone_from(path);
                    }
                    return Ok(Some(header.entry));
                }
                b'L' => name = string(&self.content(header.size)?).to_vec(),
                b'K' => link = string(&self.content(header.size)?).to_vec(),
                _ => {
                    merge(&mut header, &records)?;
                    if !name.is_empty() {
                        header.entry.name = name;
                    }
                    if !link.is_empty() {
                        header.entry.link = link;
                    }
                    if header.entry.typeflag == 0 {
                        let old_folder = header.entry.name.ends_with(b"/");
                        header.entry.typeflag = if old_folder { b'5' } else { b'0' };
                    }
                    let header_only = matches!(header.entry.typeflag, b'1'..=b'6');
                    let size = if header_only { 0 } else { header.size };
                    header.entry.content = self.content(size)?;
                    if let Some(sparse) = records.get(&b"GNU.sparse.name"[..]) {
                        header.entry.name.clone_from(sparse);
                    }
                    return Ok(Some(header.entry));
                }
            }
        }
    }

    fn content(&mut self, size: i64) -> Result<Vec<u8>, String> {
        let size = usize::try_from(size).map_err(|_| "negative size")?;
        let end = self.at.checked_add(size).ok_or("size overflow")?;
        let content = self.tar.get(self.at..end).ok_or("unexpected EOF")?;
        self.at = end.next_multiple_of(512);
        Ok(content.to_vec())
    }
}

fn header(block: &[u8]) -> Result<Header, String> {
    let stored = octal(&block[148..156])?;
    let bytes = || {
        let padded = block.iter().enumerate();
        padded.map(|(at, byte)| {
            if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            }
        })
    };
    if stored != bytes().map(i64::from).sum::<i64>()
        && stored
            != bytes()
                .map(|byte| i64::from(byte.cast_signed()))
                .sum::<i64>()
    {
        return Err("checksum".to_owned());
    }
    let mut name = string(&block[..100]).to_vec();
    let (magic, version) = (&block[257..263], &block[263..265]);
    let star = magic == b"ustar\0" && &block[508..512] == b"tar\0";
    let ustar = magic == b"ustar\0";
    let gnu = magic == b"ustar " && version == b" \0";
    let mut device = (0, 0);
    if ustar || gnu {
        device = (numeric(&block[329..337])?, numeric(&block[337..345])?);
        let mut prefix = &b""[..];
        if star {
            prefix = string(&block[345..476]);
        } else if ustar {
            prefix = string(&block[345..500]);
        } else {
            let times = [&block[345..357], &block[357..369]];
            if times
                .iter()
                .any(|time| time[0] != 0 && numeric(time).is_err())
            {
                prefix = string(&block[345..500]);
            }
        }
        if !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
    }
    for field in [&block[108..116], &block[116..124], &block[136..148]] {
        numeric(field)?;
    }
    let size = numeric(&block[124..136])?;
    if size < 0 && !matches!(block[156], b'1'..=b'6') {
        return Err("negative size".to_owned());
    }
    Ok(Header {
        size,
        entry: Entry {
            name,
            link: string(&block[157..257]).to_vec(),
            typeflag: block[156],
            mode: numeric(&block[100..108])?,
            device,
            content: Vec::new(),
            xattrs: BTreeMap::new(),
        },
    })
}

fn string(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap()
}

fn numeric(field: &[u8]) -> Result<i64, String> {
    if field[0] & 0x80 == 0 {
        return octal(field);
    }
    let inverted = if field[0] & 0x40 == 0 { 0 } else { 0xff };
    let mut value = 0_u64;
    for (at, byte) in field.iter().enumerate() {
        let byte = byte ^ inverted;
        if value >> 56 > 0 {
            return Err("number overflow".to_owned());
        }
        value = value << 8 | u64::from(if at == 0 { byte & 0x7f } else { byte });
    }
    let value = i64::try_from(value).map_err(|_| "number overflow")?;
    Ok(if inverted == 0 { value } else { !value })
}

fn octal(field: &[u8]) -> Result<i64, String> {
    let is_padding = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(start) = field.iter().position(|byte| !is_padding(byte)) else {
        return Ok(0);
    };
    let end = field.iter().rposition(|byte| !is_padding(byte)).unwrap() + 1;
    let text = std::str::from_utf8(string(&field[start..end])).map_err(|_| "octal")?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("octal".to_owned());
    }
    u64::from_str_radix(text, 8)
        .map(u64::cast_signed)
        .map_err(|_| "octal".to_owned())
}

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Reads records; the last of a key wins.
fn pax(mut text: &[u8]) -> Result<Records, String> {
    let mut records = Records::new();
    if text.len() > 1 << 20 {
        return Err("extended header too large".to_owned());
    }
    while !text.is_empty() {
        let bad = "extended header";
        let space = text.iter().position(|byte| *byte == b' ').ok_or(bad)?;
        let length = std::str::from_utf8(&text[..space]).map_err(|_| bad)?;
        let length: usize = length.parse().map_err(|_| bad)?;
        if length < 5 || length > text.len() || length < space + 2 {
            return Err(bad.to_owned());
        }
        let (record, rest) = (&text[space + 1..length - 1], &text[length..]);
        if text[length - 1] != b'\n' {
            return Err(bad.to_owned());
        }
        text = rest;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let is_name = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
        if key.is_empty() || if is_name { value } else { key }.contains(&0) {
            return Err(bad.to_owned());
        }
        records.insert(key.to_vec(), value.to_vec());
    }
    Ok(records)
}

fn merge(header: &mut Header, records: &Records) -> Result<(), String> {
    for (key, value) in records.iter().filter(|(_, value)| !value.is_empty()) {
        let integer = || {
            let text = std::str::from_utf8(value).map_err(|_| "integer")?;
            text.parse::<i64>().map_err(|_| "integer")
        };
        match key.as_slice() {
            b"path" => header.entry.name.clone_from(value),
            b"linkpath" => header.entry.link.clone_from(value),
            b"size" => header.size = integer()?,
            b"uid" | b"gid" => {
                integer()?;
            }
            b"mtime" | b"atime" | b"ctime" => {
                let text = std::str::from_utf8(value).map_err(|_| "time")?;
                let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
                seconds.parse::<i64>().map_err(|_| "time")?;
                if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err("time".to_owned());
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    header.entry.xattrs.insert(name.to_vec(), value.clone());
                }
            }
        }
    }
    if header.size < 0 && !matches!(header.entry.typeflag, b'1'..=b'6') {
        return Err("negative size".to_owned());
    }
    Ok(())
}
