//! Servers as child processes: started, watched, stopped in order.
//!
//! It knows nothing of what they serve.

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
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a server may take to end once it is asked to.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How much of the end of a log is shown.
const LOG_TAIL_BYTES: u64 = 2_000;
const LOG_TAIL_LINES: usize = 8;

/// The servers of this process; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Children {
    tracker: TaskTracker,
    stops: Arc<Mutex<Vec<Stop>>>,
}

/// How one child is asked to end, and tells that it has.
#[derive(Debug, Clone)]
struct Stop {
    name: &'static str,
    ask: CancellationToken,
    gone: CancellationToken,
    again: Arc<Notify>,
}

/// Has a child end and begin again; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Restart(Arc<Notify>);

impl Restart {
    /// Asks for it.
    pub(crate) fn ask(&self) {
        self.0.notify_one();
    }
}

/// What a child was started with.
#[derive(Debug)]
struct Program {
    path: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
    log: PathBuf,
}

/// How a child is started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start<'a> {
    /// The program.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) arguments: &'a [&'a str],
    /// Variables besides those of this process, which come first.
    pub(crate) environment: &'a [(&'static str, &'static str)],
}

impl Program {
    fn start(&self, name: &str) -> anyhow::Result<Child> {
        let mut command = command(&self.path, &self.arguments, &self.log)?;
        let unset = |name: &str| std::env::var_os(name).is_none();
        let defaults = self.environment.iter().filter(|(name, _)| unset(name));
        let child = command
            .envs(defaults.copied())
            .spawn()
            .with_context(|| format!("failed to start `{}`", self.path.display()))?;
        tracing::info!(
            server = name,
            pid = child.id(),
            log = %self.log.display(),
            "started a server"
        );
        Ok(child)
    }
}

impl Children {
    /// Starts a server whose output goes to a log file; its end stops the host.
    ///
    /// Must be called on the main thread: where the kernel ends children with their parent, it
    /// means the thread that started them.
    pub(crate) fn spawn(
        &self,
        host: &Host,
        name: &'static str,
        start: Start<'_>,
        log: PathBuf,
    ) -> anyhow::Result<Restart> {
        let program = Program {
            path: start.program.to_owned(),
            arguments: start.arguments.iter().map(ToString::to_string).collect(),
            environment: start.environment.to_vec(),
            log: log.clone(),
        };
        let child = program.start(name)?;
        let again = Arc::new(Notify::new());
        let stop = Stop {
            name,
            ask: CancellationToken::new(),
            gone: CancellationToken::new(),
            again: again.clone(),
        };
        self.stops
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(stop.clone());
        let (tell, ended) = oneshot::channel();
        self.tracker.spawn(watch(child, program, stop, tell));
        let stopping = host.stopping();
        host.spawn(name, async move {
            tokio::select! {
                biased;
                () = stopping.cancelled() => Ok(()),
                status = ended => anyhow::bail!(
                    "{name} ended ({}); the end of `{}`: {}",
                    status.context("nobody watched it")?,
                    log.display(),
                    tail(&log)
                ),
            }
        });
        Ok(Restart(again))
    }

    /// Stops the servers one after the other, the last started first.
    pub(crate) async fn stop(&self) {
        let stops = std::mem::take(&mut *self.stops.lock().unwrap_or_else(PoisonError::into_inner));
        for stop in stops.iter().rev() {
            tracing::info!(server = stop.name, "stopping a server");
            stop.ask.cancel();
            stop.gone.cancelled().await;
        }
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// In a process group of its own, so that Ctrl-C at a terminal reaches us alone and the order of the stop is ours.
fn command(program: &Path, arguments: &[String], log: &Path) -> anyhow::Result<Command> {
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("failed to open the log `{}`", log.display()))?;
    let errors = output.try_clone().context("failed to share a log")?;
    let setpriv = find_program(&["setpriv"], None).ok().flatten();
    let mut command = match setpriv {
        // A server must not outlive us even if we are killed and cannot stop it.
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}

async fn watch(mut child: Child, program: Program, stop: Stop, tell: oneshot::Sender<ExitStatus>) {
    let _gone = stop.gone.clone().drop_guard();
    loop {
        tokio::select! {
            biased;
            () = stop.ask.cancelled() => return end(&mut child, stop.name).await,
            () = stop.again.notified() => {
                end(&mut child, stop.name).await;
                match program.start(stop.name) {
                    Ok(next) => child = next,
                    // Its host learns from the lost end that it is gone.
                    Err(error) => {
                        tracing::error!(error = format!("{error:#}"), "a server could not be started anew");
                        return;
                    }
                }
            }
            status = child.wait() => return match status {
                // Nobody listens any more when the host has stopped meanwhile.
                Ok(status) => drop(tell.send(status)),
                Err(error) => tracing::error!(server = stop.name, %error, "failed to wait for a server"),
            },
        }
    }
}

async fn end(child: &mut Child, name: &str) {
    if let Some(id) = child.id() {
        signal("TERM", id).await;
    }
    if tokio::time::timeout(STOP_LIMIT, child.wait())
        .await
        .is_err()
    {
        tracing::warn!(server = name, limit = ?STOP_LIMIT, "a server did not stop and is killed");
        if let Err(error) = child.kill().await {
            tracing::error!(server = name, %error, "failed to kill a server");
        }
    }
}

/// Sends a signal, as in `TERM`; says whether there was somebody to send it to.
///
/// Through the shell, which has it built in: the standard library can only kill.
pub(crate) async fn signal(name: &str, process: u32) -> bool {
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
        Err(error) => format!("(cannot be read: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spawn(children: &Children, host: &Host, folder: &Path, script: &str) {
        let log = folder.join("log");
        let start = Start {
            program: Path::new("/bin/sh"),
            arguments: &["-c", script],
            environment: &[],
        };
        children.spawn(host, "sample", start, log).unwrap();
    }

    #[tokio::test]
    async fn a_server_that_ends_stops_the_host_and_shows_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let (children, host) = (Children::default(), Host::new("sample"));
        let script = "for n in 1 2 3 4 5 6 7 8 9; do echo line $n; done; exit 3";
        spawn(&children, &host, folder.path(), script);
        assert!(!host.run_until_stopped(Duration::from_secs(10)).await);
        let told = tail(&folder.path().join("log"));
        assert!(
            told.starts_with("line 2\n") && told.ends_with("line 9"),
            "{told}"
        );
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
    async fn a_signal_to_nobody_is_told() {
        assert!(signal("0", std::process::id()).await);
        assert!(!signal("0", u32::MAX >> 1).await);
    }
}
