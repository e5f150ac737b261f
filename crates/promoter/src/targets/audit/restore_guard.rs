//! The restore guard: an image that is missing in its target after a restore is scanned again before it is promoted.
//!
//! It may have been withdrawn for a finding that the restored verdict does not have.

use chrono::{DateTime, Utc};
use sluice_bus::{Bus, Cause};
use sluice_domain::{Class, Classify as _, Digest, Repository, Tag, Target, now};
use sluice_events::EventId;
use sluice_events::commands::ScanImage;
use sluice_events::wire::state::{Decision, DecisionOutcome};
use sluice_state::{Entry, key};

use super::missing_tags::MissingTagCheck;
use crate::error::Error;
use crate::evaluate::rescan_after_restore::require_rescan_after_restore;
use crate::targets::endpoint::Targets;

/// Requires scans of the images that are missing in their targets after a restore.
pub(crate) struct RestoreGuard<'a> {
    pub(crate) bus: &'a Bus,
    pub(crate) targets: &'a Targets,
    pub(crate) cause: &'a Cause,
    /// The time of the restore.
    pub(crate) since: DateTime<Utc>,
}

impl RestoreGuard<'_> {
    /// Requires a scan of each image of a page of decisions that is missing in its target; returns how many could not be
    /// checked.
    pub(crate) async fn check(&self, decisions: &[Entry<Decision>]) -> Result<u64, Error> {
        let mut tags = MissingTagCheck::new(self.bus, self.targets, self.cause);
        let mut unchecked = 0;
        for entry in decisions {
            let decision = &entry.value;
            let (Ok(target), Ok(target_tag)) = (
                Target::from_stored(&decision.target),
                decision.target_tag.parse::<Tag>(),
            ) else {
                continue;
            };
            // A decision whose event was not published may not have been carried out yet, and is carried out now.
            let is_promoted = decision.promoted_at.is_some()
                && decision.published
                && decision.outcome() == DecisionOutcome::Allow;
            if !is_promoted {
                continue;
            }
            let is_missing = match target.local() {
                Some(target) => match self
                    .targets
                    .registry
                    .head(target, &(&target_tag).into())
                    .await
                {
                    Ok(head) => head.is_none(),
                    Err(error) if error.class() == Class::Permanent => {
                        tracing::warn!(image.repository = %target, image.tag = %target_tag, %error, "whether the image is in its target cannot be checked");
                        unchecked += 1;
                        continue;
                    }
                    Err(error) => return Err(Error::unreachable(error)),
                },
                // An image that cannot be checked may be missing.
                None => tags.is_missing_or_unknown(&target, &target_tag).await?,
            };
            if is_missing {
                self.require_rescan_after_restore(entry).await?;
            }
        }
        Ok(unchecked)
    }

    /// Leaves a decision undetermined until its image was scanned again, if its source still names the image, so that it could
    /// be promoted again.
    async fn require_rescan_after_restore(&self, entry: &Entry<Decision>) -> Result<(), Error> {
        let state = &self.targets.state;
        let decision = &entry.value;
        let (Ok(repository), Ok(tag), Ok(digest)) = (
            decision.repository.parse::<Repository>(),
            decision.tag.parse::<Tag>(),
            decision.digest.parse::<Digest>(),
        ) else {
            return Ok(());
        };
        let source = state.tags.get(&key::tag(&repository, &tag)).await?;
        if source.is_none_or(|source| source.value.digest != decision.digest) {
            return Ok(());
        }
        let mut next = decision.clone();
        require_rescan_after_restore(&mut next, self.since, now());
        let written = state
            .decisions
            .write(&entry.key, &next, Some(entry.revision));
        match written.await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        tracing::warn!(image.repository = %decision.target, image.tag = %decision.target_tag, image.digest = %digest, "missing since the backup; it is scanned again before it is promoted");
        let id = format!("scan/restore/{}/{}", entry.key, self.since.to_rfc3339());
        let command = ScanImage {
            repository,
            tag: Some(tag),
            digest,
        };
        self.bus
            .command_once(&command.into(), self.cause, EventId::random(), &id)
            .await
            .map_err(sluice_state::Error::from)?;
        Ok(())
    }
}
