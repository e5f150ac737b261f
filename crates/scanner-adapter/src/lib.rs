//! The scanner adapter: asks a scanner what is in an image, per platform, and keeps its answer.
//!
//! It must not decide anything: a verdict says what was seen, and that nothing was seen.

mod admission;
mod advisory_buckets;
mod cache;
mod canary;
mod confinement;
mod content;
mod cross_check;
mod database;
mod distributions;
mod error;
mod failure;
mod folder;
mod image;
mod layout;
mod plausibility;
mod probe;
mod reconcile;
mod relay;
mod report;
mod room;
mod sbom;
mod scan;
mod server;
mod settings;
mod supervisor;
mod trivy;
mod twirp;
mod unpack;
mod verdict;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sluice_bus::{ConsumeSettings, topology};
use sluice_domain::{Digest, Repository};
use sluice_layer::LayerDescriptor;
use sluice_registry::Client;
use sluice_service::{Host, SecretFile};
use sluice_state::key::SCANNER;
use sluice_state::{ImageReader, StageRunner, State, internal_registry};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

#[doc(hidden)]
pub use report::findings_of;
pub use settings::Settings;

use crate::admission::{Admission, LONGEST_WAIT};
use crate::cache::LayerCache;
use crate::database::{JavaIndex, Origin};
use crate::folder::Folder;
use crate::image::{ANALYSIS, ImageScanner};
use crate::relay::Relay;
use crate::room::Quota;
use crate::scan::ScannerAdapter;
use crate::server::{Address, Token};
use crate::supervisor::{Source, TrivySupervisor};
use crate::trivy::Trivy;
use crate::unpack::Unpacker;

/// What is left of a message's time for its facts and records.
const MARGIN: Duration = Duration::from_secs(60);
/// How many images wait here for their turn.
const WAITING: usize = 128;

/// Returns the layers of a manifest that are read and scanned, or why it is not scanned.
#[doc(hidden)]
pub async fn layers_of(
    registry: &Client,
    repository: &Repository,
    digest: &Digest,
) -> anyhow::Result<Vec<LayerDescriptor>> {
    let reader = ImageReader::default();
    let content = image::content_of(&reader, registry, repository, digest).await?;
    Ok(content.layers)
}

/// Connects, and runs the stage on the host.
///
/// # Errors
/// A bus that cannot be reached or is not provisioned, a Trivy that cannot be run, or a secret that cannot be read.
pub async fn start(settings: Settings, host: &Host) -> anyhow::Result<()> {
    let stage = StageRunner::connect(&topology::SCANNER_ADAPTER, &settings.bus, host).await?;
    let (bus, state, catalog) = stage.connections();
    let registry = internal_registry(&settings.registry)?;
    let folder = Arc::new(Folder::claim(&settings.trivy.cache_dir)?);
    let trivy = Trivy::probe(
        &settings.trivy.binary,
        &folder.work(),
        settings.trivy.limits(),
    )
    .await?;
    let source = match settings.trivy.server() {
        Some(url) => Source::Elsewhere(Address {
            url,
            token: settings.trivy.token_file().map(kept_token).transpose()?,
        }),
        None => Source::Own(Origin::of(&settings.trivy)),
    };
    let keeper = TrivySupervisor {
        host: host.clone(),
        bus: bus.clone(),
        trivy: trivy.clone(),
        folder: folder.clone(),
        source,
        http: server::http().context("failed to make an HTTP client")?,
        check_every: Duration::from_secs(settings.trivy.database_check_seconds),
        plausibility: settings.trivy.plausibility(),
    };
    // The server is there until the last scan has ended, or until this start was given up.
    let finished = CancellationToken::new();
    let (scanner, keep) = keeper.start(finished.clone());
    let finished = finished.drop_guard();
    host.spawn("trivy", keep);
    let limit = Duration::from_secs(settings.scanner.timeout_seconds);
    let images = images(&settings, state, registry, trivy, folder).await?;
    let handler = ScannerAdapter {
        bus: bus.clone(),
        catalog,
        scanner: scanner.clone(),
        images,
        admission: Admission::new(
            settings.scanner.concurrency,
            settings.scanner.of_one_repository(),
            WAITING,
        ),
        name: SCANNER.parse()?,
        parallel: settings.scanner.concurrency,
        limit,
        stopping: host.stopping(),
        _finished: finished,
    };
    let consume = ConsumeSettings {
        // Those that wait for their turn are there too, so that others can overtake them.
        concurrency: settings.scanner.concurrency + WAITING,
        handler_timeout: limit + LONGEST_WAIT + MARGIN,
    };
    stage.run_once_ready(async move { scanner.ready().await }, handler, consume);
    Ok(())
}

/// Makes what scans single images.
async fn images(
    settings: &Settings,
    state: State,
    registry: Client,
    trivy: Trivy,
    folder: Arc<Folder>,
) -> anyhow::Result<ImageScanner> {
    let layers = &settings.layers;
    let version = trivy.version(&folder.work()).await?;
    let circumstances = format!("{version} {}", ANALYSIS.join(" "));
    let cache = LayerCache::open(
        folder.root(),
        &circumstances,
        layers.cache_bytes(),
        layers.cache_age(),
    )
    .context(
        "failed to use the cache of layers; set `trivy.cache_dir` to a folder of this service",
    )?;
    Ok(ImageScanner {
        state,
        unpacker: Unpacker {
            registry: registry.clone(),
            limits: layers.limits(),
            threads: Arc::new(Semaphore::new(settings.scanner.concurrency * 2)),
        },
        registry,
        reader: ImageReader::default(),
        quota: Quota::new(folder.work(), layers.work_bytes(), layers.free_bytes()),
        cache: Arc::new(cache),
        relay: Relay::start().await?,
        trivy,
        folder,
        origin: Origin::of(&settings.trivy),
        java: JavaIndex::new(),
        turns: Semaphore::new(settings.scanner.concurrency),
        limit: Duration::from_secs(settings.scanner.timeout_seconds),
    })
}

/// Names the token of a server elsewhere; one that cannot be read at the start is an error.
fn kept_token(file: &Path) -> anyhow::Result<Token> {
    let file = SecretFile::at(file);
    file.text()?;
    Ok(Token::Kept(file))
}
