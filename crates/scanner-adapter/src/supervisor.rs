//! Keeps a Trivy server with a checked database there: starts it, restarts it, and exchanges it for a newer one.
//!
//! It must not know of images. Whoever scans asks [`Scanner`] for a server, and gets none that was not checked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
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

use crate::advisory_buckets;
use crate::canary;
use crate::database::{Metadata, Origin, metadata};
use crate::distributions::Systems;
use crate::failure::{Failed, Kind};
use crate::folder::{self, Folder};
use crate::plausibility::{Baseline, Plausibility};
use crate::server::{Address, Server};
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
enum ServerState {
    Ready(Arc<Server>),
    Waiting(String),
}

/// Gives out the server whose database was checked; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Scanner {
    standing: watch::Receiver<ServerState>,
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

/// Keeps a Trivy server running, with a database that was checked.
pub(crate) struct TrivySupervisor {
    pub(crate) host: Host,
    pub(crate) bus: Bus,
    pub(crate) trivy: Trivy,
    pub(crate) folder: Arc<Folder>,
    pub(crate) source: Source,
    pub(crate) http: reqwest::Client,
    pub(crate) check_every: Duration,
    pub(crate) plausibility: Plausibility,
}

/// A keeper at work.
struct Keeping {
    keeper: TrivySupervisor,
    standing: watch::Sender<ServerState>,
    doubted: Arc<Notify>,
    tracker: TaskTracker,
    latch: Option<Latch>,
    announced: Option<String>,
}

/// A server that was checked, and whether it may be behind what its origin has.
struct CheckedServer {
    server: Server,
    latest: bool,
}

impl Scanner {
    /// Waits a while for a server; without one, returns why there is none.
    pub(crate) async fn server(&self) -> Result<Arc<Server>, String> {
        let mut standing = self.standing.clone();
        let ready = standing.wait_for(|standing| matches!(standing, ServerState::Ready(_)));
        match tokio::time::timeout(PATIENCE, ready).await {
            Ok(Ok(standing)) => match &*standing {
                ServerState::Ready(server) => Ok(server.clone()),
                ServerState::Waiting(reason) => Err(reason.clone()),
            },
            Ok(Err(_)) => Err("the service stops".to_owned()),
            Err(_) => Err(match &*self.standing.borrow() {
                ServerState::Waiting(reason) => reason.clone(),
                ServerState::Ready(_) => "the server was only just checked".to_owned(),
            }),
        }
    }

    /// Waits for the first server.
    pub(crate) async fn ready(&self) {
        let mut standing = self.standing.clone();
        // Without a keeper nothing is scanned any more, and the process stops.
        standing
            .wait_for(|standing| matches!(standing, ServerState::Ready(_)))
            .await
            .ok();
    }

    /// Says that the server failed, so that it is checked at once.
    pub(crate) fn recheck(&self) {
        self.doubted.notify_one();
    }
}

impl TrivySupervisor {
    /// Returns what gives out servers, and the task that keeps one there until everybody has finished.
    pub(crate) fn start(
        self,
        finished: CancellationToken,
    ) -> (
        Scanner,
        impl Future<Output = anyhow::Result<()>> + Send + use<>,
    ) {
        // So that their growth is seen from the first on.
        for reason in ["age", "shrunk", "broken"] {
            metrics::DATABASE_REFUSALS.add(0, &[reason]);
        }
        let reason = "a vulnerability database".to_owned();
        let latch = self.host.latch(&reason);
        let (standing, seen) = watch::channel(ServerState::Waiting(reason));
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
            .send_replace(ServerState::Waiting("the service stops".to_owned()));
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Checks the present server, and takes a newer one if there is one; says whether that is the latest.
    async fn look(&mut self) -> Result<bool, Failed> {
        if let Some(server) = self.current() {
            let checked = async {
                server.confirm().await?;
                self.check_age(server.version.database)?;
                self.check(&server).await
            };
            if let Err(failed) = checked.await {
                tracing::warn!(reason = %failed, "the scanner is not used until it is checked anew");
                self.withdraw(&failed.to_string()).await;
            }
        }
        match self.obtain(self.current()).await? {
            Some(CheckedServer { server, latest }) => {
                self.switch(server);
                Ok(latest)
            }
            None => Ok(true),
        }
    }

    async fn obtain(&self, current: Option<Arc<Server>>) -> Result<Option<CheckedServer>, Failed> {
        let keeper = &self.keeper;
        match (&keeper.source, current) {
            (Source::Elsewhere(_), Some(_)) => Ok(None),
            (Source::Elsewhere(address), None) => {
                let http = keeper.http.clone();
                let server = Server::elsewhere(address.clone(), http, keeper.plausibility.max_age);
                let server = server.await?;
                self.check_age(server.version.database)?;
                self.check(&server).await?;
                Ok(Some(CheckedServer {
                    server,
                    latest: true,
                }))
            }
            (Source::Own(origin), None) => self.first(origin).await.map(Some),
            (Source::Own(origin), Some(current)) => self.newer(origin, &current).await,
        }
    }

    /// Starts a server over the newest database that is there; where there is none that can be used, fetches one.
    async fn first(&self, origin: &Origin) -> Result<CheckedServer, Failed> {
        let mut unstarted = None;
        for folder in self.keeper.folder.fetched() {
            match self.serve(&folder).await {
                Ok(server) => {
                    return Ok(CheckedServer {
                        server,
                        latest: false,
                    });
                }
                Err(failed) if failed.kind.condemns() => {
                    tracing::error!(reason = %failed, "the vulnerability database that is there is not used");
                    discard(&folder);
                }
                Err(failed) => {
                    tracing::warn!(reason = %failed, "the vulnerability database that is there is kept, and not used now");
                    // One that is only too old is no reason against fetching a newer one.
                    if failed.kind != Kind::DatabaseAge {
                        unstarted = unstarted.or(Some(failed));
                    }
                }
            }
        }
        // A server that did not start says nothing of the database: that is tried again, and not fetched again.
        if let Some(failed) = unstarted {
            return Err(failed);
        }
        let (folder, _) = self.fetch(origin).await?;
        let server = self.serve_new(&folder).await?;
        Ok(CheckedServer {
            server,
            latest: true,
        })
    }

    /// Fetches a newer database beside the present one and starts a server over it.
    async fn newer(
        &self,
        origin: &Origin,
        current: &Server,
    ) -> Result<Option<CheckedServer>, Failed> {
        let present = current.folder();
        let waiting = self.keeper.folder.fetched().into_iter().next();
        let folder = match waiting.filter(|folder| Some(folder.as_path()) != present) {
            // Fetched before, when no server could be started over it.
            Some(folder) => folder,
            None => {
                let metadata = present.and_then(|folder| metadata(&folder.join("db")).ok());
                if metadata.is_some_and(|metadata| Utc::now() < metadata.look_again_at()) {
                    return Ok(None);
                }
                let (folder, fetched) = self.fetch(origin).await?;
                if fetched.updated_at <= current.version.database {
                    discard(&folder);
                    return Ok(None);
                }
                folder
            }
        };
        let server = self.serve_new(&folder).await?;
        Ok(Some(CheckedServer {
            server,
            latest: true,
        }))
    }

    /// Fetches the database that its origin has now, into a folder of its own.
    async fn fetch(&self, origin: &Origin) -> Result<(PathBuf, Metadata), Failed> {
        let keeper = &self.keeper;
        let folder = keeper.folder.next().map_err(no_folder)?;
        let fetched = async {
            let metadata = origin.fetch(&keeper.trivy, &folder).await?;
            folder::mark_fetched(&folder).map_err(no_folder)?;
            Ok(metadata)
        };
        match fetched.await {
            Ok(metadata) => Ok((folder, metadata)),
            Err(failed) => {
                discard(&folder);
                Err(failed)
            }
        }
    }

    /// Starts a server over a database that was just fetched. It is removed if it is refused, and kept for the next
    /// time if no server could be started.
    async fn serve_new(&self, folder: &Path) -> Result<Server, Failed> {
        let served = self.serve(folder).await;
        if let Err(failed) = &served
            && failed.kind.refusal().is_some()
        {
            discard(folder);
        }
        served
    }

    /// Checks a database, and starts a server over it.
    async fn serve(&self, folder: &Path) -> Result<Server, Failed> {
        let keeper = &self.keeper;
        let metadata = metadata(&folder.join("db"))?;
        self.check_age(metadata.updated_at)?;
        // Before Trivy has the file, for it makes an empty database of a damaged one.
        let (systems, baseline) = self.read(folder, metadata).await?;
        let max_age = keeper.plausibility.max_age;
        let http = keeper.http.clone();
        let server = Server::start(&keeper.trivy, folder, http, &self.tracker, max_age).await?;
        self.check(&server).await?;
        if let Some(baseline) = baseline {
            keeper.plausibility.store(&baseline)?;
            folder::mark_accepted(folder).map_err(no_folder)?;
        }
        Ok(server.with_systems(systems))
    }

    /// Reads what a database has, and compares it with the one before, unless it was already used.
    async fn read(
        &self,
        folder: &Path,
        metadata: Metadata,
    ) -> Result<(Systems, Option<Baseline>), Failed> {
        let plausibility = self.keeper.plausibility.clone();
        let (file, is_accepted) = (folder.join("db/trivy.db"), folder::is_accepted(folder));
        let read = move || {
            let counts = advisory_buckets::counts(&file)?;
            let baseline = if is_accepted {
                plausibility.missing_baseline(metadata.updated_at, &counts)?
            } else {
                Some(plausibility.check_content(&file, metadata.updated_at, &counts)?)
            };
            Ok((Systems::of(&counts), baseline))
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|error| Err(Failed::new(Kind::Unknown, error.to_string())))
    }

    fn check_age(&self, updated_at: DateTime<Utc>) -> Result<(), Failed> {
        self.keeper.plausibility.check_age(updated_at, Utc::now())
    }

    /// Lets a server match the canary; once more if it answers that it failed, for that refuses its database.
    async fn check(&self, server: &Server) -> Result<(), Failed> {
        let (trivy, work) = (&self.keeper.trivy, self.keeper.folder.work());
        match canary::check(server, trivy, &work).await {
            Err(failed) if failed.kind == Kind::ServerFailed => {
                canary::check(server, trivy, &work).await
            }
            checked => checked,
        }
    }

    /// From now on the new server is used; the old one ends when the last scan that uses it does.
    fn switch(&mut self, server: Server) {
        let version = &server.version;
        tracing::info!(
            scanner = version.scanner,
            database = version.database_text(),
            "the vulnerability database was checked and is used"
        );
        metrics::DATABASE_TIMESTAMP.set(version.database.timestamp() as f64, &[]);
        let age = Utc::now() - version.database;
        if age > OLD {
            tracing::warn!(
                age_days = age.num_days(),
                "the vulnerability database is old"
            );
        }
        // A newer one, over which no server could be started yet, is left for the next look.
        let mut older = match server.folder() {
            Some(_) => self.keeper.folder.fetched(),
            None => Vec::new(),
        };
        let present = older
            .iter()
            .position(|one| Some(one.as_path()) == server.folder());
        older.drain(..present.map_or(0, |position| position + 1));
        self.standing
            .send_replace(ServerState::Ready(Arc::new(server)));
        // Their files stay readable for the process that has them open.
        older.iter().for_each(|folder| discard(folder));
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
            .send_replace(ServerState::Waiting(reason.to_owned()));
        let told = format!("a vulnerability database: {reason}");
        self.latch = Some(self.keeper.host.latch(&told));
    }

    fn tell(&mut self, failed: &Failed) {
        if let Some(reason) = failed.kind.refusal() {
            metrics::DATABASE_REFUSALS.add(1, &[reason]);
        }
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
            ServerState::Ready(server) => Some(server.clone()),
            ServerState::Waiting(_) => None,
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
fn discard(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(%error, folder = %folder.display(), "the folder of a database could not be removed");
    }
}
