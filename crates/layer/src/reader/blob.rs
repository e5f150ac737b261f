//! The bytes of a blob, counted and hashed on their way to the decoder.

use std::io::{self, BufRead, Read};

use sha2::{Digest as _, Sha256};
use sluice_domain::Digest;

use crate::error::{Error, LayerRefusal, Rule};
use crate::summary::LayerDescriptor;

/// Bytes that are asked for at once.
const BUFFER_BYTES: usize = 128 * 1024;

/// Reads a blob of a known size and remembers why it failed.
pub(crate) struct BlobReader<R> {
    source: R,
    hasher: Sha256,
    size_bytes: u64,
    read_bytes: u64,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    at_end: bool,
    has_excess: bool,
    failure: Option<io::Error>,
}

impl<R: Read> BlobReader<R> {
    pub(crate) fn new(source: R, size_bytes: u64) -> Self {
        Self {
            source,
            hasher: Sha256::new(),
            size_bytes,
            read_bytes: 0,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            at_end: false,
            has_excess: false,
            failure: None,
        }
    }

    /// Returns the first bytes without consuming them: fewer than asked for only if the blob ends.
    pub(crate) fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        while self.end - self.start < count && !self.at_end {
            self.read_more()?;
        }
        let window = self.buffer.get(self.start..self.end).unwrap_or_default();
        Ok(window.get(..count.min(window.len())).unwrap_or_default())
    }

    /// Reads once from the source, behind what is in the buffer.
    fn read_more(&mut self) -> io::Result<()> {
        if self.failure.is_some() {
            return Err(io::Error::other("the blob could not be read"));
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let count = loop {
            match self.source.read(room) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failure = Some(error);
                    return Err(io::Error::other("the blob could not be read"));
                }
            }
        };
        let Some(bytes) = room.get(..count).filter(|bytes| !bytes.is_empty()) else {
            self.at_end = true;
            return Ok(());
        };
        self.hasher.update(bytes);
        self.read_bytes = self.read_bytes.saturating_add(bytes.len() as u64);
        if self.read_bytes > self.size_bytes {
            self.has_excess = true;
            self.at_end = true;
            return Err(io::Error::other(
                "the blob is longer than its descriptor says",
            ));
        }
        self.end += count;
        Ok(())
    }

    /// Reads the rest, and checks size and digest of the blob.
    ///
    /// `outcome` is what the decoder made of the bytes; it counts only if they are the right ones.
    pub(crate) fn finish<T>(
        mut self,
        descriptor: &LayerDescriptor,
        outcome: Result<T, Error>,
    ) -> Result<T, Error> {
        if let Err(error @ (Error::Output(_) | Error::Source(_))) = outcome {
            return Err(error);
        }
        while !self.at_end {
            (self.start, self.end) = (0, 0);
            if self.read_more().is_err() {
                break; // The reason is in `failure` or `has_excess`.
            }
        }
        if let Some(failure) = self.failure {
            return Err(Error::Source(failure));
        }
        let expected = descriptor.size_bytes;
        if self.has_excess {
            return Err(LayerRefusal::new(
                Rule::Size,
                format!("the blob is longer than the {expected} bytes of its descriptor"),
            )
            .into());
        }
        let actual = digest(self.hasher);
        if actual != descriptor.digest.as_str() {
            return Err(Error::WrongBytes {
                expected: descriptor.digest.clone(),
                actual: actual
                    .parse::<Digest>()
                    .unwrap_or_else(|_| descriptor.digest.clone()),
                size_bytes: self.read_bytes,
            });
        }
        if self.read_bytes != expected {
            return Err(LayerRefusal::new(
                Rule::Size,
                format!(
                    "the blob has {} bytes, and its descriptor says {expected}",
                    self.read_bytes
                ),
            )
            .into());
        }
        outcome
    }
}

/// Returns a digest as it is written in manifests.
pub(crate) fn digest(hasher: Sha256) -> String {
    format!("sha256:{}", hex::encode(hasher.finalize()))
}

impl<R: Read> Read for BlobReader<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let count = from.len().min(to.len());
        if let (Some(to), Some(from)) = (to.get_mut(..count), from.get(..count)) {
            to.copy_from_slice(from);
        }
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> BufRead for BlobReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end && !self.at_end {
            self.read_more()?;
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }
}
