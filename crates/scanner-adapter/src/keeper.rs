//! Keeps a Trivy server with a checked database there: starts it, restarts it, and exchanges it for a newer one.
//!
//! It must not know of images. Whoever scans asks [`Scanner`] for a server, and gets none that was not checked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use sluice_bus::{Bus, Cause};
use sluice_domain::Backoff;
use sluice_events::Event;
use sluice_events::facts::ScannerDatabaseUpdated;
use sluice_service::{Host, Latch, crash};
use sluice_state::key::SCANNER;
use sluice_telemetry::metrics;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::buckets;
use crate::canary;
use crate::database::{Origin, metadata};
use crate::failure::{Failed, Kind};
use crate::folder::Folder;
use crate::server::{Address, Server};
use crate::systems::Systems;
use crate::trivy::Trivy;

/// The pauses after failures and after crashes.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
/// A server that lived this long did not die of its start.
const STABLE: Duration = Duration::from_secs(60);
/// How long a scan waits for a server before its message is put off.
const PATIENCE: Duration = Duration::from_secs(20);
/// A database of this age is told, for Trivy uses any without a word.
const OLD: chrono::TimeDelta = chrono::TimeDelta::days(7);

/// Whether anything can be scanned now.
#[derive(Debug, Clone)]
enum Standing {
    Ready(Arc<Server>),
    Waiting(String),
}

/// Gives out the server whose database was checked; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Scanner {
    standing: watch::Receiver<Standing>,
    doubted: Arc<Notify>,
}

/// Where servers come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// We run them, over databases from this place.
    Own(Origin),
    /// One runs elsewhere.
    Elsewhere(Address),
}

/// Keeps a server there.
pub(crate) struct Keeper {
    pub(crate) host: Host,
    pub(crate) bus: Bus,
    pub(crate) trivy: Trivy,
    pub(crate) folder: Arc<Folder>,
    pub(crate) source: Source,
    pub(crate) http: reqwest::Client,
    pub(crate) check_every: Duration,
}

/// A keeper at work.
struct Keeping {
    keeper: Keeper,
    standing: watch::Sender<Standing>,
    doubted: Arc<Notify>,
    tracker: TaskTracker,
    latch: Option<Latch>,
    announced: Option<String>,
}

/// A server that was checked, and whether it may be behind what its origin has.
struct Found {
    server: Server,
    latest: bool,
}

impl Scanner {
    /// Waits a while for a server; without one, returns why there is none.
    pub(crate) async fn server(&self) -> Result<Arc<Server>, String> {
        let mut standing = self.standing.clone();
        let ready = standing.wait_for(|standing| matches!(standing, Standing::Ready(_)));
        match tokio::time::timeout(PATIENCE, ready).await {
            Ok(Ok(standing)) => match &*standing {
                Standing::Ready(server) => Ok(server.clone()),
                Standing::Waiting(reason) => Err(reason.clone()),
            },
            Ok(Err(_)) => Err("the service stops".to_owned()),
            Err(_) => Err(match &*self.standing.borrow() {
                Standing::Waiting(reason) => reason.clone(),
                Standing::Ready(_) => "the server was only just checked".to_owned(),
            }),
        }
    }

    /// Waits for the first server.
    pub(crate) async fn ready(&self) {
        let mut standing = self.standing.clone();
        // Without a keeper nothing is scanned any more, and the process stops.
        standing
            .wait_for(|standing| matches!(standing, Standing::Ready(_)))
            .await
            .ok();
    }

    /// Says that the server failed, so that it is checked at once.
    pub(crate) fn doubt(&self) {
        self.doubted.notify_one();
    }
}

impl Keeper {
    /// Returns what gives out servers, and the task that keeps one there until everybody has finished.
    pub(crate) fn start(
        self,
        finished: CancellationToken,
    ) -> (
        Scanner,
        impl Future<Output = anyhow::Result<()>> + Send + use<>,
    ) {
        let reason = "a vulnerability database".to_owned();
        let latch = self.host.latch(&reason);
        let (standing, seen) = watch::channel(Standing::Waiting(reason));
        let doubted = Arc::new(Notify::new());
        let scanner = Scanner {
            standing: seen,
            doubted: doubted.clone(),
        };
        let mut keeping = Keeping {
            keeper: self,
            standing,
            doubted,
            tracker: TaskTracker::new(),
            latch: Some(latch),
            announced: None,
        };
        let task = async move {
            tokio::select! {
                biased;
                () = finished.cancelled() => {}
                () = keeping.keep() => {}
            }
            keeping.end().await;
            Ok(())
        };
        (scanner, task)
    }
}

impl Keeping {
    async fn keep(&mut self) {
        let (mut failures, mut crashes) = (0, 0);
        loop {
            let looked = self.look().await;
            let current = self.current();
            let pause = match looked {
                Ok(true) => self.keeper.check_every,
                Ok(false) => BACKOFF.delay(1, 1.0),
                Err(failed) => {
                    self.tell(&failed);
                    failures += 1;
                    if current.is_some() {
                        self.keeper.check_every
                    } else {
                        BACKOFF.delay(failures, 1.0)
                    }
                }
            };
            // The present database serves until the next look for a newer one.
            let pause = if current.is_some() {
                failures = 0;
                self.announce().await;
                pause.max(BACKOFF.delay(1, 1.0))
            } else {
                pause
            };
            let since = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.doubted.notified() => {}
                () = ended(current.as_deref()) => {
                    crashes = if since.elapsed() < STABLE { crashes + 1 } else { 1 };
                    tracing::warn!(crashes, "the Trivy server ended unexpectedly; it is started again");
                    self.withdraw("the Trivy server ended and is started again").await;
                    // The first start comes at once.
                    tokio::time::sleep(BACKOFF.delay(crashes, 1.0).saturating_sub(Duration::from_secs(1))).await;
                }
            }
        }
    }

    /// Ends the server and waits until it is gone.
    async fn end(self) {
        self.standing
            .send_replace(Standing::Waiting("the service stops".to_owned()));
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Checks the present server, and takes a newer one if there is one; says whether that is the latest.
    async fn look(&mut self) -> Result<bool, Failed> {
        if let Some(server) = self.current() {
            let checked = async {
                server.confirm().await?;
                self.check(&server).await
            };
            if let Err(failed) = checked.await {
                tracing::warn!(reason = %failed, "the scanner is not used until it is checked anew");
                self.withdraw(&failed.to_string()).await;
            }
        }
        match self.obtain(self.current()).await? {
            Some(Found { server, latest }) => {
                self.switch(server);
                Ok(latest)
            }
            None => Ok(true),
        }
    }

    async fn obtain(&self, current: Option<Arc<Server>>) -> Result<Option<Found>, Failed> {
        let keeper = &self.keeper;
        match (&keeper.source, current) {
            (Source::Elsewhere(_), Some(_)) => Ok(None),
            (Source::Elsewhere(address), None) => {
                let server = Server::elsewhere(address.clone(), keeper.http.clone()).await?;
                self.check(&server).await?;
                tracing::warn!(
                    "which operating systems the database of a server elsewhere has cannot be told; images of one that \
                     it lacks count as scanned"
                );
                Ok(Some(Found {
                    server,
                    latest: true,
                }))
            }
            (Source::Own(origin), None) => {
                if let Some(folder) = keeper.folder.newest() {
                    match self.serve(folder).await {
                        Ok(server) => {
                            return Ok(Some(Found {
                                server,
                                latest: false,
                            }));
                        }
                        Err(failed) => {
                            tracing::warn!(reason = %failed, "the database that is there is not used; it is fetched anew");
                        }
                    }
                }
                let folder = keeper.folder.next().map_err(no_folder)?;
                if let Err(failed) = origin.fetch(&keeper.trivy, &folder).await {
                    discard(&folder);
                    return Err(failed);
                }
                let server = self.serve(folder).await?;
                Ok(Some(Found {
                    server,
                    latest: true,
                }))
            }
            (Source::Own(origin), Some(current)) => self.newer(origin, &current).await,
        }
    }

    /// Fetches a newer database beside the present one and starts a server over it.
    async fn newer(&self, origin: &Origin, current: &Server) -> Result<Option<Found>, Failed> {
        let keeper = &self.keeper;
        let folder = current.folder().unwrap_or_else(|| std::path::Path::new(""));
        if metadata(&folder.join("db")).is_ok_and(|there| Utc::now() < there.next_update) {
            return Ok(None);
        }
        let folder = keeper.folder.next().map_err(no_folder)?;
        match origin.fetch(&keeper.trivy, &folder).await {
            Ok(fetched) if fetched.updated_at > current.version.database => {
                let server = self.serve(folder).await?;
                Ok(Some(Found {
                    server,
                    latest: true,
                }))
            }
            Ok(_) => {
                discard(&folder);
                Ok(None)
            }
            Err(failed) => {
                discard(&folder);
                Err(failed)
            }
        }
    }

    /// Starts a server over a database and checks it; a database that does not pass is removed.
    async fn serve(&self, folder: PathBuf) -> Result<Server, Failed> {
        let keeper = &self.keeper;
        let started = async {
            metadata(&folder.join("db"))?;
            // Read before the server has it, for Trivy makes an empty database of a damaged one; what the server itself
            // says of a damaged one tells more.
            let buckets = buckets::names(&folder.join("db/trivy.db"));
            let http = keeper.http.clone();
            let server = Server::start(&keeper.trivy, &folder, http, &self.tracker).await?;
            self.check(&server).await?;
            Ok(server.with_systems(Systems::of(buckets?)))
        };
        let started = started.await;
        if started.is_err() {
            discard(&folder);
        }
        started
    }

    async fn check(&self, server: &Server) -> Result<(), Failed> {
        canary::check(server, &self.keeper.trivy, &self.keeper.folder.work()).await
    }

    /// From now on the new server is used; the old one ends when the last scan that uses it does.
    fn switch(&mut self, server: Server) {
        let version = &server.version;
        tracing::info!(
            scanner = version.scanner,
            database = version.database_text(),
            "the vulnerability database was checked and is used"
        );
        metrics::gauge(
            "sluice_vulnerability_database_timestamp_seconds",
            version.database.timestamp() as f64,
            &[],
        );
        let age = Utc::now() - version.database;
        if age > OLD {
            tracing::warn!(
                age_days = age.num_days(),
                "the vulnerability database is old"
            );
        }
        let old = self.current();
        self.standing
            .send_replace(Standing::Ready(Arc::new(server)));
        // Its files stay readable for the process that has them open.
        if let Some(folder) = old.as_ref().and_then(|old| old.folder()) {
            discard(folder);
        }
        self.latch = None;
    }

    /// From now on nothing is scanned, until another server was checked.
    async fn withdraw(&mut self, reason: &str) {
        let old = self.current();
        self.wait(reason);
        if let Some(old) = old {
            old.stop().await;
        }
    }

    fn wait(&mut self, reason: &str) {
        self.standing
            .send_replace(Standing::Waiting(reason.to_owned()));
        let told = format!("a vulnerability database: {reason}");
        self.latch = Some(self.keeper.host.latch(&told));
    }

    fn tell(&mut self, failed: &Failed) {
        if self.current().is_some() {
            tracing::error!(
                reason = %failed,
                "no newer vulnerability database could be taken; the present one stays in use"
            );
        } else {
            tracing::error!(
                reason = %failed,
                "nothing is scanned until there is a working vulnerability database; messages wait"
            );
            self.wait(&failed.to_string());
        }
    }

    fn current(&self) -> Option<Arc<Server>> {
        match &*self.standing.borrow() {
            Standing::Ready(server) => Some(server.clone()),
            Standing::Waiting(_) => None,
        }
    }

    /// Tells a database that the log does not have yet; the log is also what other replicas told.
    async fn announce(&mut self) {
        let Some(server) = self.current() else {
            return;
        };
        let version = server.version.database_text();
        if self.announced.as_ref() == Some(&version) {
            return;
        }
        let told = async {
            let fact = ScannerDatabaseUpdated {
                scanner: SCANNER.parse()?,
                database_version: version.clone(),
                updated_at: server.version.database,
            };
            let event = Event::from(fact);
            let last = self.keeper.bus.last_fact(&event.subject()).await?;
            let known = matches!(last, Some(Event::ScannerDatabaseUpdated(last))
                if last.updated_at >= server.version.database);
            if !known {
                self.keeper
                    .bus
                    .publish(&event, &Cause::root(), &version)
                    .await?;
                crash::point("scanner-adapter.database_told");
            }
            anyhow::Ok(())
        };
        match told.await {
            Ok(()) => self.announced = Some(version),
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "a new vulnerability database could not be told; it is tried again"
            ),
        }
    }
}

async fn ended(server: Option<&Server>) {
    match server {
        Some(server) => server.ended().await,
        None => std::future::pending().await,
    }
}

fn no_folder(error: std::io::Error) -> Failed {
    Failed::new(Kind::DatabaseDownload, error.to_string())
}

/// Removes a folder; one that stays is removed at the next start.
fn discard(folder: &std::path::Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(%error, folder = %folder.display(), "the folder of a database could not be removed");
    }
}
