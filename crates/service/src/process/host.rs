//! Runs the tasks of a process until one ends or the process is to stop, then drains.
//!
//! It knows nothing of signals, arguments or sockets, so that several services can share a process.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::active_names::{ActiveName, ActiveNames};

/// How long a dropped task may take to end.
const DROP_LIMIT: Duration = Duration::from_secs(1);

/// Runs the tasks of one service; clones, and the hosts of other services of the process, share its stop and its drain.
#[derive(Debug, Clone)]
pub struct Host {
    service: &'static str,
    stopping: CancellationToken,
    dropped: CancellationToken,
    tracker: TaskTracker,
    tasks: ActiveNames,
    latches: ActiveNames,
    failed: Arc<AtomicBool>,
}

/// A readiness latch: the process is not ready before it is dropped.
#[derive(Debug)]
#[must_use = "the process is ready when this is dropped"]
pub struct Latch {
    _name: ActiveName,
}

impl Host {
    /// Makes a host for a service, as in `poller`.
    #[must_use]
    pub fn new(service: &'static str) -> Self {
        Self {
            service,
            stopping: CancellationToken::new(),
            dropped: CancellationToken::new(),
            tracker: TaskTracker::new(),
            tasks: ActiveNames::default(),
            latches: ActiveNames::default(),
            failed: Arc::default(),
        }
    }

    /// Returns the host for another service of the same process.
    #[must_use]
    pub fn for_service(&self, service: &'static str) -> Self {
        Self {
            service,
            ..self.clone()
        }
    }

    /// Runs a task; the end of a task stops the process, even without an error.
    ///
    /// A task that has not ended after the grace period is dropped.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let host = self.clone();
        let active = self.tasks.add(self.label(name));
        let task = AssertUnwindSafe(task).catch_unwind();
        let watched = async move {
            let _active = active;
            let ended = tokio::select! {
                biased;
                () = host.dropped.cancelled() => return,
                ended = task => ended,
            };
            match ended {
                Ok(Ok(())) if host.stopping.is_cancelled() => tracing::debug!("stopped"),
                Ok(Ok(())) => tracing::warn!("the task ended before the stop; the process stops"),
                Ok(Err(error)) => host.fail(&error),
                Err(_) => host.fail(&anyhow::anyhow!("the task panicked")),
            }
            host.stop();
        };
        let span = sluice_telemetry::span::task(self.service, name);
        self.tracker.spawn(watched.instrument(span));
    }

    /// Keeps the process from being ready until the latch is dropped.
    ///
    /// It can be taken at any time: at the start, or for as long as a connection is down.
    pub fn latch(&self, name: &str) -> Latch {
        Latch {
            _name: self.latches.add(self.label(name)),
        }
    }

    /// Returns the token that is cancelled when the process is to stop.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Asks every task to stop.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Waits for the stop, then for the tasks; says whether every task ended without an error.
    ///
    /// Tasks that take longer than the grace period are dropped.
    pub async fn run_until_stopped(&self, grace: Duration) -> bool {
        self.stopping.cancelled().await;
        self.tracker.close();
        if tokio::time::timeout(grace, self.tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                tasks = self.tasks.list().join(", "),
                ?grace,
                "unfinished work is dropped after the grace period; its messages are delivered again"
            );
            self.dropped.cancel();
            if tokio::time::timeout(DROP_LIMIT, self.tracker.wait())
                .await
                .is_err()
            {
                tracing::warn!(
                    tasks = self.tasks.list().join(", "),
                    "blocked tasks still run"
                );
            }
            return false;
        }
        !self.failed.load(Ordering::Relaxed)
    }

    /// Returns the names of the latches for which the process waits before it is ready.
    #[must_use]
    pub fn waits_for(&self) -> Vec<String> {
        self.latches.list()
    }

    pub(crate) const fn service(&self) -> &'static str {
        self.service
    }

    /// Logs a failure of the process and asks it to stop.
    pub(crate) fn fail(&self, error: &anyhow::Error) {
        self.failed.store(true, Ordering::Relaxed);
        tracing::error!(error = format!("{error:#}"), "failed; the process stops");
        self.stop();
    }

    fn label(&self, name: &str) -> String {
        format!("{}/{name}", self.service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(1);

    async fn until_stopped(host: &Host) -> anyhow::Result<()> {
        host.stopping().cancelled().await;
        Ok(())
    }

    fn waiting(host: &Host) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let host = host.clone();
        async move { until_stopped(&host).await }
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_stop_when_asked_end_well() {
        let host = Host::new("sample");
        host.spawn("waits", waiting(&host));
        host.stop();
        assert!(host.run_until_stopped(GRACE).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_any_task_stops_the_process() {
        type End = fn() -> anyhow::Result<()>;
        let ends: [(bool, End); 3] = [
            (true, || Ok(())),
            (false, || anyhow::bail!("broken")),
            (false, || panic!("a bug")),
        ];
        for (well, end) in ends {
            let host = Host::new("sample");
            host.spawn("waits", waiting(&host));
            host.spawn("ends", async move { end() });
            assert_eq!(host.run_until_stopped(GRACE).await, well);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_past_the_grace_is_dropped() {
        let host = Host::new("sample");
        let (kept, dropped) = tokio::sync::oneshot::channel::<()>();
        host.spawn("hangs", async move {
            let _kept = kept;
            std::future::pending().await
        });
        host.stop();
        assert!(!host.run_until_stopped(GRACE).await);
        assert!(dropped.await.is_err());
        assert!(host.tasks.list().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn work_within_the_grace_is_finished() {
        let host = Host::new("sample");
        let (done, finished) = tokio::sync::oneshot::channel();
        host.spawn("finishes", {
            let stopping = host.stopping();
            async move {
                stopping.cancelled().await;
                tokio::time::sleep(GRACE / 2).await;
                done.send(()).ok();
                Ok(())
            }
        });
        host.stop();
        assert!(host.run_until_stopped(GRACE).await);
        assert_eq!(finished.await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_services_of_one_process_stop_together() {
        let host = Host::new("sluice");
        let (poller, pruner) = (host.for_service("poller"), host.for_service("pruner"));
        poller.spawn("poller", waiting(&poller));
        pruner.spawn("pruner", waiting(&pruner));
        assert_eq!(host.tasks.list(), ["poller/poller", "pruner/pruner"]);
        pruner.spawn("fails", async { anyhow::bail!("broken") });
        assert!(!host.run_until_stopped(GRACE).await);
        assert!(host.tasks.list().is_empty());
    }

    #[test]
    fn the_process_is_ready_when_the_last_latch_is_dropped() {
        let host = Host::new("sluice");
        let bus = host.for_service("poller").latch("bus");
        let catalog = host.for_service("pruner").latch("catalogue");
        assert_eq!(host.waits_for(), ["poller/bus", "pruner/catalogue"]);
        drop(bus);
        drop(catalog);
        assert!(host.waits_for().is_empty());
        let again = host.latch("bus");
        assert_eq!(host.waits_for(), ["sluice/bus"]);
        drop(again);
    }
}
