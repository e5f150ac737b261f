//! The process of a Trivy server that this adapter runs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use secrecy::SecretString;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::trivy::failure::TrivyFailure;
use crate::trivy::program::confinement::Lifetime;
use crate::trivy::program::{TrivyProgram, Variables, read_end};

/// A server process, which is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    stop: CancellationToken,
    ended: CancellationToken,
    folder: PathBuf,
    log: File,
    _stop_when_dropped: DropGuard,
}

impl ServerProcess {
    /// Starts a server over the database in a folder.
    pub(crate) fn start(
        program: &TrivyProgram,
        folder: &Path,
        listen: &str,
        token: &SecretString,
        tracker: &TaskTracker,
    ) -> std::io::Result<Self> {
        program.allow_write_recursive(folder)?;
        let log = tempfile::tempfile_in(folder)?;
        let output = log.try_clone()?;
        // The token is in the environment: every user of the machine can read arguments.
        let variables = Variables::default().with("TRIVY_TOKEN", token);
        let mut command = program.command(folder, &variables, Lifetime::Service);
        command
            .args(["server", "--skip-db-update", "--quiet", "--listen", listen])
            // The relay keeps the analyses of layers, and lends them to the server for one match.
            .args(["--cache-backend", "memory"])
            .arg("--cache-dir")
            .arg(folder)
            .stderr(Stdio::from(output));
        let mut child = command.spawn()?;
        let group = program.process_group(&child);
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let process = Self {
            stop: stop.clone(),
            ended: ended.clone(),
            folder: folder.to_owned(),
            log,
            _stop_when_dropped: stop.clone().drop_guard(),
        };
        tracker.spawn(async move {
            let mut group = group;
            let _ended_when_dropped = ended.drop_guard();
            tokio::select! {
                status = child.wait() => {
                    group.leader_ended();
                    drop(group);
                    tracing::debug!(?status, "a Trivy server ended by itself");
                }
                () = stop.cancelled() => {
                    drop(group);
                    child.kill().await.ok();
                }
            }
        });
        Ok(process)
    }

    /// Returns the folder of the database.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits until the process ends.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Kills the process, even while it is used, and waits until it has ended.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        self.ended.cancelled().await;
    }

    /// Returns why the process ended, by its output.
    pub(crate) fn failure(&mut self) -> TrivyFailure {
        TrivyFailure::from_output(&read_end(&mut self.log).unwrap_or_default())
    }
}
