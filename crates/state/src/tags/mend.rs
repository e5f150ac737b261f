//! Puts a tag back that was written too late: by a worker whose claim had lapsed when its request arrived.

use std::time::Duration;

use chrono::Utc;
use sluice_domain::{Digest, Repository, Tag};
use sluice_events::time_to_wire;
use sluice_events::wire::state::Claim;

use super::{CLAIM, ROUNDS, TagWriter, is_none_or_lapsed, remove, text};
use crate::error::Error;
use crate::key;

/// How often a claim of somebody else is looked at, and how long between.
const LOOKS: usize = 60;
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl TagWriter {
    /// Sees to it that a tag does not keep what nobody wants any more, where the registry has that and the entry does not.
    ///
    /// The entry is what counts: whoever settled it did so by its source of truth. One that is claimed is waited for.
    ///
    /// # Errors
    /// [`Error::Claimed`] while somebody else changes the tag, or a failing bus or registry.
    pub async fn mend(
        &self,
        repository: &Repository,
        tag: &Tag,
        stale: Option<&Digest>,
    ) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            match self.mend_once(repository, tag, stale).await {
                Err(error) if error.is_conflict() => {}
                mended => return mended,
            }
        }
        Err(Error::Restless {
            tag: format!("{repository}:{tag}"),
        })
    }

    async fn mend_once(
        &self,
        repository: &Repository,
        tag: &Tag,
        stale: Option<&Digest>,
    ) -> Result<(), Error> {
        let key = key::tag(repository, tag);
        let at = |head: Option<sluice_registry::ManifestHead>| head.map(|head| head.digest);
        for _ in 0..LOOKS {
            let Some(entry) = self.state.tags.get(&key).await? else {
                return Ok(());
            };
            let mut value = entry.value;
            if !is_none_or_lapsed(&value) {
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            let now = at(self.registry.head(repository, &tag.into()).await?);
            if now.as_ref() != stale || value.digest == text(stale) {
                return Ok(());
            }
            tracing::warn!(
                image.repository = %repository, image.tag = %tag, image.digest = value.digest,
                found = text(stale), "a tag was written too late; it is put back"
            );
            value.claim = Some(Claim {
                digest: value.digest.clone(),
                holder: format!("mend/{}", uuid::Uuid::new_v4()),
                until: Some(time_to_wire(Utc::now() + CLAIM)),
            });
            value.generation += 1;
            let revision = self
                .state
                .tags
                .write(&key, &value, Some(entry.revision))
                .await?;
            match value.digest.parse::<Digest>() {
                Ok(digest) => {
                    let manifest = self
                        .registry
                        .manifest(repository, &(&digest).into())
                        .await?;
                    self.registry
                        .put_manifest(repository, &tag.into(), &manifest)
                        .await?;
                }
                Err(_) => remove(&self.state, &self.registry, repository, tag).await?,
            }
            value.claim = None;
            self.state.tags.write(&key, &value, Some(revision)).await?;
            return Ok(());
        }
        Err(Error::Claimed {
            tag: format!("{repository}:{tag}"),
            holder: "another worker".to_owned(),
            until: Utc::now() + CLAIM,
        })
    }
}
