//! A stream that holds its last chunk back until length and digest are verified.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use sluice_domain::Digest;

use crate::error::Error;

/// Passes bytes on; a body with wrong content ends in an error and is never complete.
pub(crate) struct VerifiedStream<S> {
    inner: S,
    hash: Sha256,
    held: Option<Bytes>,
    received: u64,
    size: u64,
    digest: Digest,
    is_ended: bool,
    /// Set once all bytes were verified.
    is_verified: Arc<AtomicBool>,
}

impl<S> VerifiedStream<S> {
    pub(crate) fn new(inner: S, digest: Digest, size: u64) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            held: None,
            received: 0,
            size,
            digest,
            is_ended: false,
            is_verified: Arc::default(),
        }
    }

    /// Returns the flag that is set once all bytes were verified.
    pub(crate) fn is_verified(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_verified)
    }

    fn wrong_length(&self) -> Error {
        let (received, size) = (self.received, self.size);
        Error::untrusted(
            &self.digest,
            format!("the source sent {received} bytes instead of {size}"),
        )
    }

    fn check(&mut self) -> Result<Option<Bytes>, Error> {
        if self.received != self.size {
            return Err(self.wrong_length());
        }
        let hash = hex::encode(std::mem::take(&mut self.hash).finalize());
        if self.digest.as_str() != format!("sha256:{hash}") {
            return Err(Error::untrusted(
                &self.digest,
                format!("the bytes have the digest `sha256:{hash}`"),
            ));
        }
        self.is_verified.store(true, Ordering::Release);
        Ok(self.held.take())
    }
}

impl<S: Stream<Item = Result<Bytes, Error>> + Unpin> Stream for VerifiedStream<S> {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.is_ended {
                return Poll::Ready(None);
            }
            match ready!(self.inner.poll_next_unpin(context)) {
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => {
                    self.received = self
                        .received
                        .saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
                    if self.received > self.size {
                        self.is_ended = true;
                        return Poll::Ready(Some(Err(self.wrong_length())));
                    }
                    self.hash.update(&chunk);
                    if let Some(previous) = self.held.replace(chunk) {
                        return Poll::Ready(Some(Ok(previous)));
                    }
                }
                Some(Err(error)) => {
                    self.is_ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.is_ended = true;
                    return Poll::Ready(self.check().transpose());
                }
            }
        }
    }
}
