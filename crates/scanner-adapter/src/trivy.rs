//! The driver of Trivy.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sluice_bus::Bus;
use sluice_domain::Digest;
use sluice_layer::ImageContents;
use sluice_service::{Host, SecretFile};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::image::documents::ImageDocuments;
use crate::image::work_folder::WorkFolder;
use crate::scanner::{LayerAnalysis, ScanReport, Scanner, ScannerVersion};
use crate::trivy::database::DatabaseOrigin;
use crate::trivy::database::folders::DatabaseFolders;
use crate::trivy::database::java_index::JavaIndex;
use crate::trivy::failure::FailureKind;
use crate::trivy::image_scan::{ANALYSIS_OPTIONS, ImageScan, RunFailure};
use crate::trivy::program::TrivyProgram;
use crate::trivy::report::sbom;
use crate::trivy::server::checked_server::CheckedServer;
use crate::trivy::server::client::{ServerAddress, Token, http_client};
use crate::trivy::server::relay::{Relay, Session};
use crate::trivy::server::server_source::{ServerOrigin, ServerSource};
use crate::trivy::server::server_state::ServerHandle;
use crate::trivy::server::supervisor::TrivySupervisor;
use crate::trivy::settings::TrivySettings;

mod database;
mod failure;
mod image_layout;
mod image_scan;
mod program;
pub(crate) mod report;
mod server;
pub(crate) mod settings;

/// Trivy, as the adapter drives it.
#[derive(Debug)]
pub(crate) struct TrivyScanner {
    servers: ServerHandle,
    relay: Relay,
    program: TrivyProgram,
    folders: DatabaseFolders,
    origin: DatabaseOrigin,
    java: JavaIndex,
    /// How long one run may take.
    limit: Duration,
    analysis_version: String,
}

impl TrivyScanner {
    /// Starts the supervisor of the server as a task of the host, which ends once `finished` is cancelled.
    pub(crate) async fn start(
        settings: &TrivySettings,
        limit: Duration,
        adapter: Arc<WorkFolder>,
        host: &Host,
        bus: Bus,
        finished: CancellationToken,
    ) -> anyhow::Result<Self> {
        let folders = DatabaseFolders::open(adapter.clone()).with_context(|| {
            format!(
                "failed to use `{}`; set `trivy.cache_dir` to a folder of this service",
                adapter.root().display()
            )
        })?;
        let temporary = adapter.temporary();
        let program = TrivyProgram::probe(&settings.binary, &temporary, settings.limits()).await?;
        let origin = DatabaseOrigin::of(settings);
        let supervisor = TrivySupervisor {
            host: host.clone(),
            bus,
            source: ServerSource {
                origin: match remote_server(settings)? {
                    Some(address) => ServerOrigin::Remote(address),
                    None => ServerOrigin::Local(origin.clone()),
                },
                program: program.clone(),
                folders: folders.clone(),
                http: http_client().context("failed to make an HTTP client")?,
                plausibility: settings.plausibility(),
                processes: TaskTracker::new(),
            },
            check_every: Duration::from_secs(settings.database_check_seconds),
        };
        let (servers, supervision) = supervisor.start(finished);
        host.spawn("trivy", supervision);
        let version = program.version().await?;
        Ok(Self {
            servers,
            relay: Relay::start().await?,
            program,
            folders,
            origin,
            java: JavaIndex::default(),
            limit,
            analysis_version: format!("{version} {}", ANALYSIS_OPTIONS.join(" ")),
        })
    }

    fn open_session(
        &self,
        checked: &CheckedServer,
        earlier: Vec<Option<LayerAnalysis>>,
        are_verified: &CancellationToken,
    ) -> Session {
        let client = checked.server.client.clone();
        self.relay
            .open(client, self.limit, earlier, are_verified.clone())
    }
}

impl Scanner for TrivyScanner {
    type Engine = CheckedServer;
    type Workspace = ImageScan;

    async fn engine(&self) -> Result<Arc<CheckedServer>, String> {
        self.servers.server().await
    }

    async fn ready(&self) {
        self.servers.ready().await;
    }

    fn recheck(&self) {
        self.servers.recheck();
    }

    fn version(engine: &CheckedServer) -> &ScannerVersion {
        &engine.server.version
    }

    async fn confirm(&self, engine: &CheckedServer) -> Result<(), Error> {
        Ok(engine.server.confirm().await?)
    }

    fn analysis_version(&self) -> &str {
        &self.analysis_version
    }

    fn prepare(
        &self,
        name: String,
        digest: &Digest,
        documents: &ImageDocuments,
    ) -> Result<ImageScan, Error> {
        ImageScan::create(&self.program, name, digest, documents)
    }

    fn layer_path(workspace: &ImageScan, diff_id: &Digest) -> PathBuf {
        workspace.layer_path(diff_id)
    }

    async fn analyse(
        &self,
        engine: &CheckedServer,
        workspace: &ImageScan,
        earlier: Vec<Option<LayerAnalysis>>,
        are_verified: &CancellationToken,
    ) -> Result<Vec<Option<LayerAnalysis>>, Error> {
        let (program, limit) = (&self.program, self.limit);
        let java = self.java.folder_or(workspace.folder()).await;
        let session = self.open_session(engine, earlier.clone(), are_verified);
        match workspace.run(program, session, &java, limit).await {
            Err(RunFailure::Trivy(failure)) if failure.kind == FailureKind::JavaDatabase => {}
            result => return Ok(result?),
        }
        let java = self
            .java
            .fetch(&self.origin, program, &self.folders)
            .await?;
        let session = self.open_session(engine, earlier, are_verified);
        Ok(workspace.run(program, session, &java, limit).await?)
    }

    async fn report(
        &self,
        engine: &CheckedServer,
        workspace: &ImageScan,
        documents: &ImageDocuments,
        contents: &ImageContents,
    ) -> Result<ScanReport, Error> {
        workspace
            .report(&self.program, engine, documents, contents)
            .await
    }

    fn bill_of_materials(report: &[u8], version: &ScannerVersion) -> Result<Vec<u8>, Error> {
        Ok(sbom::bill_of_materials(report, &version.scanner)?)
    }
}

/// Returns the address of the remote server, if there is one. Its token must be readable at the start.
fn remote_server(settings: &TrivySettings) -> anyhow::Result<Option<ServerAddress>> {
    let Some(url) = settings.remote_url() else {
        return Ok(None);
    };
    let token = settings.token_file().map(|file| {
        let file = SecretFile::at(file);
        file.text()?;
        anyhow::Ok(Token::File(file))
    });
    Ok(Some(ServerAddress {
        url,
        token: token.transpose()?,
    }))
}
