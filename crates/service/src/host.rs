//! Runs the tasks of a process until one ends or somebody asks to stop, then drains.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// Holds the tasks of a process.
#[derive(Debug, Clone, Default)]
pub struct Host {
    stopping: CancellationToken,
    tasks: TaskTracker,
    failed: Arc<AtomicBool>,
}

impl Host {
    /// Runs a task; its end, even a good one, stops the process.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let host = self.clone();
        let task = async move {
            match task.await {
                Ok(()) if host.stopping.is_cancelled() => tracing::debug!(task = name, "stopped"),
                Ok(()) => tracing::warn!(task = name, "ended; the process stops"),
                Err(error) => {
                    host.failed.store(true, Ordering::Relaxed);
                    tracing::error!(task = name, "failed; the process stops: {error:#}");
                }
            }
            host.stopping.cancel();
        };
        self.tasks.spawn(task.instrument(tracing::Span::none()));
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

    /// Waits for the stop, then for the tasks; says whether all went well.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.stopping.cancelled().await;
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                unfinished = self.tasks.len(),
                "work was left unfinished after {grace:?}; it is delivered again"
            );
            return false;
        }
        !self.failed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_task_stops_the_process() {
        let host = Host::default();
        let stopping = host.stopping();
        host.spawn("waits", async move {
            stopping.cancelled().await;
            Ok(())
        });
        host.spawn("fails", async { anyhow::bail!("broken") });
        assert!(!host.finish(Duration::from_secs(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn work_past_the_grace_is_left() {
        let host = Host::default();
        host.spawn("hangs", std::future::pending());
        host.stop();
        assert!(!host.finish(Duration::from_secs(1)).await);
    }
}
