//! A blob on its way from its source: told to whoever watches, slowed down where it must be, resumed where it was cut.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use reqwest::Response;
use sluice_domain::Repository;

use crate::answers;
use crate::client::{Client, what};
use crate::configs::Kept;
use crate::error::Error;
use crate::manifest::Descriptor;
use crate::progress::{Progress, Watch};
use crate::retry::pause_after;

/// How often a source may break off before it has sent `PROGRESS` bytes more.
const TRIES: u32 = 3;
const PROGRESS: u64 = 1 << 20;

/// The bytes of a blob as they come in.
pub(crate) struct Fetch {
    source: Client,
    repository: Repository,
    blob: Descriptor,
    /// Where it goes, if that is a registry too.
    target: Option<Client>,
    watch: Option<Arc<dyn Watch>>,
    /// Where its bytes are kept besides.
    kept: Option<Kept>,
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    /// How much has come in.
    at: Arc<AtomicU64>,
    failures: u32,
    failed_at: u64,
}

impl Fetch {
    /// Asks the source for a blob that goes to `target`, or stays here.
    pub(crate) async fn open(
        (source, repository): (&Client, &Repository),
        blob: &Descriptor,
        target: Option<&Client>,
        watch: Option<Arc<dyn Watch>>,
    ) -> Result<Self, Error> {
        let answer = source.blob(repository, blob).await?;
        if answer
            .content_length()
            .is_some_and(|told| told != blob.size)
        {
            let what = what(repository, &blob.digest);
            return Err(Error::untrusted(
                what,
                "it has another size than its manifest says",
            ));
        }
        Ok(Self {
            source: source.clone(),
            repository: repository.clone(),
            blob: blob.clone(),
            target: target.cloned(),
            watch,
            kept: None,
            body: answer.bytes_stream().boxed(),
            at: Arc::default(),
            failures: 0,
            failed_at: 0,
        })
    }

    /// Keeps its bytes besides, and returns where.
    pub(crate) fn keep(&mut self) -> Kept {
        self.kept.get_or_insert_default().clone()
    }

    /// Returns what counts the bytes that have come in.
    pub(crate) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.at)
    }

    /// Says whether a person limits how fast it may go.
    pub(crate) fn is_limited(&self) -> bool {
        self.clients()
            .any(|client| client.shared.endpoint.bandwidth.is_some())
    }

    fn clients(&self) -> impl Iterator<Item = &Client> {
        std::iter::once(&self.source).chain(&self.target)
    }

    /// Returns the bytes in their order.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send {
        stream::try_unfold(self, |mut fetch| async move {
            let next = fetch.next().await?;
            Ok(next.map(|chunk| (chunk, fetch)))
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let at = self.at.load(Ordering::Relaxed);
            let broken = match self.body.next().await {
                Some(Ok(chunk)) => {
                    self.passed(&chunk).await;
                    return Ok(Some(chunk));
                }
                None if at >= self.blob.size => return Ok(None),
                // Whoever says no length may leave off in the middle, without an error.
                None => None,
                Some(Err(error)) => Some(error),
            };
            let what = what(&self.repository, &self.blob.digest);
            let error = match broken {
                Some(error) => Error::transport("fetch", what)(error),
                None => Error::untrusted(what, "it ended too early"),
            };
            self.body = self.resume(at, error).await?.bytes_stream().boxed();
        }
    }

    async fn passed(&mut self, chunk: &Bytes) {
        let bytes = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        self.at.fetch_add(bytes, Ordering::Relaxed);
        if let Some(kept) = &self.kept {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(chunk);
        }
        for client in self.clients() {
            if let Some(rate) = client.shared.endpoint.bandwidth {
                client.shared.common.pace.take(rate, bytes).await;
            }
        }
        if let Some(watch) = &self.watch {
            let digest = &self.blob.digest;
            watch.note(&Progress::Arrived { digest, bytes });
        }
    }

    /// Asks for the rest; what the destination has taken so far stays where it is.
    async fn resume(&mut self, at: u64, mut error: Error) -> Result<Response, Error> {
        if at >= self.failed_at.saturating_add(PROGRESS) {
            self.failures = 0;
        }
        self.failed_at = at;
        loop {
            self.failures += 1;
            if self.failures > TRIES || at == 0 {
                return Err(error);
            }
            tracing::debug!(%error, at, image.digest = %self.blob.digest, "broke off; resuming");
            tokio::time::sleep(pause_after(self.failures)).await;
            error = match self.rest(at).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_unreachable() && !error.is_interrupted() => error,
                Err(error) => return Err(error),
            };
        }
    }

    async fn rest(&mut self, at: u64) -> Result<Response, Error> {
        let (blob, what) = (&self.blob, what(&self.repository, &self.blob.digest));
        let restart = |reason| Error::Interrupted {
            what: what.clone(),
            reason,
        };
        let answer = self.source.blob_from(&self.repository, blob, at).await?;
        match answer.status().as_u16() {
            206 => {}
            200 => return Err(restart("its source cannot send the rest alone")),
            _ => return Err(restart("its source has no rest of it")),
        }
        if answers::rest_of(answer.headers(), blob.size) != Some(at) {
            return Err(restart("its source sends another part than the rest"));
        }
        if answer
            .content_length()
            .is_some_and(|told| told != blob.size - at)
        {
            return Err(restart(
                "its source sends another length than that of the rest",
            ));
        }
        Ok(answer)
    }
}
