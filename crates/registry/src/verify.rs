//! A stream that holds its last chunk back until length and digest are right.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use sluice_domain::Digest;
use thiserror::Error;

/// Why a body was not finished.
#[derive(Debug, Error)]
pub(crate) enum Broken {
    #[error("the source broke off")]
    Source(#[source] reqwest::Error),
    #[error("the source sent {got} bytes instead of {want}")]
    Length { got: u64, want: u64 },
    #[error("the bytes have digest `{got}` instead of `{want}`")]
    Digest { got: Digest, want: Digest },
}

/// Passes bytes on; a body with wrong content ends in an error and is never complete.
pub(crate) struct Verified<S> {
    inner: S,
    hash: Sha256,
    held: Option<Bytes>,
    seen: u64,
    size: u64,
    digest: Digest,
    ended: bool,
}

impl<S> Verified<S> {
    pub(crate) fn new(inner: S, digest: Digest, size: u64) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            held: None,
            seen: 0,
            size,
            digest,
            ended: false,
        }
    }

    fn check(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.seen != self.size {
            return Err(Broken::Length {
                got: self.seen,
                want: self.size,
            });
        }
        let hash = std::mem::take(&mut self.hash).finalize();
        match format!("sha256:{}", hex::encode(hash)).parse() {
            Ok(got) if got != self.digest => Err(Broken::Digest {
                got,
                want: self.digest.clone(),
            }),
            Ok(_) => Ok(self.held.take()),
            Err(_) => Err(Broken::Length {
                got: self.seen,
                want: self.size,
            }),
        }
    }
}

impl<S: Stream<Item = reqwest::Result<Bytes>> + Unpin> Stream for Verified<S> {
    type Item = Result<Bytes, Broken>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(self.inner.poll_next_unpin(context)) {
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => {
                    self.seen = self
                        .seen
                        .saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
                    if self.seen > self.size {
                        self.ended = true;
                        return Poll::Ready(Some(Err(Broken::Length {
                            got: self.seen,
                            want: self.size,
                        })));
                    }
                    self.hash.update(&chunk);
                    if let Some(previous) = self.held.replace(chunk) {
                        return Poll::Ready(Some(Ok(previous)));
                    }
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(Broken::Source(error.without_url()))));
                }
                None => {
                    self.ended = true;
                    return Poll::Ready(self.check().transpose());
                }
            }
        }
    }
}
