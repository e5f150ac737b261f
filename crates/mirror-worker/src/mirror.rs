//! Mirrors one move of one tag: copies the image by digest, then points the tag.

pub(crate) mod copy;
pub(crate) mod deletion;
pub(crate) mod filtered_index;
pub(crate) mod immutability;
mod progress;
pub(crate) mod task;
pub(crate) mod upstream_precondition;

use sluice_bus::{Cause, Outcome};
use sluice_domain::resources::OnDelete;
use sluice_domain::{Classify as _, Digest};
use sluice_events::facts::{TagMirrorFailed, TagMirrored};
use sluice_service::crash;
use sluice_state::{
    Freshness, Precondition as _, Snapshot, TagChangeOutcome, describe, describe_copied, key,
    source_of,
};

use self::copy::Verification;
use self::task::MirrorTask;
use crate::error::Error;
use crate::handler::MirrorWorker;

/// After how many waits for an unreachable registry the failure is published; about ten minutes.
const WAITS_BEFORE_REPORT: u32 = 8;

impl MirrorWorker {
    /// Mirrors a move within the time limit, and publishes a final failure.
    pub(crate) async fn mirror(&self, task: &MirrorTask, cause: &Cause) -> Result<Outcome, Error> {
        // The bus ends the handler a little later, and could not say for which tag.
        let limit = self.time_limit;
        let result = tokio::time::timeout(limit, Box::pin(self.mirror_move(task))).await;
        match result.unwrap_or(Err(Error::TimedOut { limit })) {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                self.report_failure(task, cause, &error).await?;
                Err(error)
            }
        }
    }

    async fn mirror_move(&self, task: &MirrorTask) -> Result<Outcome, Error> {
        let catalog = self.catalog.current();
        let precondition = self.move_precondition(task);
        if precondition.freshness().await? == Freshness::Superseded {
            tracing::info!(image.repository = %task.repository, image.tag = %task.tag, move_number = task.move_number, "superseded by a newer move, or pruned since");
            let (stale, subset) = self.stale_digest(&catalog, task).await?;
            self.tags
                .clean_up_stale(
                    &task.repository,
                    &task.tag,
                    Some(&stale),
                    &task.provenance(subset),
                )
                .await?;
            return self.finish_superseded(&catalog, task).await;
        }
        if self.is_detached(task).await? {
            return Ok(Outcome::done());
        }
        if let Some(kept) = self.immutable_digest(task).await? {
            return self.refuse_move(task, kept).await;
        }
        let mut copied = match self.copy(&catalog, task, Verification::Manifests).await {
            Err(error) if self.has_moved_on(&catalog, task, &error).await? => {
                tracing::info!(image.repository = %task.repository, image.tag = %task.tag, "the tag moved again upstream; the next poll finds the new digest");
                return Ok(Outcome::done());
            }
            copied => copied?,
        };
        crash::point_of("mirror-worker.copied", task.tag.as_str());
        describe_copied(&self.state, &self.registry, &task.repository, &copied).await?;
        let pointed = match self
            .point_tag(&catalog, task, &copied.root, &precondition)
            .await
        {
            Err(Error::State(sluice_state::Error::Registry(error)))
                if error.is_missing_reference() =>
            {
                tracing::debug!(%error, "a blob or manifest that was in the registry is missing; copying again");
                copied = self.copy(&catalog, task, Verification::Blobs).await?;
                self.point_tag(&catalog, task, &copied.root, &precondition)
                    .await
            }
            pointed => pointed,
        };
        let (applied, top) = pointed?;
        match applied {
            TagChangeOutcome::Superseded => return self.finish_superseded(&catalog, task).await,
            TagChangeOutcome::Refused { kept } => return self.refuse_move(task, kept).await,
            TagChangeOutcome::Done { .. } => {}
        }
        tracing::info!(
            image.repository = %task.repository, image.tag = %task.tag, image.digest = %top.digest,
            size_bytes = copied.size_bytes, copied = copied.blobs_copied, mounted = copied.blobs_mounted, "mirrored"
        );
        let mirrored = TagMirrored {
            blobs_copied: copied.blobs_copied,
            blobs_mounted: copied.blobs_mounted,
            blobs_skipped: copied.blobs_skipped,
            bytes_copied: copied.bytes_copied,
            ..task.mirrored(top.digest, top.media_type, copied.size_bytes)
        };
        // One move has one event, whether it was mirrored for its own event or for a command.
        let outcome = Outcome::done().fact_at(mirrored, task.move_number.to_string());
        Ok(self.with_referrers(outcome, task))
    }

    /// Publishes the event of a superseded move that was mirrored before, so that its image is scanned.
    ///
    /// If the tag was deleted upstream, it may have been removed here before this slow move wrote it: it is removed
    /// again.
    async fn finish_superseded(
        &self,
        catalog: &Snapshot,
        task: &MirrorTask,
    ) -> Result<Outcome, Error> {
        let key = key::upstream(&task.mirror, &task.tag);
        let upstream = self.state.upstream.get(&key).await?;
        let upstream = upstream.map(|entry| entry.value);
        let mirror = catalog.mirrors.get(&task.mirror);
        let deletes = mirror.is_some_and(|mirror| mirror.on_delete == OnDelete::Delete);
        if let Some(deleted) = upstream.as_ref().filter(|entry| entry.deleted && deletes) {
            let move_number = deleted.move_number;
            return self
                .delete_tag_deleted_upstream(&task.mirror, &task.repository, &task.tag, move_number)
                .await;
        }
        let key = key::tag(&task.repository, &task.tag);
        let entry = self.state.tags.get(&key).await?;
        let mirrored = entry.map(|entry| entry.value).filter(|entry| {
            entry.claim.is_none()
                && source_of(entry) == task.digest.as_str()
                && entry.mirror == task.mirror.as_str()
                && entry.move_number == task.move_number
        });
        let Some(Ok(digest)) = mirrored.map(|entry| entry.digest.parse::<Digest>()) else {
            return Ok(Outcome::done());
        };
        // The worker of the newest move may have found its digest before this slow move wrote over it.
        let newest =
            upstream.filter(|entry| !entry.deleted && entry.digest != task.digest.as_str());
        if let Some(newest) = newest
            && let Ok(digest) = newest.digest.parse()
        {
            let newest = MirrorTask {
                digest,
                move_number: newest.move_number,
                ..task.clone()
            };
            return Box::pin(self.mirror_move(&newest)).await;
        }
        let image = describe(&self.state, &self.registry, &task.repository, &digest).await?;
        let event = task.mirrored(digest, image.media_type, image.size_bytes);
        Ok(Outcome::done().fact(event))
    }

    /// Says whether the digest of a move is missing upstream because the tag names another digest by now.
    async fn has_moved_on(
        &self,
        catalog: &Snapshot,
        task: &MirrorTask,
        error: &Error,
    ) -> Result<bool, Error> {
        if !matches!(error, Error::Registry(error) if error.is_not_found()) {
            return Ok(false);
        }
        let source = self.source(catalog, task)?;
        let tag = (&task.tag).into();
        let head = source.resolve(&task.source.repository, &tag).await?;
        Ok(head.is_some_and(|head| head.digest != task.digest))
    }

    /// Publishes a failure that is final, whose message becomes a dead letter, or once during a long outage.
    pub(crate) async fn report_failure(
        &self,
        task: &MirrorTask,
        cause: &Cause,
        error: &Error,
    ) -> Result<(), Error> {
        let is_long_outage = error.class().is_outage() && cause.waits == WAITS_BEFORE_REPORT;
        if !is_long_outage && !cause.is_final(error.class()) {
            return Ok(());
        }
        let failed = TagMirrorFailed {
            mirror: task.mirror.clone(),
            source: task.source.clone(),
            repository: task.repository.clone(),
            tag: task.tag.clone(),
            digest: task.digest.clone(),
            reason: error.to_string(),
            move_number: task.move_number,
        };
        self.bus
            .publish(&failed.into(), cause, &task.move_number.to_string())
            .await
            .map_err(sluice_state::Error::from)?;
        crash::point("mirror-worker.failure_published");
        Ok(())
    }
}
