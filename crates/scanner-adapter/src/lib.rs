//! The scanner adapter: asks a scanner what is in an image, per platform, and keeps its answer.
//!
//! It must not decide anything: a verdict says what was seen, and that nothing was seen.

mod buckets;
mod canary;
mod database;
mod error;
mod failure;
mod folder;
mod image;
mod keeper;
mod reconcile;
mod report;
mod scan;
mod server;
mod settings;
mod systems;
mod trivy;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use sluice_bus::{ConsumeSettings, topology};
use sluice_service::{Host, RegistrySettings, secret_file};
use sluice_state::key::SCANNER;
use sluice_state::reconcile::keep_complete;
use sluice_state::{attach, internal_registry};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

#[doc(hidden)]
pub use report::findings_of;
pub use settings::Settings;

use crate::database::{JavaIndex, Origin};
use crate::folder::Folder;
use crate::image::{Account, ImageScanner};
use crate::keeper::{Keeper, Source};
use crate::scan::ScannerAdapter;
use crate::server::Address;
use crate::trivy::Trivy;

/// What is left of a message's time for its facts and records.
const MARGIN: Duration = Duration::from_secs(60);

/// Connects, and runs the stage on the host.
///
/// # Errors
/// A bus that cannot be reached or is not provisioned, a Trivy that cannot be run, or a secret that cannot be read.
pub async fn start(settings: Settings, host: &Host) -> anyhow::Result<()> {
    let (bus, state, catalog) = attach(&settings.bus, "scanner-adapter", host).await?;
    let registry = internal_registry(&settings.registry)?;
    let account = account(&settings.registry)?;
    let folder = Arc::new(Folder::claim(&settings.trivy.cache_dir)?);
    let trivy = Trivy::probe(&settings.trivy.binary, &folder.work()).await?;
    let source = match settings.trivy.server() {
        Some(url) => Source::Elsewhere(Address {
            url,
            token: settings.trivy.token_file().map(secret_file).transpose()?,
        }),
        None => Source::Own(Origin::of(&settings.trivy)),
    };
    let keeper = Keeper {
        host: host.clone(),
        bus: bus.clone(),
        trivy: trivy.clone(),
        folder: folder.clone(),
        source,
        http: server::http().context("failed to make an HTTP client")?,
        check_every: Duration::from_secs(settings.trivy.database_check_seconds),
    };
    // The server is there until the last scan has ended.
    let finished = CancellationToken::new();
    let (scanner, keep) = keeper.start(finished.clone());
    host.spawn("trivy", keep);
    let limit = Duration::from_secs(settings.scanner.timeout_seconds);
    let images = ImageScanner {
        state,
        registry,
        trivy,
        folder,
        origin: Origin::of(&settings.trivy),
        java: JavaIndex::new(),
        account,
        ca_file: settings
            .registry
            .ca_file
            .as_ref()
            .map(|file| trivy::text(file).into()),
        plain_http: settings.registry.url.scheme() == "http",
        turns: Semaphore::new(settings.scanner.concurrency),
        limit,
    };
    let handler = ScannerAdapter {
        bus: bus.clone(),
        catalog,
        scanner: scanner.clone(),
        images,
        name: SCANNER.parse()?,
        parallel: settings.scanner.concurrency,
        limit,
    };
    let consume = ConsumeSettings {
        concurrency: settings.scanner.concurrency,
        handler_timeout: limit + MARGIN,
    };
    let stopping = host.stopping();
    host.spawn(
        "reconcile",
        keep_complete(bus.clone(), &topology::SCANNER_ADAPTER, stopping.clone()),
    );
    host.spawn("scanner-adapter", async move {
        let _finished = finished.drop_guard();
        // Messages are left to replicas that can scan already.
        tokio::select! {
            () = scanner.ready() => {}
            () = stopping.cancelled() => return Ok(()),
        }
        Ok(bus
            .consume(&topology::SCANNER_ADAPTER, handler, consume, stopping)
            .await?)
    });
    Ok(())
}

/// Reads the account that Trivy uses at the internal registry.
fn account(settings: &RegistrySettings) -> anyhow::Result<Option<Account>> {
    let Some(file) = &settings.password_file else {
        return Ok(None);
    };
    let password = secret_file(file)?;
    let lists = settings.account.contains(',') || password.expose_secret().contains(',');
    anyhow::ensure!(
        !lists,
        "neither `registry.account` nor its password may hold a comma: Trivy takes it for a list of accounts"
    );
    Ok(Some(Account {
        name: settings.account.clone().into(),
        password,
    }))
}
