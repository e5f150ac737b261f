//! Keeps a Trivy server with a checked database running: starts it, restarts it, and replaces it by one with a newer
//! database.
//!
//! It must not know of images. A scan asks [`ServerHandle`] for a server, and gets none that was not checked.

use std::time::Duration;

use chrono::Utc;
use sluice_bus::{Bus, Cause};
use sluice_domain::Backoff;
use sluice_events::Event;
use sluice_events::facts::ScannerDatabaseUpdated;
use sluice_service::{Host, Latch, crash};
use sluice_state::key::SCANNER;
use sluice_telemetry::metrics;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::trivy::database::folders::discard;
use crate::trivy::failure::TrivyFailure;
use crate::trivy::server::checked_server::CheckedServer;
use crate::trivy::server::server_source::{NewServer, ServerSource};
use crate::trivy::server::server_state::{self, ServerHandle, ServerPublisher, ServerState};

/// The pauses after failures and after crashes.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
/// A server that ran this long did not crash because of its start.
const STABLE: Duration = Duration::from_secs(60);
/// The age at which the log warns of a database; Trivy uses any without a warning.
const WARNING_AGE: chrono::TimeDelta = chrono::TimeDelta::days(7);

/// Keeps a server running.
pub(crate) struct TrivySupervisor {
    pub(crate) host: Host,
    pub(crate) bus: Bus,
    pub(crate) source: ServerSource,
    pub(crate) check_every: Duration,
}

/// A supervisor at work.
struct Supervision {
    supervisor: TrivySupervisor,
    publisher: ServerPublisher,
    latch: Option<Latch>,
    /// The version of the database that was published last.
    published: Option<String>,
}

impl TrivySupervisor {
    /// Returns a handle for scans, and the task that keeps a server running until all scans have finished.
    pub(crate) fn start(
        self,
        finished: CancellationToken,
    ) -> (
        ServerHandle,
        impl Future<Output = anyhow::Result<()>> + Send + use<>,
    ) {
        // So that the metric exists before it grows.
        for reason in ["age", "shrunk", "broken"] {
            metrics::DATABASE_REFUSALS.add(0, &[reason]);
        }
        let reason = "a vulnerability database".to_owned();
        let latch = self.host.latch(&reason);
        let (publisher, handle) = server_state::channel(reason);
        let mut supervision = Supervision {
            supervisor: self,
            publisher,
            latch: Some(latch),
            published: None,
        };
        let task = async move {
            tokio::select! {
                biased;
                () = finished.cancelled() => {}
                () = supervision.run() => {}
            }
            supervision.end().await;
            Ok(())
        };
        (handle, task)
    }
}

impl Supervision {
    async fn run(&mut self) {
        let (mut failures, mut crashes) = (0, 0);
        loop {
            let checked = self.check().await;
            let current = self.publisher.current();
            let pause = match checked {
                Ok(true) => self.supervisor.check_every,
                Ok(false) => BACKOFF.delay(1, 1.0),
                Err(failure) => {
                    self.report_failure(&failure);
                    failures += 1;
                    if current.is_some() {
                        self.supervisor.check_every
                    } else {
                        BACKOFF.delay(failures, 1.0)
                    }
                }
            };
            // The current database serves until the next check for a newer one.
            let pause = if current.is_some() {
                failures = 0;
                self.publish_database().await;
                pause.max(BACKOFF.delay(1, 1.0))
            } else {
                pause
            };
            let since = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.publisher.recheck_requested() => {}
                () = ended(current.as_deref()) => {
                    crashes = if since.elapsed() < STABLE { crashes + 1 } else { 1 };
                    tracing::warn!(crashes, "the Trivy server ended unexpectedly; it is started again");
                    self.withdraw("the Trivy server ended and is started again").await;
                    // The first restart is immediate.
                    tokio::time::sleep(BACKOFF.delay(crashes, 1.0).saturating_sub(Duration::from_secs(1))).await;
                }
            }
        }
    }

    /// Stops the server, and waits until its process has ended.
    async fn end(self) {
        let Self {
            supervisor,
            publisher,
            ..
        } = self;
        publisher.publish(ServerState::Waiting("the service stops".to_owned()));
        let processes = supervisor.source.processes;
        processes.close();
        processes.wait().await;
    }

    /// Checks the current server, and replaces it if there is a newer database; says whether the database is the latest.
    async fn check(&mut self) -> Result<bool, TrivyFailure> {
        if let Some(current) = self.publisher.current()
            && let Err(failure) = self.supervisor.source.recheck(&current.server).await
        {
            tracing::warn!(reason = %failure, "the scanner is not used until it passes its checks again");
            self.withdraw(&failure.to_string()).await;
        }
        let current = self.publisher.current();
        let current = current.as_ref().map(|current| &current.server);
        match self.supervisor.source.next(current).await? {
            Some(NewServer { server, is_latest }) => {
                self.switch(server);
                Ok(is_latest)
            }
            None => Ok(true),
        }
    }

    /// Makes a new server the one that is used. The old one ends with the last scan that uses it.
    fn switch(&mut self, new: CheckedServer) {
        let version = &new.server.version;
        tracing::info!(
            scanner = version.scanner,
            database = version.database_text(),
            "the vulnerability database passed its checks and is used"
        );
        metrics::DATABASE_TIMESTAMP.set(version.database.timestamp() as f64, &[]);
        let age = Utc::now() - version.database;
        if age > WARNING_AGE {
            tracing::warn!(
                age_days = age.num_days(),
                "the vulnerability database is old"
            );
        }
        // A newer one, over which no server could be started yet, stays for the next check.
        let present = new.server.folder();
        let mut older = match present {
            Some(_) => self.supervisor.source.folders.complete(),
            None => Vec::new(),
        };
        let position = older.iter().position(|one| Some(one.as_path()) == present);
        older.drain(..position.map_or(0, |position| position + 1));
        self.publisher.publish(ServerState::Ready(new.into()));
        // The process that has their files open can still read them.
        older.iter().for_each(|folder| discard(folder));
        self.latch = None;
    }

    /// Stops the current server. Nothing is scanned until there is another one.
    async fn withdraw(&mut self, reason: &str) {
        let old = self.publisher.current();
        self.wait(reason);
        if let Some(old) = old {
            old.server.stop().await;
        }
    }

    fn wait(&mut self, reason: &str) {
        self.publisher
            .publish(ServerState::Waiting(reason.to_owned()));
        let readiness = format!("a vulnerability database: {reason}");
        self.latch = Some(self.supervisor.host.latch(&readiness));
    }

    fn report_failure(&mut self, failure: &TrivyFailure) {
        if let Some(reason) = failure.kind.refusal_label() {
            metrics::DATABASE_REFUSALS.add(1, &[reason]);
        }
        if self.publisher.current().is_some() {
            tracing::error!(
                reason = %failure,
                "no newer vulnerability database can be used; the present one stays in use"
            );
        } else {
            tracing::error!(
                reason = %failure,
                "nothing is scanned until there is a working vulnerability database; messages wait"
            );
            self.wait(&failure.to_string());
        }
    }

    /// Publishes the database in use, unless the log has it already; another replica may have published it.
    async fn publish_database(&mut self) {
        let Some(current) = self.publisher.current() else {
            return;
        };
        let database = &current.server.version;
        let version = database.database_text();
        if self.published.as_ref() == Some(&version) {
            return;
        }
        let bus = &self.supervisor.bus;
        let publish = async {
            let fact = ScannerDatabaseUpdated {
                scanner: SCANNER.parse()?,
                database_version: version.clone(),
                updated_at: database.database,
            };
            let event = Event::from(fact);
            let last = bus.last_fact(&event.subject()).await?;
            let is_published = matches!(last, Some(Event::ScannerDatabaseUpdated(last))
                if last.updated_at >= database.database);
            if !is_published {
                bus.publish(&event, &Cause::root(), &version).await?;
                crash::point("scanner-adapter.database_told");
            }
            anyhow::Ok(())
        };
        match publish.await {
            Ok(()) => self.published = Some(version),
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "failed to publish a new vulnerability database; retrying after the next check"
            ),
        }
    }
}

/// Waits until the process of a server ends.
async fn ended(current: Option<&CheckedServer>) {
    match current {
        Some(current) => current.server.ended().await,
        None => std::future::pending().await,
    }
}
