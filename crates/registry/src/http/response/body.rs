//! Reads a small body, bounded in size and time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use reqwest::Response;
use reqwest::header::CONTENT_ENCODING;

use crate::error::Error;

/// How long a small body may take to arrive, however slowly it is sent.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Reads a body of at most `limit` bytes; a compressed one is refused, since none was requested.
pub(crate) async fn read_body(
    object: &str,
    response: Response,
    limit: usize,
) -> Result<Bytes, Error> {
    let encoding = response.headers().get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let reason = "the answer is compressed, which was not requested";
        return Err(Error::untrusted(object, reason));
    }
    let read = tokio::time::timeout(TIMEOUT, read_limited(object, response, limit));
    read.await.map_err(|_| Error::Stalled {
        object: object.to_owned(),
    })?
}

async fn read_limited(object: &str, response: Response, limit: usize) -> Result<Bytes, Error> {
    let too_large = || Error::untrusted(object, format!("the answer is larger than {limit} bytes"));
    let announced = response.content_length();
    if announced.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > limit))
    {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(Error::transport("read the answer for", object))?;
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
