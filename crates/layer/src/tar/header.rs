//! One header block, read as Go's `archive/tar` does and more strictly.
//!
//! Go's reader is the one of containerd, Docker, podman and Trivy.

use super::stream::BLOCK_BYTES;
use crate::error::{LayerRefusal, Rule};

/// What a header block says.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) typeflag: u8,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) size: u64,
    pub(super) mode: u64,
    /// Major and minor number.
    pub(super) device: (i64, i64),
}

/// The form of a header, by its magic.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    /// POSIX, with a prefix for long names.
    Ustar,
    /// GNU, with times where POSIX has the prefix.
    Gnu,
}

impl Header {
    /// Reads a block that is not zero.
    pub(super) fn parse(block: &[u8; BLOCK_BYTES]) -> Result<Self, LayerRefusal> {
        check_sum(block)?;
        let format = format(block)?;
        let number = |offset, length, what| number(field(block, offset, length), what);
        let mut name = string(field(block, 0, 100)).to_vec();
        let mode = number(100, 8, "mode")?;
        let size = number(124, 12, "size")?;
        for (offset, length, what) in [(108, 8, "uid"), (116, 8, "gid"), (136, 12, "mtime")] {
            number(offset, length, what)?;
        }
        let mut device = (0, 0);
        if format != Format::V7 {
            device = (number(329, 8, "major")?, number(337, 8, "minor")?);
        }
        match format {
            Format::Ustar => {
                let prefix = string(field(block, 345, 155));
                if !prefix.is_empty() {
                    name = [prefix, b"/", &name].concat();
                }
            }
            // Where these are no numbers, Go takes them for a prefix.
            Format::Gnu => {
                for (offset, what) in [(345, "atime"), (357, "ctime")] {
                    if field(block, offset, 1) != [0] {
                        number(offset, 12, what)?;
                    }
                }
            }
            Format::V7 => {}
        }
        Ok(Self {
            typeflag: field(block, 156, 1).first().copied().unwrap_or_default(),
            name,
            link: string(field(block, 157, 100)).to_vec(),
            size: not_negative(size, "size")?,
            mode: not_negative(mode, "mode")?,
            device,
        })
    }
}

fn damaged(detail: impl Into<String>) -> LayerRefusal {
    LayerRefusal::new(Rule::Header, detail)
}

fn field(block: &[u8; BLOCK_BYTES], offset: usize, length: usize) -> &[u8] {
    block.get(offset..offset + length).unwrap_or_default()
}

/// Compares the checksum; old programs added up signed bytes.
fn check_sum(block: &[u8; BLOCK_BYTES]) -> Result<(), LayerRefusal> {
    let stored = octal(field(block, 148, 8), "checksum")?;
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (index, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&index) {
            b' '
        } else {
            *byte
        };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if stored != unsigned && stored != signed {
        return Err(damaged("a header has a wrong checksum"));
    }
    Ok(())
}

fn format(block: &[u8; BLOCK_BYTES]) -> Result<Format, LayerRefusal> {
    match (field(block, 257, 6), field(block, 263, 2)) {
        // star has a shorter prefix.
        (b"ustar\0", _) if field(block, 508, 4) == b"tar\0" => {
            Err(damaged("a header is of the star format"))
        }
        (b"ustar\0", _) => Ok(Format::Ustar),
        (b"ustar ", b" \0") => Ok(Format::Gnu),
        ([0, 0, 0, 0, 0, 0], [0, 0]) => Ok(Format::V7),
        _ => Err(damaged("a header has an unknown magic")),
    }
}

/// The bytes before the first NUL.
fn string(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Reads a number in octal digits, or in base 256 where the first bit is set.
fn number(field: &[u8], what: &str) -> Result<i64, LayerRefusal> {
    let Some(first) = field.first().filter(|byte| **byte & 0x80 != 0) else {
        return octal(field, what);
    };
    // Two's complement with the first bit as mark: bit 6 is the sign.
    let inverted = if first & 0x40 != 0 { 0xff } else { 0x00 };
    let mut value: u64 = 0;
    for (index, byte) in field.iter().enumerate() {
        let byte = byte ^ inverted;
        let byte = if index == 0 { byte & 0x7f } else { byte };
        if value >> 56 != 0 {
            return Err(damaged(format!("the {what} of a header is too large")));
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value)
        .map_err(|_| damaged(format!("the {what} of a header is too large")))?;
    Ok(if inverted == 0 { value } else { !value })
}

/// Reads octal digits with spaces before them, and spaces and NULs behind them.
///
/// No digit at all is 0. What Go and C read in different ways is refused: NULs before the digits,
/// and anything else behind them.
fn octal(field: &[u8], what: &str) -> Result<i64, LayerRefusal> {
    let refused = || damaged(format!("the {what} of a header is no octal number"));
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    let digits = field.trim_ascii_start();
    let length = digits
        .iter()
        .position(|byte| !matches!(byte, b'0'..=b'7'))
        .unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(length);
    if digits.is_empty()
        || field
            .first()
            .is_some_and(|byte| byte.is_ascii_whitespace() && *byte != b' ')
        || rest.iter().any(|byte| !matches!(byte, 0 | b' '))
    {
        return Err(refused());
    }
    digits.iter().try_fold(0_i64, |value, digit| {
        value
            .checked_mul(8)
            .and_then(|value| value.checked_add(i64::from(digit - b'0')))
            .ok_or_else(refused)
    })
}

fn not_negative(value: i64, what: &str) -> Result<u64, LayerRefusal> {
    u64::try_from(value).map_err(|_| damaged(format!("the {what} of a header is negative")))
}
