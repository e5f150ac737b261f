//! Follows the copy of an image, and tells whoever listens how it goes on.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use sluice_bus::Bus;
use sluice_domain::Digest;
use sluice_events::facts::UpstreamTagMoved;
use sluice_events::subject;
use sluice_events::wire::events::MirrorProgress;
use sluice_registry::{
    Arrival, Copied, CopyJob, CopyOptions, Limits, Manifest, Progress, TopWrite, Watch,
};

use crate::mirror::{MirrorWorker, Verification};
use crate::referrers::MAX_BYTES;

/// How often an image is told of.
const EVERY: Duration = Duration::from_millis(500);

/// What is there of an image by now.
#[derive(Debug)]
struct Tally {
    topic: String,
    so_far: Mutex<SoFar>,
}

#[derive(Debug, Default)]
struct SoFar {
    told: MirrorProgress,
    /// What has arrived of the blobs under way.
    arrived: HashMap<Digest, u64>,
}

impl MirrorWorker {
    /// Keeps all copies together within limits.
    #[must_use]
    pub fn within(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Copies within the limits, and tells how it goes on.
    pub(crate) async fn run(
        &self,
        job: &CopyJob<'_>,
        fact: &UpstreamTagMoved,
        top: Option<Manifest>,
        look: Verification,
    ) -> Result<Copied, sluice_registry::Error> {
        let tally = Tally::of(fact);
        let options = CopyOptions {
            watch: Some(tally.clone()),
            limits: Some(self.limits.clone()),
            top,
            thorough: look == Verification::Thorough,
            top_write: top_write(fact, look),
            most_bytes: fact.tag.attached_to().map(|_| MAX_BYTES),
            ..CopyOptions::default()
        };
        tally.follow(&self.bus, job.run_with(&options)).await
    }
}

/// Leaves an image of one platform to the tag operation, which writes it anyway. What is attached is joined with what is there by
/// its digest, and what is looked at closely must be there whatever the tag says.
fn top_write(fact: &UpstreamTagMoved, look: Verification) -> TopWrite {
    if look == Verification::Trusting && fact.tag.attached_to().is_none() {
        TopWrite::Caller
    } else {
        TopWrite::Copy
    }
}

impl Tally {
    fn of(fact: &UpstreamTagMoved) -> Arc<Self> {
        let told = MirrorProgress {
            mirror: fact.mirror.to_string(),
            repository: fact.repository.to_string(),
            tag: fact.tag.to_string(),
            digest: fact.digest.to_string(),
            ..MirrorProgress::default()
        };
        Arc::new(Self {
            topic: format!("mirror.{}", subject::of_repository(&fact.repository)),
            so_far: Mutex::new(SoFar {
                told,
                arrived: HashMap::new(),
            }),
        })
    }

    /// Does the work, and tells meanwhile how far it is; to tell takes nothing away from it.
    async fn follow<T>(&self, bus: &Bus, work: impl Future<Output = T>) -> T {
        if !bus.has_listeners() {
            return work.await;
        }
        let done = tokio::select! {
            biased;
            done = work => done,
            never = self.tell_for_ever(bus) => match never {},
        };
        bus.publish_progress(&self.topic, self.body(true)).await;
        done
    }

    async fn tell_for_ever(&self, bus: &Bus) -> Infallible {
        let mut last = Bytes::new();
        loop {
            tokio::time::sleep(EVERY).await;
            let body = self.body(false);
            if body != last {
                bus.publish_progress(&self.topic, body.clone()).await;
                last = body;
            }
        }
    }

    fn body(&self, ended: bool) -> Bytes {
        let so_far = self.so_far.lock().unwrap_or_else(PoisonError::into_inner);
        let arrived = so_far.arrived.values();
        let under_way = arrived.fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        let mut told = so_far.told.clone();
        told.bytes_done = told.bytes_done.saturating_add(under_way);
        told.ended = ended;
        told.encode_to_vec().into()
    }
}

impl Watch for Tally {
    fn note(&self, progress: &Progress<'_>) {
        let mut so_far = self.so_far.lock().unwrap_or_else(PoisonError::into_inner);
        let SoFar { told, arrived } = &mut *so_far;
        match progress {
            Progress::Known { blobs, bytes } => {
                (told.blobs, told.bytes, told.bytes_done) = (*blobs, *bytes, 0);
                (told.blobs_copied, told.blobs_mounted, told.blobs_skipped) = (0, 0, 0);
                arrived.clear();
            }
            Progress::Begun { digest, .. } => {
                arrived.insert((*digest).clone(), 0);
            }
            Progress::Arrived { digest, bytes } => {
                if let Some(so_far) = arrived.get_mut(*digest) {
                    *so_far = so_far.saturating_add(*bytes);
                }
            }
            Progress::Ended {
                digest,
                size,
                arrival,
            } => {
                arrived.remove(*digest);
                told.bytes_done = told.bytes_done.saturating_add(*size);
                match arrival {
                    Arrival::Copied => told.blobs_copied += 1,
                    Arrival::Mounted => told.blobs_mounted += 1,
                    Arrival::Skipped => told.blobs_skipped += 1,
                }
            }
            _ => {}
        }
    }
}
