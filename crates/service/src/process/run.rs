//! Runs a process: start, serve, stop on a signal, drain, flush.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use sluice_telemetry::Telemetry;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::health;
use super::host::Host;
use crate::settings::HttpSettings;

/// Runs what `start` spawns on the host until a signal or the end of a task, then drains it and flushes telemetry.
///
/// The process is not ready before `start` has returned. A second signal ends this at once.
/// Returns success after a clean stop only.
pub async fn run<F>(telemetry: Telemetry, host: &Host, http: &HttpSettings, start: F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let clean = tokio::select! {
        clean = run_tasks(host, http, start) => clean,
        // A second signal leaves no time to flush.
        () = signals(host) => return ExitCode::FAILURE,
    };
    telemetry.shutdown().await;
    if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Health is served until the last task has ended, so that a drain can be watched.
async fn run_tasks<F>(host: &Host, http: &HttpSettings, start: F) -> bool
where
    F: Future<Output = anyhow::Result<()>>,
{
    let latch = host.latch("start");
    let health = match health::start(http, host.clone()).await {
        Ok(health) => health,
        Err(error) => {
            host.fail(&error);
            return false;
        }
    };
    let served = async {
        if let Err(error) = health.await {
            host.fail(&error);
        }
        std::future::pending().await
    };
    let stopping = host.stopping();
    let worked = async {
        let started = tokio::select! {
            biased;
            () = stopping.cancelled() => Ok(()),
            started = start => started,
        };
        if let Err(error) = started {
            host.fail(&error.context("failed to start"));
        }
        drop(latch);
        host.run_until_stopped(Duration::from_secs(http.grace_seconds))
            .await
    };
    tokio::select! {
        clean = worked => clean,
        clean = served => clean,
    }
}

/// Stops the host on the first signal, and returns on the second.
async fn signals(host: &Host) {
    let listen = |kind| signal(kind).context("failed to listen for signals");
    let (terminate, interrupt) = (
        listen(SignalKind::terminate()),
        listen(SignalKind::interrupt()),
    );
    let (mut terminate, mut interrupt) = match (terminate, interrupt) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            host.fail(&error);
            return std::future::pending().await;
        }
    };
    first_of(&mut terminate, &mut interrupt).await;
    tracing::info!(service = host.service(), "stopping");
    host.stop();
    first_of(&mut terminate, &mut interrupt).await;
    tracing::warn!(
        service = host.service(),
        "second signal; exiting with unfinished work"
    );
}

async fn first_of(first: &mut Signal, second: &mut Signal) {
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;

    fn http(address_file: &Path) -> HttpSettings {
        HttpSettings {
            listen: "127.0.0.1:0".parse().unwrap(),
            address_file: Some(address_file.to_owned()),
            grace_seconds: 30,
        }
    }

    /// Asks the health endpoint; returns the status line and the body.
    async fn get(address_file: &Path, path: &str) -> (String, String) {
        let address = std::fs::read_to_string(address_file).unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    fn send(signal: &str) {
        let process = std::process::id().to_string();
        let sent = Command::new("kill").args([signal, &process]).status();
        assert!(sent.unwrap().success());
    }

    #[tokio::test]
    async fn the_first_signal_stops_and_the_second_ends_at_once() {
        let host = Host::new("sample");
        let sender = async {
            send("-TERM");
            host.stopping().cancelled().await;
            send("-INT");
            std::future::pending::<()>().await;
        };
        // Signals are listened for before the first is sent, or it would kill the test.
        tokio::select! {
            biased;
            () = signals(&host) => {}
            () = sender => {}
        }
    }

    #[tokio::test]
    async fn the_process_is_ready_from_the_end_of_its_start_until_the_stop() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("address");
        let host = Host::new("sample");
        let (go, started) = oneshot::channel::<()>();
        let (end, drained) = oneshot::channel::<()>();
        let work = host.for_service("worker");
        let start = async {
            started.await?;
            work.spawn("drains", async { Ok(drained.await?) });
            Ok(())
        };
        let http = http(&file);
        let watcher = async {
            // The file is there: health is served before anything is started.
            let (status, body) = get(&file, "/readyz").await;
            assert!(status.contains("503"), "{status}");
            assert_eq!(body, "waiting for sample/start\n");
            go.send(()).unwrap();
            while get(&file, "/readyz").await.1 != "ready\n" {}
            let latch = host.latch("bus");
            assert_eq!(get(&file, "/readyz").await.1, "waiting for sample/bus\n");
            drop(latch);
            host.stop();
            let (status, body) = get(&file, "/readyz").await;
            assert!(status.contains("503") && body == "stopping\n", "{body}");
            assert!(get(&file, "/healthz").await.0.contains("200"));
            end.send(()).unwrap();
        };
        let (clean, ()) = tokio::join!(run_tasks(&host, &http, start), watcher);
        assert!(clean);
    }

    #[tokio::test]
    async fn a_start_that_fails_ends_what_it_had_begun() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::new("sample");
        let stopping = host.stopping();
        let start = async {
            host.spawn("begun", async move {
                stopping.cancelled().await;
                Ok(())
            });
            anyhow::bail!("no bus")
        };
        assert!(!run_tasks(&host, &http(&folder.path().join("address")), start).await);
        assert!(host.stopping().is_cancelled());
    }

    #[tokio::test]
    async fn a_start_that_hangs_is_cancelled_by_a_stop() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::new("sample");
        host.stop();
        let start = std::future::pending();
        assert!(run_tasks(&host, &http(&folder.path().join("address")), start).await);
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = HttpSettings {
            listen: taken.local_addr().unwrap(),
            ..http(&folder.path().join("address"))
        };
        let host = Host::new("sample");
        assert!(!run_tasks(&host, &settings, async { Ok(()) }).await);
    }
}
