//! Writes tars and blobs, well formed or not: every field of a header can be set.

use std::io::Write as _;

use sha2::{Digest as _, Sha256};

/// One entry of a tar, written as it stands.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) name: Vec<u8>,
    pub(crate) prefix: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) typeflag: u8,
    pub(crate) mode: u64,
    pub(crate) size: Vec<u8>,
    pub(crate) mtime: Vec<u8>,
    pub(crate) magic: [u8; 8],
    pub(crate) device: (u64, u64),
    pub(crate) content: Vec<u8>,
    /// Written as the header's last bytes.
    pub(crate) trailer: [u8; 4],
    pub(crate) sum: Sum,
}

/// How the checksum of a header is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sum {
    Unsigned,
    Signed,
    Wrong,
}

pub(crate) const USTAR: [u8; 8] = *b"ustar\x0000";
pub(crate) const GNU: [u8; 8] = *b"ustar  \0";
pub(crate) const V7: [u8; 8] = [0; 8];

impl Raw {
    pub(crate) fn new(typeflag: u8, name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref().to_vec();
        Self {
            name: name.as_ref().to_vec(),
            prefix: Vec::new(),
            link: Vec::new(),
            typeflag,
            mode: if typeflag == b'5' { 0o755 } else { 0o644 },
            size: octal(content.len() as u64, 12),
            mtime: octal(1_700_000_000, 12),
            magic: USTAR,
            device: (0, 0),
            content,
            trailer: [0; 4],
            sum: Sum::Unsigned,
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut block = [0_u8; 512];
        put(&mut block, 0, 100, &self.name);
        put(&mut block, 100, 8, &octal(self.mode, 8));
        put(&mut block, 108, 8, &octal(0, 8));
        put(&mut block, 116, 8, &octal(0, 8));
        put(&mut block, 124, 12, &self.size);
        put(&mut block, 136, 12, &self.mtime);
        block[156] = self.typeflag;
        put(&mut block, 157, 100, &self.link);
        put(&mut block, 257, 8, &self.magic);
        if self.magic != V7 {
            put(&mut block, 329, 8, &octal(self.device.0, 8));
            put(&mut block, 337, 8, &octal(self.device.1, 8));
            put(&mut block, 345, 155, &self.prefix);
        }
        put(&mut block, 508, 4, &self.trailer);
        put(&mut block, 148, 8, b"        ");
        let sum: i64 = match self.sum {
            Sum::Unsigned => block.iter().map(|byte| i64::from(*byte)).sum(),
            Sum::Signed => block.iter().map(|byte| i64::from(byte.cast_signed())).sum(),
            Sum::Wrong => 1,
        };
        put(&mut block, 148, 8, format!("{sum:06o}\0 ").as_bytes());
        let mut bytes = block.to_vec();
        bytes.extend_from_slice(&self.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

fn put(block: &mut [u8], offset: usize, length: usize, value: &[u8]) {
    let length = length.min(value.len());
    block[offset..offset + length].copy_from_slice(&value[..length]);
}

/// Octal digits and a NUL.
pub(crate) fn octal(value: u64, length: usize) -> Vec<u8> {
    format!("{value:0width$o}\0", width = length - 1).into_bytes()
}

/// Base 256, as GNU tar writes large numbers.
pub(crate) fn base256(value: i64, length: usize) -> Vec<u8> {
    let mut bytes = vec![if value < 0 { 0xff } else { 0 }; length - 8];
    bytes.extend_from_slice(&value.to_be_bytes());
    bytes[0] |= 0x80;
    bytes
}

pub(crate) fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Raw {
    Raw::new(b'0', name, content)
}

pub(crate) fn folder(name: impl AsRef<[u8]>) -> Raw {
    Raw::new(b'5', name, b"")
}

pub(crate) fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Raw {
    Raw {
        link: target.as_ref().to_vec(),
        ..Raw::new(b'2', name, b"")
    }
}

pub(crate) fn hard_link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Raw {
    Raw {
        typeflag: b'1',
        ..symlink(name, target)
    }
}

pub(crate) fn device(typeflag: u8, name: impl AsRef<[u8]>, device: (u64, u64)) -> Raw {
    Raw {
        device,
        ..Raw::new(typeflag, name, b"")
    }
}

/// An extended header with these records; `typeflag` is `x` or `g`.
pub(crate) fn pax(typeflag: u8, records: &[(&str, &[u8])]) -> Raw {
    let mut content = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        content.extend_from_slice(format!("{length} {key}=").as_bytes());
        content.extend_from_slice(value);
        content.push(b'\n');
    }
    let name = if typeflag == b'g' {
        "pax_global_header"
    } else {
        "PaxHeaders.0/x"
    };
    Raw::new(typeflag, name, content)
}

/// A GNU long name (`L`) or long link (`K`).
pub(crate) fn long(typeflag: u8, value: &[u8]) -> Raw {
    let content = [value, b"\0"].concat();
    Raw {
        magic: GNU,
        ..Raw::new(typeflag, "././@LongLink", content)
    }
}

/// The entries without an end.
pub(crate) fn open_tar(entries: &[Raw]) -> Vec<u8> {
    entries.iter().flat_map(Raw::bytes).collect()
}

/// The entries, and two blocks of zeros.
pub(crate) fn tar(entries: &[Raw]) -> Vec<u8> {
    let mut bytes = open_tar(entries);
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// A member of gzip, stored or deflated.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A member of gzip with an extra field.
pub(crate) fn gzip_extra(bytes: &[u8], extra: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::GzBuilder::new()
        .extra(extra)
        .write(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A frame of zstd with a checksum.
pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A skippable frame of zstd.
pub(crate) fn skippable(content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x50, 0x2a, 0x4d, 0x18];
    bytes.extend_from_slice(&u32::try_from(content.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(content);
    bytes
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
