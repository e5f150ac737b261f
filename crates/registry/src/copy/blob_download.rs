//! The download of a blob: reported to a listener, limited in bandwidth, and resumed when it is cut.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use reqwest::Response;
use sluice_domain::Repository;

use crate::client::{Client, object_name};
use crate::content::manifest::descriptor::Descriptor;
use crate::copy::config_cache::ConfigBytes;
use crate::copy::progress::{Progress, ProgressListener};
use crate::error::Error;
use crate::http::response::parse_range_start;
use crate::http::retry::{delay_after, with_retries};

/// How often a source may cut the download before it has sent `MIN_PROGRESS` more bytes.
const MAX_FAILURES: u32 = 3;
const MIN_PROGRESS: u64 = 1 << 20;

/// A blob while its bytes arrive.
pub(crate) struct BlobDownload {
    source: Client,
    repository: Repository,
    blob: Descriptor,
    /// The registry that it is copied to, if any.
    target: Option<Client>,
    listener: Option<Arc<dyn ProgressListener>>,
    /// A copy of its bytes, if it is a small configuration.
    config: Option<ConfigBytes>,
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    /// How many bytes have arrived.
    offset: Arc<AtomicU64>,
    failures: u32,
    failed_at: u64,
}

impl BlobDownload {
    /// Requests a blob from its source.
    pub(crate) async fn open(
        (source, repository): (&Client, &Repository),
        blob: &Descriptor,
        target: Option<&Client>,
        listener: Option<Arc<dyn ProgressListener>>,
    ) -> Result<Self, Error> {
        let response = source.open_blob(repository, blob).await?;
        if response
            .content_length()
            .is_some_and(|length| length != blob.size)
        {
            return Err(Error::untrusted(
                object_name(repository, &blob.digest),
                "it has another size than its manifest says",
            ));
        }
        Ok(Self {
            source: source.clone(),
            repository: repository.clone(),
            blob: blob.clone(),
            target: target.cloned(),
            listener,
            config: None,
            body: response.bytes_stream().boxed(),
            offset: Arc::default(),
            failures: 0,
            failed_at: 0,
        })
    }

    /// Keeps a copy of the bytes, and returns it.
    pub(crate) fn keep_config(&mut self) -> ConfigBytes {
        self.config.get_or_insert_default().clone()
    }

    /// Returns the counter of bytes that have arrived.
    pub(crate) fn offset(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.offset)
    }

    /// Returns whether a bandwidth limit is set for the source or the target.
    pub(crate) fn has_bandwidth_limit(&self) -> bool {
        self.clients()
            .any(|client| client.shared.connection.endpoint.bandwidth.is_some())
    }

    fn clients(&self) -> impl Iterator<Item = &Client> {
        std::iter::once(&self.source).chain(&self.target)
    }

    /// Returns the bytes in their order.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send {
        stream::try_unfold(self, |mut download| async move {
            let next = download.next().await?;
            Ok(next.map(|chunk| (chunk, download)))
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let offset = self.offset.load(Ordering::Relaxed);
            let failure = match self.body.next().await {
                Some(Ok(chunk)) => {
                    self.record_chunk(&chunk).await;
                    return Ok(Some(chunk));
                }
                None if offset >= self.blob.size => return Ok(None),
                // A response without a length may end in the middle without an error.
                None => None,
                Some(Err(error)) => Some(error),
            };
            let object = object_name(&self.repository, &self.blob.digest);
            let error = match failure {
                Some(error) => Error::transport("fetch", object)(error),
                None => Error::untrusted(object, "it ended too early"),
            };
            self.body = self.resume(offset, error).await?.bytes_stream().boxed();
        }
    }

    async fn record_chunk(&mut self, chunk: &Bytes) {
        let bytes = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        self.offset.fetch_add(bytes, Ordering::Relaxed);
        if let Some(config) = &self.config {
            let mut config = config.lock().unwrap_or_else(PoisonError::into_inner);
            config.extend_from_slice(chunk);
        }
        for client in self.clients() {
            if let Some(rate) = client.shared.connection.endpoint.bandwidth {
                client.shared.state.bandwidth.take(rate, bytes).await;
            }
        }
        if let Some(listener) = &self.listener {
            let digest = &self.blob.digest;
            listener.on_progress(&Progress::BytesReceived { digest, bytes });
        }
    }

    /// Requests the rest after a failure; what the target has received so far stays there.
    async fn resume(&mut self, offset: u64, mut error: Error) -> Result<Response, Error> {
        if offset >= self.failed_at.saturating_add(MIN_PROGRESS) {
            self.failures = 0;
        }
        self.failed_at = offset;
        loop {
            self.failures += 1;
            if self.failures > MAX_FAILURES || offset == 0 {
                return Err(error);
            }
            tracing::debug!(%error, offset, image.digest = %self.blob.digest, "download cut; resuming");
            tokio::time::sleep(delay_after(self.failures)).await;
            error = match self.request_rest(offset).await {
                Ok(response) => return Ok(response),
                Err(error) if error.is_unreachable() && !error.is_interrupted() => error,
                Err(error) => return Err(error),
            };
        }
    }

    async fn request_rest(&mut self, offset: u64) -> Result<Response, Error> {
        let (blob, object) = (&self.blob, object_name(&self.repository, &self.blob.digest));
        let restart = |reason| Error::Interrupted {
            object: object.clone(),
            reason,
        };
        let response = self
            .source
            .open_blob_at(&self.repository, blob, offset)
            .await?;
        match response.status().as_u16() {
            206 => {}
            200 => return Err(restart("its source cannot send the rest alone")),
            _ => return Err(restart("its source has no rest of it")),
        }
        if parse_range_start(response.headers(), blob.size) != Some(offset) {
            return Err(restart("its source sends another part than the rest"));
        }
        if response
            .content_length()
            .is_some_and(|length| length != blob.size - offset)
        {
            return Err(restart(
                "its source sends another length than that of the rest",
            ));
        }
        Ok(response)
    }
}

impl Client {
    /// Streams a blob, and resumes when the download is cut; the receiver checks its digest.
    pub async fn stream_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let open = || BlobDownload::open((self, repository), blob, None, None);
        Ok(with_retries(open).await?.into_stream().boxed())
    }
}
