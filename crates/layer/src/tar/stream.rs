//! The tar of a layer in blocks, hashed and written while its entries are read.

use std::io::{BufRead, Read as _, Write};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, LayerRefusal, Rule};
use crate::limits::Limits;
use crate::reader::blob::digest;
use crate::reader::decompress::Decoder;

/// Bytes of tar that are decoded at once.
const BUFFER_BYTES: usize = 128 * 1024;

/// Bytes of a block of tar.
pub(crate) const BLOCK_BYTES: usize = 512;

/// Reads a tar by blocks; each byte is hashed, counted and written once.
pub(crate) struct TarStream<'a, B: BufRead, W> {
    decoder: Decoder<'a, B>,
    output: W,
    hasher: Sha256,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    at_end: bool,
    read_bytes: u64,
    max_bytes: u64,
    max_ratio_bytes: u64,
}

impl<'a, B: BufRead, W: Write> TarStream<'a, B, W> {
    pub(crate) fn new(
        decoder: Decoder<'a, B>,
        output: W,
        limits: &Limits,
        blob_bytes: u64,
    ) -> Self {
        Self {
            decoder,
            output,
            hasher: Sha256::new(),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            at_end: false,
            read_bytes: 0,
            max_bytes: limits.uncompressed_bytes,
            max_ratio_bytes: blob_bytes
                .saturating_mul(limits.ratio)
                .max(limits.ratio_after_bytes),
        }
    }

    /// Decodes once, behind what is in the buffer.
    fn read_more(&mut self) -> Result<(), Error> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let count = match self.decoder.read(room) {
            Ok(count) => count,
            Err(error) => return Err(self.decoder.refuse(&error).into()),
        };
        let bytes = room.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            self.at_end = true;
            return Ok(());
        }
        self.read_bytes = self.read_bytes.saturating_add(bytes.len() as u64);
        for (limit, max) in [
            ("the size of the unpacked layer in bytes", self.max_bytes),
            (
                "the ratio of unpacked to packed bytes, in unpacked bytes",
                self.max_ratio_bytes,
            ),
        ] {
            if self.read_bytes > max {
                return Err(Error::Limit { limit, max });
            }
        }
        self.hasher.update(bytes);
        self.output.write_all(bytes).map_err(Error::Output)?;
        self.end += count;
        Ok(())
    }

    fn window(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Returns the next bytes without consuming them: fewer than asked for only at the end.
    pub(crate) fn peek(&mut self, count: usize) -> Result<&[u8], Error> {
        while self.end - self.start < count && !self.at_end {
            self.read_more()?;
        }
        let window = self.window();
        Ok(window.get(..count.min(window.len())).unwrap_or_default())
    }

    /// Reads a block, or nothing at the end of the stream.
    pub(crate) fn block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, Error> {
        let bytes = self.peek(BLOCK_BYTES)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let Some(block) = bytes.first_chunk::<BLOCK_BYTES>().copied() else {
            return Err(cut().into());
        };
        self.start += BLOCK_BYTES;
        Ok(Some(block))
    }

    /// Passes over content and the padding after it.
    pub(crate) fn skip(&mut self, content_bytes: u64) -> Result<(), Error> {
        let mut left = padded(content_bytes);
        while left > 0 {
            if self.start == self.end {
                self.read_more()?;
                if self.at_end {
                    return Err(cut().into());
                }
            }
            let count = left.min(self.window().len() as u64);
            left -= count;
            self.start += usize::try_from(count).unwrap_or(usize::MAX);
        }
        Ok(())
    }

    /// Reads content and passes over the padding after it; the caller bounds its size.
    pub(crate) fn content(&mut self, content_bytes: u64) -> Result<Vec<u8>, Error> {
        let mut content = Vec::new();
        let mut left = padded(content_bytes);
        while left > 0 {
            let Some(block) = self.block()? else {
                return Err(cut().into());
            };
            content.extend_from_slice(&block);
            left -= BLOCK_BYTES as u64;
        }
        content.truncate(usize::try_from(content_bytes).unwrap_or(usize::MAX));
        Ok(content)
    }

    /// Reads to the end of the stream, and returns whether all of it is zero.
    pub(crate) fn rest_is_zero(&mut self) -> Result<bool, Error> {
        loop {
            if self.window().iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            self.start = self.end;
            if self.at_end {
                return Ok(true);
            }
            self.read_more()?;
        }
    }

    pub(crate) fn finish(mut self) -> Result<(String, u64), Error> {
        self.output.flush().map_err(Error::Output)?;
        Ok((digest(self.hasher), self.read_bytes))
    }
}

fn padded(content_bytes: u64) -> u64 {
    content_bytes.saturating_add(BLOCK_BYTES as u64 - 1) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64
}

fn cut() -> LayerRefusal {
    LayerRefusal::new(Rule::End, "the tar is cut in the middle of an entry")
}
