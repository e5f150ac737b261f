//! How layers are compressed, and how they can be compressed so that readers disagree.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use flate2::read::MultiGzDecoder;

use super::archive::{Archive, Entry};
pub use crate::image::gzip;
use crate::tool;

/// The largest block of a zstd frame.
const ZSTD_BLOCK: usize = 128 << 10;

/// Packs bytes as a zstd frame whose blocks are not compressed.
///
/// RFC 8878, section 3.1.1: one segment with its size in four bytes, no checksum, raw blocks.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    let mut blocks = bytes.chunks(ZSTD_BLOCK).peekable();
    if blocks.peek().is_none() {
        frame.extend([1, 0, 0]);
    }
    while let Some(block) = blocks.next() {
        let is_last = u32::from(blocks.peek().is_none());
        let header = (u32::try_from(block.len()).unwrap() << 3) | is_last;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(block);
    }
    frame
}

/// Makes a frame that readers of zstd skip.
pub fn skippable(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_le_bytes();
    [&[0x50, 0x2a, 0x4d, 0x18], &length[..], content].concat()
}

/// Packs with one of Python's modules, `bz2` or `lzma`.
pub fn python(module: &str, bytes: &[u8]) -> Vec<u8> {
    let script = format!(
        "import sys, {module}; sys.stdout.buffer.write({module}.compress(sys.stdin.buffer.read()))"
    );
    run(Command::new("python3").args(["-c", &script]), bytes)
}

/// Makes a blob that is an archive and a skippable frame with a zstd frame after it.
///
/// The name of the archive's first entry is the header of the skippable frame, whose content is the rest of the archive.
pub fn archive_before_zstd(visible: impl Fn(Archive) -> Archive, hidden: &[u8]) -> Vec<u8> {
    let named = |length: u32| {
        let name = [&[0x50, 0x2a, 0x4d, 0x18], &length.to_le_bytes()[..]].concat();
        visible(Archive::default().entry(&Entry::new(name, b'0'))).finish()
    };
    let length = u32::try_from(named(1).len()).unwrap() - 8;
    [named(length), zstd(hidden)].concat()
}

/// Makes a blob that is an archive, and a gzip member that holds another one.
///
/// The name of the archive's first entry is the header of the member, whose extra field is the rest of the archive.
pub fn archive_before_gzip(visible: impl Fn(Archive) -> Archive, hidden: &[u8]) -> Vec<u8> {
    let named = |length: u16| {
        let header = [0x1f, 0x8b, 8, 4, 1, 1, 1, 1, 0, 255];
        let name = [&header[..], &length.to_le_bytes()].concat();
        visible(Archive::default().entry(&Entry::new(name, b'0'))).finish()
    };
    let length = u16::try_from(named(257).len() - 12).unwrap();
    let member = gzip(hidden);
    // A member without a name or extra field has a header of ten bytes.
    [&named(length)[..], &member[10..]].concat()
}

/// Unpacks a blob as every client does whose reading of it is not refused.
pub fn unpack(blob: &[u8]) -> Vec<u8> {
    if blob.starts_with(&[0x1f, 0x8b]) {
        let mut bytes = Vec::new();
        MultiGzDecoder::new(blob).read_to_end(&mut bytes).unwrap();
        bytes
    } else if blob.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        run(
            Command::new(tool("zstd")).args(["--decompress", "--stdout"]),
            blob,
        )
    } else {
        blob.to_vec()
    }
}

/// Runs a program with something to read, and returns what it wrote.
fn run(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        output.stdout
    })
}

/// Packs bytes as `bgzip` does: members that tell their length in an extra field, and an empty one at the end.
pub fn blocked_gzip(bytes: &[u8]) -> Vec<u8> {
    let member = |bytes: &[u8]| {
        let plain = gzip(bytes);
        let length = u16::try_from(plain.len() + 8 - 1).unwrap();
        let header = [
            0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 6, 0, b'B', b'C', 2, 0,
        ];
        [&header[..], &length.to_le_bytes(), &plain[10..]].concat()
    };
    let mut blob: Vec<u8> = bytes.chunks(1_000).flat_map(member).collect();
    blob.extend(member(b""));
    blob
}
