//! Reads the layers of an image, each once: checked by its rules on the way from the registry to a tar on the disk.
//!
//! A layer is never in memory: what comes in waits in a short queue for the thread that unpacks it, and that thread for
//! the disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sluice_domain::Repository;
use sluice_layer::{ImageContents, LayerDescriptor, LayerSummary, LayerType, Limits, read_layer};
use sluice_registry::{Client, Descriptor};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::cache::KnownLayer;
use crate::content::ImageContent;
use crate::error::Error;
use crate::failure::{Failed, Kind};
use crate::layout::Layout;
use crate::room::{Full, Room};

/// How many chunks of a layer wait for the thread that unpacks it.
const QUEUED: usize = 16;
/// How many layers of one image are read at once.
const AT_ONCE: usize = 2;
/// How many times its size a packed layer probably has unpacked.
const USUAL_RATIO: u64 = 4;

/// Reads layers.
#[derive(Debug)]
pub(crate) struct Unpacker {
    pub(crate) registry: Client,
    pub(crate) limits: ImageLimits,
    /// How many layers are unpacked at once, those of all scans together.
    pub(crate) threads: Arc<Semaphore>,
}

/// How much of one image is read at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageLimits {
    /// Of each layer.
    pub(crate) layer: Limits,
    /// The bytes of all tars.
    pub(crate) unpacked_bytes: u64,
    /// The entries of all tars.
    pub(crate) entries: u64,
}

impl ImageLimits {
    /// Checks an image as a whole.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for one that is over a limit.
    pub(crate) fn check(&self, contents: &ImageContents) -> Result<(), Error> {
        let ImageContents {
            uncompressed_bytes,
            entries,
            ..
        } = contents;
        if *uncompressed_bytes > self.unpacked_bytes {
            let bytes = self.unpacked_bytes;
            return Err(limit(&Full::Image { bytes }.to_string()));
        }
        if *entries > self.entries {
            return Err(limit(&format!(
                "the image has {entries} entries, and at most {} are taken; see `layers.entries_per_image`",
                self.entries
            )));
        }
        Ok(())
    }
}

/// Says that an image is too large to be scanned.
fn limit(told: &str) -> Error {
    Error::Unsupported(format!("not scanned: limit: {told}"))
}

/// A layer to read, and where its tar goes, if it is of any use.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// Its number in the image.
    pub(crate) number: usize,
    pub(crate) layer: LayerDescriptor,
    pub(crate) tar: Option<PathBuf>,
}

/// What the layers of one image may use together; the room is free again when the last of its threads has ended.
#[derive(Debug)]
pub(crate) struct Budget {
    room: Room,
    unpacked: AtomicU64,
    limit: u64,
}

impl Unpacker {
    /// Reads layers of one image, and returns what is in each.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a layer that breaks a rule or a limit, else what may pass.
    pub(crate) async fn read(
        &self,
        repository: &Repository,
        jobs: Vec<Job>,
        budget: &Arc<Budget>,
    ) -> Result<Vec<(usize, LayerSummary)>, Error> {
        stream::iter(jobs)
            .map(|job| self.read_one(repository, job, budget.clone()))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn read_one(
        &self,
        repository: &Repository,
        job: Job,
        budget: Arc<Budget>,
    ) -> Result<(usize, LayerSummary), Error> {
        let _thread = self.threads.acquire().await;
        let Job { number, layer, tar } = job;
        let mut chunks = match self.registry.blob_stream(repository, &blob(&layer)).await {
            Ok(chunks) => chunks,
            Err(error) => return Err(self.of_size(repository, number, &layer, error).await),
        };
        let (sender, receiver) = mpsc::channel(QUEUED);
        let (limits, stop) = (self.limits.layer, CancellationToken::new());
        let _stop_when_dropped = stop.clone().drop_guard();
        let reading = tokio::task::spawn_blocking({
            let layer = layer.clone();
            move || unpack(receiver, &layer, &limits, tar.as_deref(), budget, stop)
        });
        // A reader that has ended takes no more, and says why.
        let failed = loop {
            match chunks.next().await {
                Some(Ok(chunk)) => {
                    if sender.send(Some(chunk)).await.is_err() {
                        break None;
                    }
                }
                Some(Err(error)) => break Some(error),
                None => {
                    sender.send(None).await.ok();
                    break None;
                }
            }
        };
        drop(sender);
        let broken = |error| Error::files("unpack")(io::Error::other(error));
        let read = reading.await.map_err(broken)?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        read.map(|summary| (number, summary))
            .map_err(|error| of_layer(number, &layer, error))
    }

    /// Says whether a registry that sends another size than the manifest names has the blob in no other.
    async fn of_size(
        &self,
        repository: &Repository,
        number: usize,
        layer: &LayerDescriptor,
        error: sluice_registry::Error,
    ) -> Error {
        if matches!(error, sluice_registry::Error::Untrusted { .. })
            && let Ok(Some(size)) = self.registry.blob_size(repository, &layer.digest).await
            && size != layer.size_bytes
        {
            return Error::Unsupported(format!(
                "layer {number} has {size} bytes, and the manifest says {} (rule 6)",
                layer.size_bytes
            ));
        }
        error.into()
    }
}

/// Unpacks a layer in a thread that may wait.
fn unpack(
    chunks: mpsc::Receiver<Option<Bytes>>,
    layer: &LayerDescriptor,
    limits: &Limits,
    tar: Option<&Path>,
    budget: Arc<Budget>,
    stop: CancellationToken,
) -> Result<LayerSummary, sluice_layer::Error> {
    // Under its own name Trivy, which runs by now, finds it when it is verified.
    let part = tar.map(|tar| tar.with_extension("part"));
    let file = part.as_ref().map(File::create).transpose();
    let file = file.map_err(sluice_layer::Error::Output)?;
    let source = Source {
        chunks,
        chunk: Bytes::new(),
        ended: false,
    };
    let output = Output { file, budget, stop };
    let summary = read_layer(source, layer, limits, output)?;
    if let (Some(part), Some(tar)) = (part, tar) {
        fs::rename(part, tar).map_err(sluice_layer::Error::Output)?;
    }
    Ok(summary)
}

/// What comes in, as a thread reads it.
struct Source {
    /// Nothing says that all has come; a queue that just ends was given up.
    chunks: mpsc::Receiver<Option<Bytes>>,
    chunk: Bytes,
    ended: bool,
}

impl Read for Source {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.chunks.blocking_recv() {
                Some(Some(chunk)) => self.chunk = chunk,
                Some(None) => self.ended = true,
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let count = to.len().min(self.chunk.len());
        let read = self.chunk.split_to(count);
        if let Some(to) = to.get_mut(..count) {
            to.copy_from_slice(&read);
        }
        Ok(count)
    }
}

/// Where a tar goes, within what its image may use.
struct Output {
    file: Option<File>,
    budget: Arc<Budget>,
    stop: CancellationToken,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let full = |full: Full| io::Error::new(io::ErrorKind::StorageFull, full);
        self.budget.take(size).map_err(full)?;
        if let Some(file) = &mut self.file {
            self.budget.room.take(size).map_err(full)?;
            file.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Budget {
    /// Lets an image use room on the disk, and unpack to at most so many bytes.
    pub(crate) fn new(room: Room, limit: u64) -> Arc<Self> {
        Arc::new(Self {
            room,
            unpacked: AtomicU64::new(0),
            limit,
        })
    }

    /// Counts bytes of any layer of the image.
    fn take(&self, bytes: u64) -> Result<(), Full> {
        let before = self.unpacked.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.limit {
            return Err(Full::Image { bytes: self.limit });
        }
        Ok(())
    }
}

/// Returns the descriptor by which the registry is asked.
fn blob(layer: &LayerDescriptor) -> Descriptor {
    Descriptor {
        media_type: layer.layer_type.as_str().to_owned(),
        digest: layer.digest.clone(),
        size: layer.size_bytes,
        platform: None,
        urls: Vec::new(),
        data: None,
        annotations: None,
    }
}

/// Says what becomes of an image of which a layer could not be read.
fn of_layer(number: usize, layer: &LayerDescriptor, error: sluice_layer::Error) -> Error {
    use sluice_layer::Error as Layer;
    match error {
        Layer::Refused(refused) => {
            Error::Unsupported(format!("layer {number} ({}): {refused}", layer.digest))
        }
        Layer::Limit { .. } => limit(&format!("layer {number} ({}): {error}", layer.digest)),
        Layer::WrongBytes { .. } => Error::WrongBlob(error.to_string()),
        Layer::Output(error) => {
            let full = error.get_ref().and_then(|error| error.downcast_ref());
            match full {
                Some(Full::Reserved) => Error::NeedsAllRoom,
                Some(full @ (Full::Quota { .. } | Full::Image { .. })) => limit(&full.to_string()),
                Some(Full::Disk) => Failed::new(Kind::DiskFull, Full::Disk.to_string()).into(),
                None if error.kind() == io::ErrorKind::StorageFull => {
                    Failed::new(Kind::DiskFull, error.to_string()).into()
                }
                None => Error::files("write")(error),
            }
        }
        Layer::Source(error) => Error::files("read")(error),
        other => Error::files("unpack")(io::Error::other(other)),
    }
}

/// Returns which layers are to be read; of those with the same files one is written for Trivy.
pub(crate) fn jobs(
    content: &ImageContent,
    known: &[Option<KnownLayer>],
    layout: &Layout,
) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    for (number, (layer, known)) in content.layers.iter().zip(known).enumerate() {
        if known.is_some() || jobs.iter().any(|job| job.layer == *layer) {
            continue;
        }
        let is_written = jobs.iter().any(|job| job.layer.diff_id == layer.diff_id);
        let tar = (!is_written).then(|| layout.blob(&layer.diff_id));
        let layer = layer.clone();
        jobs.push(Job { number, layer, tar });
    }
    jobs
}

/// Returns how much room layers probably need.
pub(crate) fn probable_bytes<'a>(layers: impl Iterator<Item = &'a LayerDescriptor>) -> u64 {
    let bytes = layers.map(|layer| match layer.layer_type {
        LayerType::OciTar | LayerType::OciNondistributableTar | LayerType::DockerTar => {
            layer.size_bytes
        }
        _ => layer.size_bytes.saturating_mul(USUAL_RATIO),
    });
    bytes.fold(0, u64::saturating_add)
}

/// Does something that waits for the disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::files("use")(io::Error::other(error)))
}
