//! Reads the layers of an image, each once: checked by the rules of layers on the way from the registry to a tar on the
//! disk.
//!
//! A layer is never in memory as a whole: its chunks wait in a short queue for the thread that unpacks it, and that
//! thread waits for the disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sluice_domain::{Digest, Repository};
use sluice_layer::{LayerDescriptor, LayerSummary, LayerType, Limits, read_layer};
use sluice_registry::{Client, Descriptor};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::image::disk_quota::QuotaExceeded;
use crate::image::limits::{ImageBudget, ImageLimits, over_limit};

/// How many chunks of a layer wait for the thread that unpacks it.
const QUEUED_CHUNKS: usize = 16;
/// How many layers of one image are read at once.
const LAYERS_AT_ONCE: usize = 2;
/// How many times larger a compressed layer usually is when unpacked.
const USUAL_RATIO: u64 = 4;

/// Reads layers.
#[derive(Debug)]
pub(crate) struct Unpacker {
    pub(crate) registry: Client,
    pub(crate) limits: ImageLimits,
    /// Limits the layers that are unpacked at once, those of all scans together.
    pub(crate) threads: Arc<Semaphore>,
}

/// A layer to read.
#[derive(Debug, Clone)]
pub(crate) struct UnpackJob {
    /// The number of the layer in the image.
    pub(crate) number: usize,
    pub(crate) layer: LayerDescriptor,
    /// Where its tar is written, unless another layer with the same files is.
    pub(crate) tar: Option<PathBuf>,
}

impl Unpacker {
    /// Reads layers of one image, and returns what is in each.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a layer that breaks a rule or a limit; a retry may help against any other.
    pub(crate) async fn read(
        &self,
        repository: &Repository,
        jobs: Vec<UnpackJob>,
        budget: &Arc<ImageBudget>,
    ) -> Result<Vec<(usize, LayerSummary)>, Error> {
        stream::iter(jobs)
            .map(|job| self.read_one(repository, job, budget.clone()))
            .buffer_unordered(LAYERS_AT_ONCE)
            .try_collect()
            .await
    }

    async fn read_one(
        &self,
        repository: &Repository,
        job: UnpackJob,
        budget: Arc<ImageBudget>,
    ) -> Result<(usize, LayerSummary), Error> {
        let _thread = self.threads.acquire().await;
        let UnpackJob { number, layer, tar } = job;
        let mut chunks = match self.registry.stream_blob(repository, &blob(&layer)).await {
            Ok(chunks) => chunks,
            Err(error) => return Err(self.stream_error(repository, number, &layer, error).await),
        };
        let (sender, receiver) = mpsc::channel(QUEUED_CHUNKS);
        let (limits, stop) = (self.limits.layer, CancellationToken::new());
        let _stop_when_dropped = stop.clone().drop_guard();
        let reading = tokio::task::spawn_blocking({
            let layer = layer.clone();
            move || unpack(receiver, &layer, &limits, tar.as_deref(), budget, stop)
        });
        // A reader that has ended receives no more chunks, and returns the reason.
        let stream_error = loop {
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
        let panicked = |error| Error::files("unpack")(io::Error::other(error));
        let read = reading.await.map_err(panicked)?;
        if let Some(error) = stream_error {
            return Err(error.into());
        }
        read.map(|summary| (number, summary))
            .map_err(|error| layer_error(number, &layer, error))
    }

    /// Returns the error of a layer that the registry did not send: that of the image if the blob has another size than
    /// the manifest says.
    async fn stream_error(
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

/// Unpacks a layer; runs in a thread that may block.
fn unpack(
    chunks: mpsc::Receiver<Option<Bytes>>,
    layer: &LayerDescriptor,
    limits: &Limits,
    tar: Option<&Path>,
    budget: Arc<ImageBudget>,
    stop: CancellationToken,
) -> Result<LayerSummary, sluice_layer::Error> {
    // The scanner, which runs already, finds the layer under its own name only when it is verified.
    let part = tar.map(|tar| tar.with_extension("part"));
    let file = part.as_ref().map(File::create).transpose();
    let file = file.map_err(sluice_layer::Error::Output)?;
    let source = ChunkReader {
        chunks,
        chunk: Bytes::new(),
        is_complete: false,
    };
    let output = TarWriter { file, budget, stop };
    let summary = read_layer(source, layer, limits, output)?;
    if let (Some(part), Some(tar)) = (part, tar) {
        fs::rename(part, tar).map_err(sluice_layer::Error::Output)?;
    }
    Ok(summary)
}

/// Reads the chunks of a layer from a queue.
struct ChunkReader {
    /// `None` comes after the last chunk; a queue that ends without it was cancelled.
    chunks: mpsc::Receiver<Option<Bytes>>,
    chunk: Bytes,
    is_complete: bool,
}

impl Read for ChunkReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.is_complete {
            match self.chunks.blocking_recv() {
                Some(Some(chunk)) => self.chunk = chunk,
                Some(None) => self.is_complete = true,
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

/// Writes a tar within the budget of its image; without a file it only counts.
struct TarWriter {
    file: Option<File>,
    budget: Arc<ImageBudget>,
    stop: CancellationToken,
}

impl Write for TarWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let full = |exceeded: QuotaExceeded| io::Error::new(io::ErrorKind::StorageFull, exceeded);
        self.budget.add_unpacked(size).map_err(full)?;
        if let Some(file) = &mut self.file {
            self.budget.add_written(size).map_err(full)?;
            file.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the descriptor with which a layer is fetched.
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

/// Returns the error of an image of which a layer could not be read.
fn layer_error(number: usize, layer: &LayerDescriptor, error: sluice_layer::Error) -> Error {
    use sluice_layer::Error as Layer;
    match error {
        Layer::Refused(refused) => {
            Error::Unsupported(format!("layer {number} ({}): {refused}", layer.digest))
        }
        Layer::Limit { .. } => over_limit(&format!("layer {number} ({}): {error}", layer.digest)),
        Layer::WrongBytes { .. } => Error::WrongBlob(error.to_string()),
        Layer::Output(error) => {
            let exceeded = error.get_ref().and_then(|error| error.downcast_ref());
            match exceeded {
                Some(QuotaExceeded::Reservation) => Error::NeedsWholeQuota,
                Some(exceeded @ (QuotaExceeded::Quota { .. } | QuotaExceeded::Image { .. })) => {
                    over_limit(&exceeded.to_string())
                }
                Some(QuotaExceeded::Disk) => Error::DiskFull(QuotaExceeded::Disk.to_string()),
                None if error.kind() == io::ErrorKind::StorageFull => {
                    Error::DiskFull(error.to_string())
                }
                None => Error::files("write")(error),
            }
        }
        Layer::Source(error) => Error::files("read")(error),
        other => Error::files("unpack")(io::Error::other(other)),
    }
}

/// Returns which layers of an image are to be read. Of those with the same files one is written for the scanner.
pub(crate) fn jobs<'a>(
    missing: impl Iterator<Item = (usize, &'a LayerDescriptor)>,
    path: impl Fn(&Digest) -> PathBuf,
) -> Vec<UnpackJob> {
    let mut jobs: Vec<UnpackJob> = Vec::new();
    for (number, layer) in missing {
        if jobs.iter().any(|job| job.layer == *layer) {
            continue;
        }
        let is_written = jobs.iter().any(|job| job.layer.diff_id == layer.diff_id);
        let tar = (!is_written).then(|| path(&layer.diff_id));
        let layer = layer.clone();
        jobs.push(UnpackJob { number, layer, tar });
    }
    jobs
}

/// Estimates how much disk space layers need.
pub(crate) fn estimate_bytes<'a>(layers: impl Iterator<Item = &'a LayerDescriptor>) -> u64 {
    let bytes = layers.map(|layer| match layer.layer_type {
        LayerType::OciTar | LayerType::OciNondistributableTar | LayerType::DockerTar => {
            layer.size_bytes
        }
        _ => layer.size_bytes.saturating_mul(USUAL_RATIO),
    });
    bytes.fold(0, u64::saturating_add)
}

/// Runs work that blocks in a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::files("use")(io::Error::other(error)))
}
