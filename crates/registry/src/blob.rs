//! Blobs of one registry: is it there, open it, mount it, or take it as a stream.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Method, Response, StatusCode};
use sluice_domain::{Digest, Repository};
use url::Url;

use crate::client::{Client, STORED, location, what};
use crate::error::Error;
use crate::fetch::Fetch;
use crate::manifest::Descriptor;
use crate::retry::with_retries;
use crate::throttle::Waits;
use crate::verify::Verified;

/// How long an upload may stand still, or nearly so, and how long a registry may take to store what it has received.
const STANDSTILL: Duration = Duration::from_secs(150);
const STORING: Duration = Duration::from_secs(600);
/// With fewer bytes than this in that time a source keeps the place of others without getting anywhere.
const LEAST: u64 = 16 << 10;
/// How long it may take to give up an upload.
const GIVING_UP: Duration = Duration::from_secs(5);

/// What a registry answers to the wish to upload.
pub(crate) enum Upload {
    /// It has taken the blob from another repository.
    Mounted,
    /// It is to be sent to this address.
    At(Url),
}

impl Client {
    /// Says whether a repository has a blob.
    pub(crate) async fn has_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        actions: &str,
    ) -> Result<bool, Error> {
        let what = what(repository, digest);
        let url = self.url(&format!("{repository}/blobs/{digest}"))?;
        let scope = [format!("repository:{repository}:{actions}")];
        let answer = self
            .send("look up", &what, &scope, |http| http.head(url.clone()))
            .await?;
        let status = answer.status();
        // Only what is there is sent on for, whichever way.
        if status.is_redirection() {
            return Ok(true);
        }
        // Where HEAD is refused, nothing is known; to bring a blob again does no harm.
        if matches!(status.as_u16(), 404 | 405 | 501) {
            return Ok(false);
        }
        self.accept("look up", &what, answer, &[200])
            .await
            .map(|_| true)
    }

    /// Opens a blob; redirects are followed without the credential.
    pub(crate) async fn blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
    ) -> Result<Response, Error> {
        self.open(repository, blob, 0, &[200]).await
    }

    /// Opens the rest of a blob; the answer may be the whole of it, or that there is no rest.
    pub(crate) async fn blob_from(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        offset: u64,
    ) -> Result<Response, Error> {
        let wanted = [200, 206, 416];
        self.open(repository, blob, offset, &wanted).await
    }

    async fn open(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        offset: u64,
        wanted: &[u16],
    ) -> Result<Response, Error> {
        let what = what(repository, &blob.digest);
        let scope = [format!("repository:{repository}:pull")];
        let first = self.url(&format!("{repository}/blobs/{}", blob.digest))?;
        let get = (Method::GET, "*/*");
        let answer = self
            .read_from(get, "fetch", &what, &scope, first, offset)
            .await?;
        if answer.status() == 404 {
            return Err(Error::NotFound { what });
        }
        self.accept("fetch", &what, answer, wanted).await
    }

    /// Streams a blob, from where it broke off if it does; the receiver checks its digest.
    ///
    /// # Errors
    /// A registry that fails, does not have it, or has another size of it.
    pub async fn blob_stream(
        &self,
        repository: &Repository,
        blob: &Descriptor,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let fetch = with_retries(|| Fetch::open((self, repository), blob, None, None)).await?;
        Ok(fetch.into_stream().boxed())
    }

    /// Returns which size a registry names of a blob.
    ///
    /// # Errors
    /// A registry that fails or does not have it.
    pub async fn blob_size(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        let what = what(repository, digest);
        let url = self.url(&format!("{repository}/blobs/{digest}"))?;
        let scope = [format!("repository:{repository}:pull")];
        let head = (Method::HEAD, "*/*");
        let answer = self.read(head, "look up", &what, &scope, url).await?;
        if answer.status() == 404 {
            return Err(Error::NotFound { what });
        }
        let answer = self.accept("look up", &what, answer, &[200]).await?;
        let length = answer.headers().get(CONTENT_LENGTH);
        Ok(length.and_then(|length| length.to_str().ok()?.parse().ok()))
    }

    /// Starts an upload, or asks to mount from another repository, which may be answered with an upload too.
    pub(crate) async fn start(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: Option<&Repository>,
    ) -> Result<Upload, Error> {
        let what = what(repository, digest);
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
        let answer = self
            .send("start the upload of", &what, &scopes, request)
            .await?;
        let answer = self
            .accept("start the upload of", &what, answer, &[201, 202])
            .await?;
        if answer.status() == 201 {
            return Ok(Upload::Mounted);
        }
        let at = location(&what, &url, &answer)?;
        if !self.is_own(&at) {
            return Err(Error::untrusted(what, "its upload leads to another host"));
        }
        Ok(Upload::At(at))
    }

    /// Sends a blob to where its upload was started.
    pub(crate) async fn upload(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        mut at: Url,
        fetch: Fetch,
    ) -> Result<(), Error> {
        let what = what(repository, &blob.digest);
        at.query_pairs_mut()
            .append_pair("digest", blob.digest.as_str());
        let moved = fetch.counter();
        let is_limited = fetch.is_limited();
        let mut verified =
            Verified::new(fetch.into_stream().boxed(), blob.digest.clone(), blob.size);
        let right = verified.right();
        // What is wrong with the body would come back as text only.
        let fault: Arc<Mutex<Option<Error>>> = Arc::default();
        let place = Arc::clone(&fault);
        // A body without bytes is never asked for by what sends it.
        if blob.size == 0 {
            while let Some(chunk) = verified.next().await {
                chunk?;
            }
        }
        let body = verified.map(move |chunk| {
            chunk.map_err(|error| {
                let text = error.to_string();
                *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                text
            })
        });
        let scope = [format!("repository:{repository}:pull,push")];
        // A streamed body cannot be sent twice, so its token is fetched before it begins.
        let used = self.authorization(&scope).await?;
        let mut request = self
            .shared
            .wires
            .uploads
            .put(at)
            .header(CONTENT_LENGTH, blob.size)
            .header(CONTENT_TYPE, "application/octet-stream");
        if let Some(authorization) = used.clone() {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(reqwest::Body::wrap_stream(body));
        // Under a limit that a person set, a few bytes may be all there is for it.
        let least = if is_limited { 1 } else { LEAST };
        let answer = tokio::select! {
            biased;
            answer = self.shared.transport.send(request) => answer,
            () = standstill(&moved, blob.size, least) => return Err(Error::Standstill { what }),
        };
        let answer = answer.map_err(|error| {
            let fault = fault.lock().unwrap_or_else(PoisonError::into_inner).take();
            fault.unwrap_or_else(|| Error::transport("upload", &what)(error))
        })?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            // The next try starts with a fresh token.
            self.learn(answer.headers(), &scope, used.as_ref()).await?;
            return Err(Error::StaleToken { what });
        }
        // Nor is it sent twice here where the registry has no time for it: the next try begins anew, after the wait.
        let throttle = &self.shared.common.throttle;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS
            && throttle.refused(answer.headers(), &mut Waits::default())
        {
            let reason = "its destination answered 429, too many requests";
            return Err(Error::Interrupted { what, reason });
        }
        let answer = self.accept("upload", &what, answer, &STORED).await?;
        if !right.load(Ordering::Acquire) {
            let reason = "it says that it has stored what was not sent to its end";
            return Err(Error::untrusted(what, reason));
        }
        drop(answer);
        Ok(())
    }

    /// Tells a registry that nothing more comes to an upload; if it does not listen, it finds out in the end.
    pub(crate) async fn give_up(&self, repository: &Repository, digest: &Digest, at: &Url) {
        let what = what(repository, digest);
        let scope = [format!("repository:{repository}:delete")];
        let told = self.send("give up the upload of", &what, &scope, |http| {
            http.delete(at.clone())
        });
        match tokio::time::timeout(GIVING_UP, told).await {
            Ok(Ok(answer)) if answer.status().is_success() => {}
            _ => tracing::debug!(%what, "its upload is left to the registry to clear away"),
        }
    }
}

/// Ends when an upload has stood still for too long, or has moved by less than so many bytes.
async fn standstill(moved: &AtomicU64, size: u64, least: u64) {
    let mut before = None;
    loop {
        let now = moved.load(Ordering::Relaxed);
        if before
            .is_some_and(|before| now < size.min(least.saturating_add(before)) || now == before)
        {
            return;
        }
        before = Some(now);
        let patience = if now >= size { STORING } else { STANDSTILL };
        tokio::time::sleep(patience).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_upload_ends_when_it_stands_still_and_not_when_it_is_slow() {
        let (moved, began) = (AtomicU64::new(0), tokio::time::Instant::now());
        let slow = async {
            for _ in 0..100 {
                tokio::time::sleep(STANDSTILL / 2).await;
                moved.fetch_add(LEAST, Ordering::Relaxed);
            }
        };
        tokio::join!(slow, standstill(&moved, u64::MAX, LEAST));
        let after = began.elapsed() - STANDSTILL * 50;
        assert!(after >= STANDSTILL && after <= STANDSTILL * 2, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_whose_source_drips_is_given_up() {
        let (moved, began) = (AtomicU64::new(0), tokio::time::Instant::now());
        let drip = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                moved.fetch_add(1, Ordering::Relaxed);
            }
        };
        tokio::select! {
            () = drip => {}
            () = standstill(&moved, u64::MAX, LEAST) => {}
        }
        assert_eq!(began.elapsed(), STANDSTILL);
        // The last few bytes of a blob may be fewer.
        let end = AtomicU64::new(0);
        let last = async {
            tokio::time::sleep(STANDSTILL / 2).await;
            end.fetch_add(9, Ordering::Relaxed);
        };
        let began = tokio::time::Instant::now();
        tokio::join!(last, standstill(&end, 9, LEAST));
        assert_eq!(began.elapsed(), STANDSTILL + STORING);
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_may_take_longer_to_store_what_it_has() {
        let (moved, began) = (AtomicU64::new(9), tokio::time::Instant::now());
        standstill(&moved, 9, LEAST).await;
        assert_eq!(began.elapsed(), STORING);
    }
}
