//! The upload of a blob: mounted, or sent as a stream that is verified on its way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{Response, StatusCode};
use sluice_domain::{Digest, Repository};
use url::Url;

use crate::client::{Client, STORED, location, object_name};
use crate::content::manifest::descriptor::Descriptor;
use crate::copy::blob_download::BlobDownload;
use crate::copy::verified_stream::VerifiedStream;
use crate::error::Error;
use crate::http::rate_limit::throttle::Waits;

/// How long an upload may send less than `MIN_BYTES`.
const STALL_TIMEOUT: Duration = Duration::from_secs(150);
/// How long a registry may take to store what it has received.
const STORE_TIMEOUT: Duration = Duration::from_secs(600);
/// With fewer bytes in `STALL_TIMEOUT` a source only blocks other transfers.
const MIN_BYTES: u64 = 16 << 10;
/// How long the cancellation of an upload may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
const START: &str = "start the upload of";

/// The response to the start of an upload.
pub(crate) enum Upload {
    /// The registry mounted the blob from another repository.
    Mounted,
    /// The blob is to be sent to this URL.
    At(Url),
}

impl Client {
    /// Starts an upload, or requests a mount from another repository, whose response may be an upload too.
    pub(crate) async fn start_upload(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: Option<&Repository>,
    ) -> Result<Upload, Error> {
        let object = object_name(repository, digest);
        let mut url = self.url(&format!("{repository}/blobs/uploads/"))?;
        let mut scopes = vec![format!("repository:{repository}:pull,push")];
        if let Some(from) = from {
            url.query_pairs_mut()
                .append_pair("mount", digest.as_str())
                .append_pair("from", from.as_str());
            if from != repository {
                scopes.push(format!("repository:{from}:pull"));
            }
        }
        let request = |http: &reqwest::Client| http.post(url.clone()).header(CONTENT_LENGTH, 0);
        let response = self.send(START, &object, &scopes, request).await?;
        let response = self
            .expect_status(START, &object, response, &[201, 202])
            .await?;
        if response.status() == 201 {
            return Ok(Upload::Mounted);
        }
        let upload = location(&object, &url, &response)?;
        if !self.is_own(&upload) {
            return Err(Error::untrusted(object, "its upload leads to another host"));
        }
        Ok(Upload::At(upload))
    }

    /// Sends a blob to the URL of its upload.
    pub(crate) async fn upload_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        mut url: Url,
        download: BlobDownload,
    ) -> Result<(), Error> {
        let object = object_name(repository, &blob.digest);
        url.query_pairs_mut()
            .append_pair("digest", blob.digest.as_str());
        let sent = download.offset();
        // With a bandwidth limit a few bytes may be all that it allows.
        let least = if download.has_bandwidth_limit() {
            1
        } else {
            MIN_BYTES
        };
        let stream = download.into_stream().boxed();
        let mut verified = VerifiedStream::new(stream, blob.digest.clone(), blob.size);
        let is_verified = verified.is_verified();
        // reqwest does not poll a body without bytes.
        if blob.size == 0 {
            while let Some(chunk) = verified.next().await {
                chunk?;
            }
        }
        // reqwest turns the error of a body into text, so it is kept here.
        let body_error: Arc<Mutex<Option<Error>>> = Arc::default();
        let kept_error = Arc::clone(&body_error);
        let body = verified.map(move |chunk| {
            chunk.map_err(|error| {
                let text = error.to_string();
                *kept_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                text
            })
        });
        let (connection, authenticator) = (&self.shared.connection, &self.shared.authenticator);
        let scope = [format!("repository:{repository}:pull,push")];
        // A streamed body cannot be sent twice, so its token is fetched before it starts.
        let used = authenticator.authorization(connection, &scope).await?;
        let mut request = connection
            .clients
            .uploads
            .put(url)
            .header(CONTENT_LENGTH, blob.size)
            .header(CONTENT_TYPE, "application/octet-stream");
        if let Some(authorization) = used.clone() {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(reqwest::Body::wrap_stream(body));
        let response = tokio::select! {
            biased;
            response = connection.transport.send(request) => response,
            () = stall(&sent, blob.size, least) => return Err(Error::Stalled { object }),
        };
        let response = response.map_err(|error| {
            let body_error = body_error.lock();
            let body_error = body_error.unwrap_or_else(PoisonError::into_inner).take();
            body_error.unwrap_or_else(|| Error::transport("upload", &object)(error))
        })?;
        self.expect_stored(&object, response, &scope, used.as_ref())
            .await?;
        if !is_verified.load(Ordering::Acquire) {
            let reason = "the registry accepted it before all of it was sent";
            return Err(Error::untrusted(object, reason));
        }
        Ok(())
    }

    /// Checks that a registry stored a blob; a new token and a pause that it asks for count for the retry.
    async fn expect_stored(
        &self,
        object: &str,
        response: Response,
        scope: &[String],
        used: Option<&HeaderValue>,
    ) -> Result<(), Error> {
        let (connection, object) = (&self.shared.connection, object.to_owned());
        let headers = response.headers();
        if response.status() == StatusCode::UNAUTHORIZED {
            let authenticator = &self.shared.authenticator;
            authenticator
                .accept_challenge(connection, headers, scope, used)
                .await?;
            return Err(Error::StaleToken { object });
        }
        if response.status() == StatusCode::TOO_MANY_REQUESTS
            && connection.throttle.pause(headers, &mut Waits::default())
        {
            let reason = "its destination answered 429, too many requests";
            return Err(Error::Interrupted { object, reason });
        }
        self.expect_status("upload", &object, response, &STORED)
            .await?;
        Ok(())
    }

    /// Cancels an upload; without that the registry purges it later.
    pub(crate) async fn cancel_upload(&self, repository: &Repository, digest: &Digest, url: &Url) {
        let object = object_name(repository, digest);
        let scope = [format!("repository:{repository}:delete")];
        let cancelled = self.send("cancel the upload of", &object, &scope, |http| {
            http.delete(url.clone())
        });
        match tokio::time::timeout(CANCEL_TIMEOUT, cancelled).await {
            Ok(Ok(response)) if response.status().is_success() => {}
            _ => tracing::debug!(%object, "upload not cancelled; the registry purges it later"),
        }
    }
}

/// Returns when an upload has sent less than a number of bytes in the time that a stalled upload has.
async fn stall(sent: &AtomicU64, size: u64, least: u64) {
    let mut before = None;
    loop {
        let now = sent.load(Ordering::Relaxed);
        if before
            .is_some_and(|before| now < size.min(least.saturating_add(before)) || now == before)
        {
            return;
        }
        before = Some(now);
        let timeout = if now >= size {
            STORE_TIMEOUT
        } else {
            STALL_TIMEOUT
        };
        tokio::time::sleep(timeout).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_upload_ends_when_it_is_stalled_and_not_when_it_is_slow() {
        let (sent, began) = (AtomicU64::new(0), tokio::time::Instant::now());
        let slow = async {
            for _ in 0..100 {
                tokio::time::sleep(STALL_TIMEOUT / 2).await;
                sent.fetch_add(MIN_BYTES, Ordering::Relaxed);
            }
        };
        tokio::join!(slow, stall(&sent, u64::MAX, MIN_BYTES));
        let after = began.elapsed() - STALL_TIMEOUT * 50;
        assert!(
            after >= STALL_TIMEOUT && after <= STALL_TIMEOUT * 2,
            "{after:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_whose_source_drips_is_cancelled() {
        let (sent, began) = (AtomicU64::new(0), tokio::time::Instant::now());
        let drip = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                sent.fetch_add(1, Ordering::Relaxed);
            }
        };
        tokio::select! {
            () = drip => {}
            () = stall(&sent, u64::MAX, MIN_BYTES) => {}
        }
        assert_eq!(began.elapsed(), STALL_TIMEOUT);
        // The last few bytes of a blob may be fewer.
        let end = AtomicU64::new(0);
        let last = async {
            tokio::time::sleep(STALL_TIMEOUT / 2).await;
            end.fetch_add(9, Ordering::Relaxed);
        };
        let began = tokio::time::Instant::now();
        tokio::join!(last, stall(&end, 9, MIN_BYTES));
        assert_eq!(began.elapsed(), STALL_TIMEOUT + STORE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_may_take_longer_to_store_what_it_has() {
        let (sent, began) = (AtomicU64::new(9), tokio::time::Instant::now());
        stall(&sent, 9, MIN_BYTES).await;
        assert_eq!(began.elapsed(), STORE_TIMEOUT);
    }
}
