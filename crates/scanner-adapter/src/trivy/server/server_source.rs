//! Where servers come from: a server is started over a database that was fetched and checked, or a remote one is checked.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use tokio_util::task::TaskTracker;

use crate::trivy::database::advisory_buckets::AdvisoryBuckets;
use crate::trivy::database::coverage::DatabaseCoverage;
use crate::trivy::database::folders::{self, DatabaseFolders, discard};
use crate::trivy::database::plausibility::{Baseline, Plausibility};
use crate::trivy::database::{DatabaseMetadata, DatabaseOrigin, read_metadata};
use crate::trivy::failure::{FailureKind, TrivyFailure};
use crate::trivy::program::TrivyProgram;
use crate::trivy::server::TrivyServer;
use crate::trivy::server::canary;
use crate::trivy::server::checked_server::CheckedServer;
use crate::trivy::server::client::{ServerAddress, ServerClient};

/// Who runs the server.
#[derive(Debug)]
pub(crate) enum ServerOrigin {
    /// This adapter, over databases from an origin.
    Local(DatabaseOrigin),
    /// Others, at an address.
    Remote(ServerAddress),
}

/// Starts and checks servers.
#[derive(Debug)]
pub(crate) struct ServerSource {
    pub(crate) origin: ServerOrigin,
    pub(crate) program: TrivyProgram,
    pub(crate) folders: DatabaseFolders,
    pub(crate) http: reqwest::Client,
    pub(crate) plausibility: Plausibility,
    /// The processes of the servers.
    pub(crate) processes: TaskTracker,
}

/// A server that replaces the current one.
#[derive(Debug)]
pub(crate) struct NewServer {
    pub(crate) server: CheckedServer,
    /// Whether its database is the latest of its origin.
    pub(crate) is_latest: bool,
}

impl ServerSource {
    /// Checks a server that is in use.
    pub(crate) async fn recheck(&self, server: &TrivyServer) -> Result<(), TrivyFailure> {
        server.confirm().await?;
        self.check_age(server.version.database)?;
        self.check_canary(server).await
    }

    /// Returns a server to use instead of the current one, if there is a newer one or no current one.
    pub(crate) async fn next(
        &self,
        current: Option<&TrivyServer>,
    ) -> Result<Option<NewServer>, TrivyFailure> {
        match (&self.origin, current) {
            (ServerOrigin::Remote(_), Some(_)) => Ok(None),
            (ServerOrigin::Remote(address), None) => self.connect(address).await.map(Some),
            (ServerOrigin::Local(origin), None) => self.first(origin).await.map(Some),
            (ServerOrigin::Local(origin), Some(current)) => self.newer(origin, current).await,
        }
    }

    async fn connect(&self, address: &ServerAddress) -> Result<NewServer, TrivyFailure> {
        let client = ServerClient {
            address: address.clone(),
            http: self.http.clone(),
        };
        let server = TrivyServer::connect(client, self.plausibility.max_age).await?;
        self.check_age(server.version.database)?;
        self.check_canary(&server).await?;
        Ok(NewServer {
            server: CheckedServer::remote(server),
            is_latest: true,
        })
    }

    /// Starts a server over the newest database on the disk; fetches one where none can be used.
    async fn first(&self, origin: &DatabaseOrigin) -> Result<NewServer, TrivyFailure> {
        let mut not_started = None;
        for folder in self.folders.complete() {
            match self.serve(&folder).await {
                Ok(server) => {
                    return Ok(NewServer {
                        server,
                        is_latest: false,
                    });
                }
                Err(failure) if failure.kind.is_bad_content() => {
                    tracing::error!(reason = %failure, "the vulnerability database on the disk is removed");
                    discard(&folder);
                }
                Err(failure) => {
                    tracing::warn!(reason = %failure, "the vulnerability database on the disk is kept, and not used now");
                    // A database that is only too old does not prevent the fetch of a newer one.
                    if failure.kind != FailureKind::DatabaseAge {
                        not_started = not_started.or(Some(failure));
                    }
                }
            }
        }
        // A server that did not start says nothing of the database, which is tried again and not fetched again.
        if let Some(failure) = not_started {
            return Err(failure);
        }
        let (folder, _) = self.fetch(origin).await?;
        let server = self.serve_fetched(&folder).await?;
        Ok(NewServer {
            server,
            is_latest: true,
        })
    }

    /// Fetches a newer database beside the current one and starts a server over it.
    async fn newer(
        &self,
        origin: &DatabaseOrigin,
        current: &TrivyServer,
    ) -> Result<Option<NewServer>, TrivyFailure> {
        let present = current.folder();
        let newest = self.folders.complete().into_iter().next();
        let folder = match newest.filter(|folder| Some(folder.as_path()) != present) {
            // It was fetched before, when no server could be started over it.
            Some(folder) => folder,
            None => {
                let metadata = present.and_then(|folder| read_metadata(&folder.join("db")).ok());
                if metadata.is_some_and(|metadata| Utc::now() < metadata.next_check_at()) {
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
        let server = self.serve_fetched(&folder).await?;
        Ok(Some(NewServer {
            server,
            is_latest: true,
        }))
    }

    /// Fetches the database that its origin has now, into a folder of its own.
    async fn fetch(
        &self,
        origin: &DatabaseOrigin,
    ) -> Result<(PathBuf, DatabaseMetadata), TrivyFailure> {
        let folder = self.folders.create().map_err(folder_failure)?;
        let fetched = async {
            let metadata = origin.fetch(&self.program, &folder).await?;
            folders::mark_fetched(&folder).map_err(folder_failure)?;
            Ok(metadata)
        };
        match fetched.await {
            Ok(metadata) => Ok((folder, metadata)),
            Err(failure) => {
                discard(&folder);
                Err(failure)
            }
        }
    }

    /// Starts a server over a database that was just fetched. The database is removed if it is refused, and kept if no
    /// server could be started.
    async fn serve_fetched(&self, folder: &Path) -> Result<CheckedServer, TrivyFailure> {
        let served = self.serve(folder).await;
        if let Err(failure) = &served
            && failure.kind.refusal_label().is_some()
        {
            discard(folder);
        }
        served
    }

    /// Checks a database, and starts a server over it.
    async fn serve(&self, folder: &Path) -> Result<CheckedServer, TrivyFailure> {
        let metadata = read_metadata(&folder.join("db"))?;
        self.check_age(metadata.updated_at)?;
        // Before Trivy opens the file, because it makes an empty database of a damaged one.
        let (coverage, baseline) = self.check_content(folder, metadata).await?;
        let max_age = self.plausibility.max_age;
        let (program, http) = (&self.program, &self.http);
        let server = TrivyServer::start(program, folder, http, &self.processes, max_age).await?;
        self.check_canary(&server).await?;
        if let Some(baseline) = baseline {
            self.plausibility.store(&baseline)?;
            folders::mark_accepted(folder).map_err(folder_failure)?;
        }
        Ok(CheckedServer::local(server, coverage))
    }

    /// Reads the buckets of a database, and compares them with the baseline, unless the database was already used.
    async fn check_content(
        &self,
        folder: &Path,
        metadata: DatabaseMetadata,
    ) -> Result<(DatabaseCoverage, Option<Baseline>), TrivyFailure> {
        let plausibility = self.plausibility.clone();
        let (file, is_accepted) = (folder.join("db/trivy.db"), folders::is_accepted(folder));
        let check = move || {
            let buckets = AdvisoryBuckets::read(&file)?;
            let baseline = if is_accepted {
                plausibility.missing_baseline(metadata.updated_at, &buckets)?
            } else {
                Some(plausibility.check_content(&file, metadata.updated_at, &buckets)?)
            };
            Ok((DatabaseCoverage::of(&buckets), baseline))
        };
        let checked = tokio::task::spawn_blocking(check).await;
        checked
            .unwrap_or_else(|error| Err(TrivyFailure::new(FailureKind::Unknown, error.to_string())))
    }

    fn check_age(&self, updated_at: DateTime<Utc>) -> Result<(), TrivyFailure> {
        self.plausibility.check_age(updated_at, Utc::now())
    }

    /// Lets a server match the canary; twice if it answers that it failed, because that refuses its database.
    async fn check_canary(&self, server: &TrivyServer) -> Result<(), TrivyFailure> {
        match canary::check(server, &self.program).await {
            Err(failure) if failure.kind == FailureKind::ServerFailed => {
                canary::check(server, &self.program).await
            }
            result => result,
        }
    }
}

fn folder_failure(error: std::io::Error) -> TrivyFailure {
    TrivyFailure::new(FailureKind::DatabaseDownload, error.to_string())
}
