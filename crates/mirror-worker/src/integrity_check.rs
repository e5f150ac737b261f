//! The audit: a reconciliation that also checks the registry, and repairs what was deleted there.
//!
//! Tags that retention removed are not missing. While deletion is paused the state may be older than the registry, so
//! nothing is audited.

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt as _, stream};
use sluice_bus::topology::MIRROR_WORKER;
use sluice_bus::{Cause, Outcome};
use sluice_domain::Digest;
use sluice_events::commands::{MirrorTag, Reconcile};
use sluice_events::facts::TagRepaired;
use sluice_events::time_from_wire;
use sluice_events::wire::state::TagEntry;
use sluice_registry::IntegrityCheck;
use sluice_state::reconcile::reason;
use sluice_state::{Snapshot, TagChangeOutcome, key};

use crate::error::Error;
use crate::handler::MirrorWorker;
use crate::mirror::copy::Verification;
use crate::mirror::task::{MirrorReason, MirrorTask};

/// How many tags a page of an audit checks: each takes several requests.
pub(crate) const AUDIT_PAGE: usize = 100;
/// How many tags are checked at a time.
const PARALLEL: usize = 4;
/// What the event of a repair says if an earlier attempt repaired the tag and died before it published the event.
const REPAIRED_BEFORE: &str = "content that an earlier attempt has restored";

impl MirrorWorker {
    /// Turns the hourly reconciliation into an audit if one is due.
    pub(crate) async fn audit_if_due(&self, command: Reconcile) -> Result<Reconcile, Error> {
        let is_hourly_start = command.run.is_empty() && command.reason == reason::HOURLY;
        if is_hourly_start
            && self.is_audit_due().await?
            && self.state.ensure_not_paused().await.is_ok()
        {
            return Ok(Reconcile {
                reason: reason::AUDIT.to_owned(),
                ..command
            });
        }
        if command.reason == reason::AUDIT {
            self.state.ensure_not_paused().await?;
        }
        Ok(command)
    }

    async fn is_audit_due(&self) -> Result<bool, Error> {
        let every = TimeDelta::from_std(self.audit_interval).unwrap_or(TimeDelta::MAX);
        if every.is_zero() {
            return Ok(false);
        }
        // The hourly reconciliation comes a little early or late; a due audit must not be missed for that.
        let slack = TimeDelta::minutes(30).min(every / 2);
        let before = self.audited_at().await?;
        let now = sluice_domain::now();
        Ok(before.is_none_or(|before| now - before >= every - slack))
    }

    /// Returns when the last audit ended.
    pub(crate) async fn audited_at(&self) -> Result<Option<DateTime<Utc>>, Error> {
        let key = key::reconciliation(MIRROR_WORKER.name);
        let last = self.state.reconciliations.get(&key).await?;
        Ok(last.and_then(|last| time_from_wire(last.value.audited_at.as_ref())))
    }

    /// Returns the tags of which manifests or blobs are missing in the registry.
    ///
    /// A tag that cannot be checked is left to the next audit, unless none can.
    pub(crate) async fn find_damaged(
        &self,
        tags: &[(MirrorTask, TagEntry)],
    ) -> Result<Vec<MirrorTag>, Error> {
        let integrity = IntegrityCheck::new(&self.registry);
        let integrity = &integrity;
        let checks: Vec<_> = tags
            .iter()
            .filter_map(|(task, entry)| {
                let digest: Digest = entry.digest.parse().ok()?;
                Some(async move {
                    let missing = integrity
                        .first_missing(&task.repository, &task.tag, &digest)
                        .await;
                    (task, missing)
                })
            })
            .collect();
        let mut checks = stream::iter(checks).buffer_unordered(PARALLEL);
        let (mut damaged, mut has_result, mut failure) = (Vec::new(), false, None);
        while let Some((task, missing)) = checks.next().await {
            match missing {
                Ok(missing) => {
                    has_result = true;
                    if let Some(missing) = missing {
                        tracing::warn!(image.repository = %task.repository, image.tag = %task.tag, missing, "mirrored content is missing in the registry");
                        damaged.push(task.command(MirrorReason::Damaged));
                    }
                }
                Err(error) => {
                    tracing::warn!(image.repository = %task.repository, image.tag = %task.tag, %error, "failed to check the integrity of a tag");
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if !has_result => Err(error.into()),
            _ => Ok(damaged),
        }
    }

    /// Returns the images with referrers upstream that are missing here.
    ///
    /// An image that cannot be checked is left to the next audit.
    pub(crate) async fn find_missing_referrers(
        &self,
        catalog: &Snapshot,
        tags: Vec<(MirrorTask, TagEntry)>,
    ) -> Vec<MirrorTag> {
        let checks = tags.into_iter().map(|(task, entry)| async move {
            let lacks = self.lacks_referrers(catalog, &task, &entry).await;
            (task, lacks)
        });
        let mut checks = stream::iter(checks).buffer_unordered(PARALLEL);
        let mut missing = Vec::new();
        while let Some((task, lacks)) = checks.next().await {
            match lacks {
                Ok(false) => {}
                Ok(true) => missing.push(task.command(MirrorReason::Referrers)),
                Err(error) => {
                    tracing::warn!(%error, image.repository = %task.repository, image.tag = %task.tag, "failed to check the referrers of an image");
                }
            }
        }
        missing
    }

    /// Copies the missing content of a tag, and publishes a final failure.
    pub(crate) async fn repair(
        &self,
        task: &MirrorTask,
        entry: &TagEntry,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        match self.repair_tag(task, entry, cause).await {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                self.report_failure(task, cause, &error).await?;
                Err(error)
            }
        }
    }

    async fn repair_tag(
        &self,
        task: &MirrorTask,
        entry: &TagEntry,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        self.state.ensure_not_paused().await?;
        let Ok(digest) = entry.digest.parse::<Digest>() else {
            return Ok(Outcome::done());
        };
        let integrity = IntegrityCheck::new(&self.registry);
        let missing = integrity
            .first_missing(&task.repository, &task.tag, &digest)
            .await;
        let missing = match missing? {
            Some(missing) => missing,
            // An earlier attempt may have repaired the tag and died before it published that.
            None if cause.attempt > 1 => REPAIRED_BEFORE.to_owned(),
            None => return Ok(Outcome::done()),
        };
        let catalog = self.catalog.current();
        // The manifest proves nothing here: one of its blobs may be missing.
        let copied = self.copy(&catalog, task, Verification::Blobs).await?;
        let precondition = self.move_precondition(task);
        let (applied, top) = self
            .point_tag(&catalog, task, &copied.root, &precondition)
            .await?;
        match applied {
            TagChangeOutcome::Superseded => return Ok(Outcome::done()),
            TagChangeOutcome::Refused { kept } => return self.refuse_move(task, kept).await,
            TagChangeOutcome::Done { .. } => {}
        }
        tracing::warn!(image.repository = %task.repository, image.tag = %task.tag, missing, "repaired");
        Ok(Outcome::done().fact(TagRepaired {
            mirror: task.mirror.clone(),
            source: task.source.clone(),
            repository: task.repository.clone(),
            tag: task.tag.clone(),
            digest: top.digest,
            missing,
            move_number: task.move_number,
        }))
    }
}
