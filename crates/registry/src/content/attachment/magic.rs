//! Detects archives, compressed streams and file systems, which a client could unpack or mount.

/// The magic bytes of such files with their offset, and the name of the format.
const MAGIC: [(usize, &[u8], &str); 23] = [
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\x1f\x9d", "compress"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x5d\0\0", "lzma"),
    (0, b"LZIP", "lzip"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"PK\x07\x08", "zip"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!\x1a\x07", "rar"),
    (0, b"07070", "cpio"),
    (0, b"\xc7\x71", "cpio"),
    (0, b"\x71\xc7", "cpio"),
    (0, b"!<arch>\n", "ar"),
    (0, b"hsqs", "squashfs"),
    (0, b"sqsh", "squashfs"),
    (0, b"XFSB", "xfs"),
    (257, b"ustar", "tar"),
    (1_024, b"\xe2\xe1\xf5\xe0", "erofs"),
    (1_080, b"\x53\xef", "ext"),
];

/// The size of a header of tar, and where in it the checksum is.
const TAR_HEADER: usize = 512;
const TAR_CHECKSUM: std::ops::Range<usize> = 148..156;

/// Returns the name of the archive, compressed stream or file system that some bytes start with.
pub(crate) fn detect_unpackable(bytes: &[u8]) -> Option<&'static str> {
    let begins = |(offset, magic, _): &&(usize, &[u8], &str)| {
        bytes
            .get(*offset..)
            .is_some_and(|rest| rest.starts_with(magic))
    };
    if let Some((_, _, name)) = MAGIC.iter().find(begins) {
        return Some(name);
    }
    if is_skippable_frame(bytes) {
        return Some("zstd");
    }
    is_tar_header(bytes).then_some("tar")
}

/// Returns whether the bytes start with a skippable frame of zstd (RFC 8878, 3.1.2).
fn is_skippable_frame(bytes: &[u8]) -> bool {
    matches!(bytes, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Returns whether the bytes start with a tar header, by its checksum: the oldest form has no magic, and may be plain text.
fn is_tar_header(bytes: &[u8]) -> bool {
    let Some(header) = bytes.get(..TAR_HEADER) else {
        return false;
    };
    let Some(stated) = header.get(TAR_CHECKSUM).and_then(octal) else {
        return false;
    };
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (index, byte) in header.iter().enumerate() {
        let byte = if TAR_CHECKSUM.contains(&index) {
            b' '
        } else {
            *byte
        };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    stated == unsigned || stated == signed
}

/// Parses a number as tar readers do: octal digits among spaces and zero bytes.
fn octal(field: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches([' ', '\0']);
    let digits = digits.split(['\0', ' ']).next()?;
    i64::from_str_radix(digits, 8).ok()
}

/// Makes text that is JSON for some parsers and a tar header for every tar reader: the oldest tar has no magic, and may
/// have spaces instead of zero bytes.
#[cfg(test)]
pub(crate) fn json_that_is_a_tar(members: &str) -> Vec<u8> {
    let mut text = format!("{{{members},\"x\":\"").into_bytes();
    assert!(text.len() < 100);
    text.resize(100, b'/');
    for field in [
        "0000644 ",
        "0000000 ",
        "0000000 ",
        "00000000000 ",
        "00000000000 ",
    ] {
        text.extend(field.bytes());
    }
    text.extend(b"        0");
    text.resize(TAR_HEADER - 2, b' ');
    text.extend(b"\"}");
    let sum: u32 = text.iter().map(|byte| u32::from(*byte)).sum();
    text.splice(TAR_CHECKSUM, format!("{sum:06o}  ").bytes());
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tar_of_the_first_form_that_is_text_is_found_by_its_checksum() {
        let both = json_that_is_a_tar(r#""_type":"https://in-toto.io/Statement/v1""#);
        serde_json::from_slice::<serde_json::Value>(&both).unwrap();
        assert_eq!(detect_unpackable(&both), Some("tar"));
        let mut changed = both;
        changed[0] = b' ';
        assert_eq!(detect_unpackable(&changed), None);
    }

    #[test]
    fn every_magic_is_found_and_text_has_none() {
        for (offset, magic, name) in MAGIC {
            let mut bytes = vec![b' '; offset];
            bytes.extend(magic);
            assert_eq!(detect_unpackable(&bytes), Some(name));
        }
        for first in 0x50..=0x5f {
            assert_eq!(
                detect_unpackable(&[first, 0x2a, 0x4d, 0x18, 0]),
                Some("zstd")
            );
        }
        for text in [
            "",
            "{}",
            r#"{"_type":"x"}"#,
            "SPDXVersion: SPDX-2.3\n",
            "<?xml",
        ] {
            assert_eq!(detect_unpackable(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..1_200)) {
            detect_unpackable(&bytes);
        }
    }
}
