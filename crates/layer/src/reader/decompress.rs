//! Which compression a blob has, and its strict decoding (rules 8 to 10).

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

use crate::error::{LayerRefusal, Rule};
use crate::layer_type::{Compression, LayerType};

/// What a stream begins with, as far as any client looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Magic {
    /// `1f 8b 08`: gzip with deflate, which all clients look for.
    Gzip,
    /// `1f 8b` and another method: Trivy takes it for gzip, the others do not.
    OtherGzip,
    Zstd,
    /// `5[0-f] 2a 4d 18`: skippable frames of zstd.
    Skippable,
    Bzip2,
    Xz,
}

/// How many bytes tell what a stream is.
pub(crate) const MAGIC_BYTES: usize = 6;

impl Magic {
    fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x1f, 0x8b, 0x08, ..] => Some(Self::Gzip),
            [0x1f, 0x8b, ..] => Some(Self::OtherGzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Skippable),
            [b'B', b'Z', b'h', ..] => Some(Self::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            _ => None,
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::OtherGzip => "gzip of another method than deflate",
            Self::Zstd => "zstd",
            Self::Skippable => "a skippable frame of zstd",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
        }
    }
}

/// Returns the compression that every client detects in a blob with these first bytes (rule 8).
pub(crate) fn compression(
    layer_type: LayerType,
    first: &[u8],
) -> Result<Compression, LayerRefusal> {
    let refuse = |detail: String| Err(LayerRefusal::new(Rule::Compression, detail));
    match Magic::of(first) {
        None => Ok(Compression::None),
        Some(magic) if layer_type.is_never_decompressed() => refuse(format!(
            "the blob of an uncompressed type begins as {}",
            magic.describe()
        )),
        Some(Magic::Gzip) => Ok(Compression::Gzip),
        Some(Magic::Zstd) => Ok(Compression::Zstd),
        Some(magic) => refuse(format!("the blob begins as {}", magic.describe())),
    }
}

/// Refuses a tar that a program would decompress once more (rule 9).
pub(crate) fn check_tar_start(first: &[u8]) -> Result<(), LayerRefusal> {
    match Magic::of(first) {
        None => Ok(()),
        Some(magic) => Err(LayerRefusal::new(
            Rule::NestedCompression,
            format!("the unpacked layer begins as {}", magic.describe()),
        )),
    }
}

/// Decodes a blob to its end: all members or frames, their checksums, and nothing after the last.
pub(crate) enum Decoder<'a, B: BufRead> {
    Plain(B),
    Gzip(Box<MultiGzDecoder<B>>),
    Zstd(Box<zstd::stream::read::Decoder<'a, B>>),
}

impl<B: BufRead> Decoder<'_, B> {
    pub(crate) fn new(blob: B, compression: Compression, window_log: u32) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(blob),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(blob))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(blob)?;
                decoder.window_log_max(window_log)?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }

    /// Turns an error of the decoder into what is wrong with the blob.
    pub(crate) fn refuse(&self, error: &io::Error) -> LayerRefusal {
        let what = match self {
            Self::Plain(_) => "tar",
            Self::Gzip(_) => "gzip",
            Self::Zstd(_) => "zstd",
        };
        let detail = match error.kind() {
            io::ErrorKind::UnexpectedEof => format!("the {what} stream is cut"),
            io::ErrorKind::InvalidInput if matches!(self, Self::Gzip(_)) => {
                "bytes follow the last gzip member, or a gzip header is damaged".to_owned()
            }
            _ => format!("the {what} stream is damaged, or bytes follow it: {error}"),
        };
        LayerRefusal::new(Rule::Framing, detail)
    }
}

impl<B: BufRead> Read for Decoder<'_, B> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(blob) => blob.read(to),
            Self::Gzip(decoder) => decoder.read(to),
            Self::Zstd(decoder) => decoder.read(to),
        }
    }
}
