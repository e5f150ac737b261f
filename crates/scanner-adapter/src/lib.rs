//! The scanner adapter: drives a scanner, per platform of an image, and keeps its reports and verdicts.
//!
//! It must not decide anything: a verdict names what was found, and what is not covered. The trait `scanner::Scanner`
//! is the boundary to the drivers of scanners; only they know the programs.

mod error;
mod handler;
mod image;
mod reconcile;
mod scanner;
mod settings;
mod trivy;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sluice_bus::{ConsumeSettings, topology};
use sluice_domain::{Digest, Repository};
use sluice_layer::LayerDescriptor;
use sluice_registry::Client;
use sluice_service::Host;
use sluice_state::key::SCANNER;
use sluice_state::{ImageReader, StageRunner, State, internal_registry};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use settings::Settings;
#[doc(hidden)]
pub use trivy::report::findings_of;

use crate::handler::ScannerAdapter;
use crate::handler::scan_queue::{MAX_WAIT, ScanQueue};
use crate::image::ImageScanner;
use crate::image::disk_quota::DiskQuota;
use crate::image::layer_cache::LayerCache;
use crate::image::unpacker::Unpacker;
use crate::image::work_folder::WorkFolder;
use crate::scanner::Scanner;
use crate::trivy::TrivyScanner;

/// How much longer the bus waits than a scan may take, for events and records.
const MARGIN: Duration = Duration::from_secs(60);
/// How many images wait for a permit.
const MAX_WAITING: usize = 128;

/// Returns the layers of a manifest that are read and scanned, or why it is not scanned.
#[doc(hidden)]
pub async fn layers_of(
    registry: &Client,
    repository: &Repository,
    digest: &Digest,
) -> anyhow::Result<Vec<LayerDescriptor>> {
    let reader = ImageReader::default();
    let documents = image::read_documents(&reader, registry, repository, digest).await?;
    Ok(documents.layers)
}

/// Connects, and runs the stage on the host.
///
/// # Errors
/// A bus that cannot be reached or is not provisioned, a scanner that cannot be run, or a secret that cannot be read.
pub async fn start(settings: Settings, host: &Host) -> anyhow::Result<()> {
    let stage = StageRunner::connect(&topology::SCANNER_ADAPTER, &settings.bus, host).await?;
    let (bus, state, catalog) = stage.connections();
    let registry = internal_registry(&settings.registry)?;
    let adapter = WorkFolder::claim(&settings.trivy.cache_dir, "trivy.cache_dir")?;
    let adapter = Arc::new(adapter);
    let limit = Duration::from_secs(settings.scanner.timeout_seconds);
    // The scanner runs until the last scan has ended, or until this start fails.
    let finished = CancellationToken::new();
    let finished_when_dropped = finished.clone().drop_guard();
    let scanner = TrivyScanner::start(
        &settings.trivy,
        limit,
        adapter.clone(),
        host,
        bus.clone(),
        finished,
    );
    let scanner = Arc::new(scanner.await?);
    let handler = ScannerAdapter {
        bus,
        catalog,
        images: image_scanner(&settings, scanner.clone(), state, registry, &adapter)?,
        scanner: scanner.clone(),
        queue: ScanQueue::new(
            settings.scanner.concurrency,
            settings.scanner.concurrency_of_one_repository(),
            MAX_WAITING,
        ),
        name: SCANNER.parse()?,
        parallel: settings.scanner.concurrency,
        limit,
        stopping: host.stopping(),
        _finished_when_dropped: finished_when_dropped,
    };
    let consume = ConsumeSettings {
        // The images that wait for a permit count too, so that others can overtake them.
        concurrency: settings.scanner.concurrency + MAX_WAITING,
        handler_timeout: limit + MAX_WAIT + MARGIN,
    };
    // Until the scanner is ready, other replicas get the messages.
    stage.run_once_ready(async move { scanner.ready().await }, handler, consume);
    Ok(())
}

fn image_scanner<S: Scanner>(
    settings: &Settings,
    scanner: Arc<S>,
    state: State,
    registry: Client,
    adapter: &WorkFolder,
) -> anyhow::Result<ImageScanner<S>> {
    let layers = &settings.layers;
    let cache = LayerCache::open(
        adapter.root(),
        scanner.analysis_version(),
        layers.cache_bytes(),
        layers.cache_age(),
    )
    .context(
        "failed to use the cache of layers; set `trivy.cache_dir` to a folder of this service",
    )?;
    let concurrency = settings.scanner.concurrency;
    Ok(ImageScanner {
        scanner,
        state,
        unpacker: Unpacker {
            registry: registry.clone(),
            limits: layers.limits(),
            threads: Arc::new(Semaphore::new(concurrency * 2)),
        },
        registry,
        reader: ImageReader::default(),
        quota: DiskQuota::new(
            adapter.temporary(),
            layers.disk_quota_bytes(),
            layers.min_free_bytes(),
        ),
        cache: Arc::new(cache),
        permits: Semaphore::new(concurrency),
    })
}
