//! Copies the image of a move into staging, byte for byte.

use sluice_domain::Repository;
use sluice_registry::{Client, CopyJob, CopyOptions, CopyReport, RootPush};
use sluice_state::Snapshot;
use sluice_telemetry::metrics::{COPIED_BYTES, MIRROR_COPY_DURATION};
use tokio::time::Instant;

use super::filtered_index::platform_filter;
use super::progress::CopyProgress;
use super::task::MirrorTask;
use crate::error::Error;
use crate::handler::MirrorWorker;

/// How many sibling repositories are asked for a blob before it is transferred.
const MAX_SIBLINGS: usize = 4;
/// The most bytes of one attachment of an image.
pub(crate) const MAX_ATTACHMENT_BYTES: u64 = 512 << 20;

/// How a copy checks which blobs the destination has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verification {
    /// A manifest proves that its blobs exist.
    Manifests,
    /// Every blob is checked.
    Blobs,
}

impl MirrorWorker {
    pub(crate) async fn copy(
        &self,
        catalog: &Snapshot,
        task: &MirrorTask,
        verification: Verification,
    ) -> Result<CopyReport, Error> {
        if catalog.is_target(&task.repository) {
            return Err(Error::Target {
                repository: task.repository.clone(),
            });
        }
        let started = Instant::now();
        let source = self.source(catalog, task)?;
        let siblings: Vec<Repository> = catalog
            .mirrors
            .values()
            .map(|mirror| &mirror.to)
            .filter(|repository| **repository != task.repository)
            .take(MAX_SIBLINGS)
            .cloned()
            .collect();
        let job = CopyJob {
            source: &source,
            source_repository: &task.source.repository,
            digest: &task.digest,
            target: &self.registry,
            target_repository: &task.repository,
            siblings: &siblings,
        };
        let platforms = platform_filter(catalog, task);
        let root = if platforms.is_all() {
            None
        } else {
            let filtered =
                source.fetch_filtered_manifest(job.source_repository, job.digest, platforms);
            Some(filtered.await?)
        };
        let progress = CopyProgress::of(task);
        let options = CopyOptions {
            listener: Some(progress.clone()),
            limits: Some(self.limits.clone()),
            root,
            verify_blobs: verification == Verification::Blobs,
            root_push: root_push(task, verification),
            max_blob_bytes: task.tag.attached_to().map(|_| MAX_ATTACHMENT_BYTES),
            ..CopyOptions::default()
        };
        let copied = progress
            .publish_during(&self.bus, job.run_with(&options))
            .await?;
        let labels = [task.source.host.as_str()];
        MIRROR_COPY_DURATION.record(started.elapsed(), &labels);
        COPIED_BYTES.add(copied.bytes_copied, &labels);
        Ok(copied)
    }

    /// Returns the client of the upstream registry of a move.
    pub(crate) fn source(&self, catalog: &Snapshot, task: &MirrorTask) -> Result<Client, Error> {
        let host = &task.source.host;
        let client = self
            .remotes
            .client(&self.state.budgets, catalog, host, task.pulls);
        client.map_err(|error| Error::Remote {
            host: host.to_string(),
            reason: format!("{error:#}"),
        })
    }
}

/// Leaves the manifest of an image to the tag operation, which writes it anyway. That of an attachment is merged by its
/// digest first, and a repair needs its manifest whatever the tag names.
fn root_push(task: &MirrorTask, verification: Verification) -> RootPush {
    if verification == Verification::Manifests && task.tag.attached_to().is_none() {
        RootPush::Caller
    } else {
        RootPush::Copy
    }
}
