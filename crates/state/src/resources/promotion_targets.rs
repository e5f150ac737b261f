//! The records of promotion targets: repositories that the promoter writes to, whatever the policies say now.
//!
//! The promoter records a target before its first write, and removes the record once no promoted image is left there
//! and no policy names it. Until then no other account may write there (invariant 1). In the same way it records each
//! image before it copies the first manifest, because a decision may lead elsewhere by the time that the copy ends.

use std::collections::BTreeSet;

use sluice_domain::{Digest, Repository, now};
use sluice_events::time_to_wire;
use sluice_events::wire::state::{PromotionTarget, TargetImage};

use crate::State;
use crate::error::Error;
use crate::key;

impl State {
    /// Returns the recorded targets of promotion in the internal registry.
    pub async fn promotion_targets(&self) -> Result<BTreeSet<Repository>, Error> {
        let entries = self.targets.list(&key::promotion_targets()).await?;
        let names = entries.iter().map(|entry| entry.value.repository.parse());
        Ok(names.filter_map(Result::ok).collect())
    }

    /// Records that the promoter writes to a repository, unless that is recorded.
    pub async fn record_target(&self, repository: &Repository) -> Result<(), Error> {
        let key = key::promotion_target(repository);
        if self.targets.get(&key).await?.is_some() {
            return Ok(());
        }
        let target = PromotionTarget {
            repository: repository.to_string(),
            since: Some(time_to_wire(now())),
            ..Default::default()
        };
        self.targets.try_write(&key, &target, None).await.map(drop)
    }

    /// Records that the promoter begins to copy an image from a source into a target because of a decision: its manifests, its
    /// own digest first.
    pub async fn record_target_image(
        &self,
        repository: &Repository,
        source: &Repository,
        manifests: &[Digest],
        decision: &str,
    ) -> Result<(), Error> {
        let Some(digest) = manifests.first() else {
            return Ok(());
        };
        let image = TargetImage {
            repository: repository.to_string(),
            source: source.to_string(),
            manifests: manifests.iter().map(ToString::to_string).collect(),
            copied_at: Some(time_to_wire(now())),
            decision: decision.to_owned(),
            ..Default::default()
        };
        let key = key::target_image(repository, digest);
        self.target_images.put(&key, &image).await.map(drop)
    }
}
