//! Publishes the progress of a copy to subscribers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use sluice_bus::Bus;
use sluice_domain::Digest;
use sluice_events::subject;
use sluice_events::wire::events::MirrorProgress;
use sluice_registry::{BlobOutcome, Progress, ProgressListener};

use super::task::MirrorTask;

/// How often the progress of a copy is published.
const INTERVAL: Duration = Duration::from_millis(500);

/// The progress of one copy.
#[derive(Debug)]
pub(super) struct CopyProgress {
    topic: String,
    counters: Mutex<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    message: MirrorProgress,
    /// The transferred bytes of each blob in transfer.
    transferred: HashMap<Digest, u64>,
}

impl CopyProgress {
    pub(super) fn of(task: &MirrorTask) -> Arc<Self> {
        let message = MirrorProgress {
            mirror: task.mirror.to_string(),
            repository: task.repository.to_string(),
            tag: task.tag.to_string(),
            digest: task.digest.to_string(),
            ..MirrorProgress::default()
        };
        Arc::new(Self {
            topic: format!("mirror.{}", subject::of_repository(&task.repository)),
            counters: Mutex::new(Counters {
                message,
                transferred: HashMap::new(),
            }),
        })
    }

    /// Does the work, and publishes the progress meanwhile.
    pub(super) async fn publish_during<T>(&self, bus: &Bus, work: impl Future<Output = T>) -> T {
        if !bus.has_listeners() {
            return work.await;
        }
        let result = tokio::select! {
            biased;
            result = work => result,
            never = self.publish_changes(bus) => match never {},
        };
        bus.publish_progress(&self.topic, self.encode(true)).await;
        result
    }

    async fn publish_changes(&self, bus: &Bus) -> Infallible {
        let mut last = Bytes::new();
        loop {
            tokio::time::sleep(INTERVAL).await;
            let message = self.encode(false);
            if message != last {
                bus.publish_progress(&self.topic, message.clone()).await;
                last = message;
            }
        }
    }

    fn encode(&self, ended: bool) -> Bytes {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let transferred = counters.transferred.values();
        let in_transfer = transferred.fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        let mut message = counters.message.clone();
        message.bytes_done = message.bytes_done.saturating_add(in_transfer);
        message.ended = ended;
        message.encode_to_vec().into()
    }
}

impl ProgressListener for CopyProgress {
    fn on_progress(&self, progress: &Progress<'_>) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let Counters {
            message,
            transferred,
        } = &mut *counters;
        match progress {
            Progress::Planned { blobs, bytes } => {
                (message.blobs, message.bytes, message.bytes_done) = (*blobs, *bytes, 0);
                (
                    message.blobs_copied,
                    message.blobs_mounted,
                    message.blobs_skipped,
                ) = (0, 0, 0);
                transferred.clear();
            }
            Progress::BlobStarted { digest, .. } => {
                transferred.insert((*digest).clone(), 0);
            }
            Progress::BytesReceived { digest, bytes } => {
                if let Some(done) = transferred.get_mut(*digest) {
                    *done = done.saturating_add(*bytes);
                }
            }
            Progress::BlobDone {
                digest,
                size,
                outcome,
            } => {
                transferred.remove(*digest);
                message.bytes_done = message.bytes_done.saturating_add(*size);
                match outcome {
                    BlobOutcome::Copied => message.blobs_copied += 1,
                    BlobOutcome::Mounted => message.blobs_mounted += 1,
                    BlobOutcome::Skipped => message.blobs_skipped += 1,
                }
            }
            _ => {}
        }
    }
}
