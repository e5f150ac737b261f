//! Child processes: started, watched, restarted, stopped in order.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use sluice_service::{Host, find_program};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a server may take to stop after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How much of the end of a log an error shows.
const LOG_TAIL_BYTES: u64 = 2_000;
const LOG_TAIL_LINES: usize = 8;
/// The exit status of a program in Go that crashed: <https://pkg.go.dev/runtime#hdr-Environment_Variables>.
const CRASHED: i32 = 2;
/// How often a server that crashes is started again, until it has run for `STABLE`.
const MAX_CRASHES: u32 = 3;
const STABLE: Duration = Duration::from_secs(60);

/// The child processes; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Children {
    tracker: TaskTracker,
    controls: Arc<Mutex<Vec<Control>>>,
}

/// Signals to and from the task that watches a child.
#[derive(Debug, Clone)]
struct Control {
    name: &'static str,
    stop: CancellationToken,
    stopped: CancellationToken,
    restart: Arc<Notify>,
}

/// Restarts a child; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct RestartHandle(Arc<Notify>);

impl RestartHandle {
    /// Requests a restart.
    pub(super) fn request(&self) {
        self.0.notify_one();
    }
}

/// A program to start as a child.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// The name of the server in logs.
    pub(super) name: &'static str,
    /// The file.
    pub(super) path: PathBuf,
    /// The arguments.
    pub(super) arguments: Vec<OsString>,
    /// Defaults for variables that the environment of this process does not set.
    pub(super) environment: &'static [(&'static str, &'static str)],
    /// The file for its output.
    pub(super) log: PathBuf,
}

impl Program {
    fn start(&self) -> anyhow::Result<Child> {
        let unset = |name: &str| std::env::var_os(name).is_none();
        let defaults = self.environment.iter().filter(|(name, _)| unset(name));
        let child = self
            .command()?
            .envs(defaults.copied())
            .spawn()
            .with_context(|| format!("failed to start `{}`", self.path.display()))?;
        tracing::info!(
            server = self.name,
            pid = child.id(),
            log = %self.log.display(),
            "started a server"
        );
        Ok(child)
    }

    /// Returns a command in a process group of its own, so that Ctrl-C at a terminal reaches this process only.
    fn command(&self) -> anyhow::Result<Command> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("failed to open the log `{}`", self.log.display()))?;
        let errors = output.try_clone().context("failed to share a log")?;
        let setpriv = find_program(&["setpriv"], None).ok().flatten();
        let mut command = match setpriv {
            // The kernel stops the server if this process is killed.
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "TERM", "--"]).arg(&self.path);
                command
            }
            None => Command::new(&self.path),
        };
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }
}

impl Children {
    /// Starts a server; the host stops when it ends. One that crashes is started again first, some times.
    ///
    /// Must be called on the main thread: the kernel stops a child when the thread that started it ends.
    pub(super) fn spawn(&self, host: &Host, program: Program) -> anyhow::Result<RestartHandle> {
        let (name, log) = (program.name, program.log.clone());
        let child = program.start()?;
        let control = Control {
            name,
            stop: CancellationToken::new(),
            stopped: CancellationToken::new(),
            restart: Arc::new(Notify::new()),
        };
        self.controls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(control.clone());
        let restart = RestartHandle(control.restart.clone());
        let (exited, exit) = oneshot::channel();
        self.tracker.spawn(watch(child, program, control, exited));
        let stopping = host.stopping();
        host.spawn(name, async move {
            tokio::select! {
                biased;
                () = stopping.cancelled() => Ok(()),
                status = exit => anyhow::bail!(
                    "{name} ended ({}); the end of `{}`: {}",
                    status.context("its exit status is unknown")?,
                    log.display(),
                    tail(&log)
                ),
            }
        });
        Ok(restart)
    }

    /// Stops the servers one after the other, the last started first.
    pub(crate) async fn stop(&self) {
        let controls =
            std::mem::take(&mut *self.controls.lock().unwrap_or_else(PoisonError::into_inner));
        for control in controls.iter().rev() {
            tracing::info!(server = control.name, "stopping a server");
            control.stop.cancel();
            control.stopped.cancelled().await;
        }
        self.tracker.close();
        self.tracker.wait().await;
    }
}

async fn watch(
    mut child: Child,
    program: Program,
    control: Control,
    exited: oneshot::Sender<ExitStatus>,
) {
    let _stopped = control.stopped.clone().drop_guard();
    let (mut started, mut crashes) = (Instant::now(), 0);
    loop {
        tokio::select! {
            biased;
            () = control.stop.cancelled() => return stop(&mut child, control.name).await,
            () = control.restart.notified() => stop(&mut child, control.name).await,
            status = child.wait() => {
                if started.elapsed() > STABLE {
                    crashes = 0;
                }
                match status {
                    Ok(status) if status.code() == Some(CRASHED) && crashes < MAX_CRASHES => {
                        crashes += 1;
                        let (server, log) = (control.name, program.log.display());
                        tracing::warn!(server, %log, "a server crashed; starting it again");
                    }
                    Ok(status) => {
                        // The receiver is dropped when the host has stopped meanwhile.
                        exited.send(status).ok();
                        return;
                    }
                    Err(error) => {
                        tracing::error!(server = control.name, %error, "failed to wait for a server");
                        return;
                    }
                }
            }
        }
        match program.start() {
            Ok(next) => (child, started) = (next, Instant::now()),
            // The host notices that `exited` is dropped.
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "failed to restart a server");
                return;
            }
        }
    }
}

async fn stop(child: &mut Child, name: &str) {
    if let Some(id) = child.id() {
        signal("TERM", id).await;
    }
    if tokio::time::timeout(STOP_LIMIT, child.wait())
        .await
        .is_err()
    {
        tracing::warn!(server = name, limit = ?STOP_LIMIT, "killing a server that did not stop");
        if let Err(error) = child.kill().await {
            tracing::error!(server = name, %error, "failed to kill a server");
        }
    }
}

/// Sends a signal such as `TERM`; false if the process does not exist.
///
/// It runs the `kill` of the shell, because the standard library can only send SIGKILL.
pub(super) async fn signal(name: &str, process: u32) -> bool {
    let sent = Command::new("/bin/sh")
        .args(["-c", "kill -s \"$0\" \"$1\""])
        .args([name, &process.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    sent.is_ok_and(|status| status.success())
}

/// Returns the last lines of a log.
fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<_> = text.trim_end().lines().rev().take(LOG_TAIL_LINES).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        }
        Err(error) => format!("(failed to read it: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spawn(children: &Children, host: &Host, folder: &Path, script: &str) {
        let program = Program {
            name: "sample",
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: &[],
            log: folder.join("log"),
        };
        children.spawn(host, program).unwrap();
    }

    #[tokio::test]
    async fn a_server_that_ends_stops_the_host_and_shows_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let (children, host) = (Children::default(), Host::new("sample"));
        let script = "for n in 1 2 3 4 5 6 7 8 9; do echo line $n; done; exit 3";
        spawn(&children, &host, folder.path(), script);
        assert!(!host.run_until_stopped(Duration::from_secs(10)).await);
        let lines = tail(&folder.path().join("log"));
        assert!(
            lines.starts_with("line 2\n") && lines.ends_with("line 9"),
            "{lines}"
        );
        children.stop().await;
    }

    #[tokio::test]
    async fn a_server_that_crashes_is_started_again_until_it_does_so_too_often() {
        let folder = tempfile::tempdir().unwrap();
        let (children, host) = (Children::default(), Host::new("sample"));
        spawn(&children, &host, folder.path(), "echo started; exit 2");
        assert!(!host.run_until_stopped(Duration::from_secs(10)).await);
        let started = "started\n".repeat(1 + MAX_CRASHES as usize);
        assert_eq!(tail(&folder.path().join("log")) + "\n", started);
        children.stop().await;
    }

    #[tokio::test]
    async fn servers_are_stopped_one_after_the_other_the_last_first() {
        let folder = tempfile::tempdir().unwrap();
        let (children, host) = (Children::default(), Host::new("sample"));
        let file = folder.path().join("order");
        for name in ["first", "second"] {
            let script = format!(
                "trap 'sleep 0.1; echo {name} >>{0}; exit 0' TERM; echo up >>{0}; while :; do sleep 0.05; done",
                file.display()
            );
            spawn(&children, &host, folder.path(), &script);
        }
        while std::fs::read_to_string(&file).unwrap_or_default() != "up\nup\n" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        host.stop();
        assert!(host.run_until_stopped(Duration::from_secs(10)).await);
        children.stop().await;
        let order = std::fs::read_to_string(&file).unwrap();
        assert_eq!(order, "up\nup\nsecond\nfirst\n");
    }

    #[tokio::test]
    async fn a_signal_to_a_missing_process_fails() {
        assert!(signal("0", std::process::id()).await);
        assert!(!signal("0", u32::MAX >> 1).await);
    }
}
