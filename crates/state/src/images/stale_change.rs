//! Removes the traces of a change that is no longer wanted: its worker may have been too slow, or died.

use sluice_domain::{Digest, Repository, Tag, now};
use sluice_events::time_to_wire;
use sluice_events::wire::state::{Claim, TagEntry};
use sluice_service::crash;

use crate::error::Error;
use crate::images::tag_change::{Provenance, StaleChange};
use crate::images::tag_claim::{ensure_unclaimed, new_holder};
use crate::images::tag_entry::{digest_text, record_digest};
use crate::images::tag_writer::{MAX_ROUNDS, TagWriter};

impl TagWriter {
    /// Removes the traces of a superseded change from a tag, for a caller that finds the change superseded before
    /// [`TagWriter::apply`], which does the same.
    ///
    /// A worker may have been so slow that its claim had expired, and have written over a newer digest: that digest is
    /// restored. Or it died with its claim, which nobody else would end.
    ///
    /// # Errors
    /// [`Error::Claimed`] while another worker changes the tag, who may not see the traces.
    pub async fn clean_up_stale(
        &self,
        repository: &Repository,
        tag: &Tag,
        wanted: Option<&Digest>,
        provenance: &Provenance,
    ) -> Result<(), Error> {
        let holder = new_holder(&provenance.by);
        let stale = StaleChange {
            repository,
            tag,
            wanted,
            provenance,
            holder: &holder,
        };
        for _ in 0..MAX_ROUNDS {
            match self.clean_up_once(stale).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::TooManyConflicts {
            what: format!("tag `{repository}:{tag}`"),
        })
    }

    /// Reads the tag once and removes the traces of the change; says whether the tag is clean.
    pub(super) async fn clean_up_once(&self, stale: StaleChange<'_>) -> Result<bool, Error> {
        let key = self.key(stale.repository, stale.tag);
        let wanted = digest_text(stale.wanted);
        let (mut entry, revision) = self.state.tags.get_or_default(&key).await?;
        if revision.is_none() || (entry.claim.is_none() && entry.digest == wanted) {
            return Ok(true);
        }
        ensure_unclaimed(stale.repository, stale.tag, &entry, stale.holder)?;
        let head = self
            .registry
            .head(stale.repository, &stale.tag.into())
            .await?;
        let current = digest_text(head.as_ref().map(|head| &head.digest));
        let Some(claim) = entry.claim.take() else {
            if current != wanted {
                return Ok(true);
            }
            return self.restore_digest(stale, entry, revision).await;
        };
        if current == wanted && claim.digest == wanted {
            record_digest(&mut entry, stale.provenance, stale.wanted, now());
        } else if current.is_empty() && claim.digest.is_empty() && entry.pruning.is_none() {
            // A removal that was not recorded. One by retention is left to the search for unpublished removals.
            record_digest(&mut entry, stale.provenance, None, now());
        } else if current == entry.digest {
            entry.pruning = None;
        } else if current == wanted && claim.digest == entry.digest {
            // A worker died while it restored the recorded digest.
            return self.restore_digest(stale, entry, revision).await;
        } else {
            // Another writer pointed the tag elsewhere, and records that itself.
            return Ok(true);
        }
        self.state.tags.write(&key, &entry, revision).await?;
        Ok(true)
    }

    /// Says whether a tag names a tombstone of a removal under way, or a manifest that is deleted by now.
    pub(super) async fn is_transient_tombstone(
        &self,
        repository: &Repository,
        current: Option<&Digest>,
    ) -> Result<bool, Error> {
        let Some(current) = current else {
            return Ok(false);
        };
        if self.registry.is_tombstone(repository, current).await? {
            return Ok(true);
        }
        let head = self.registry.head(repository, &current.into()).await?;
        Ok(head.is_none())
    }

    /// Points a tag back to the digest of its entry; says that the tag has to be read once more.
    async fn restore_digest(
        &self,
        stale: StaleChange<'_>,
        recorded: TagEntry,
        revision: Option<u64>,
    ) -> Result<bool, Error> {
        let StaleChange {
            repository, tag, ..
        } = stale;
        let key = self.key(repository, tag);
        let manifest = match recorded.digest.parse::<Digest>() {
            Ok(digest) => match self
                .registry
                .fetch_manifest(repository, &(&digest).into())
                .await
            {
                // Whoever removed the manifest meanwhile has changed the entry too, or will.
                Err(error) if error.is_not_found() => return Ok(true),
                fetched => Some(fetched?),
            },
            Err(_) => None,
        };
        tracing::warn!(
            image.repository = %repository, image.tag = %tag, image.digest = recorded.digest,
            "a stale change wrote over a newer digest; restoring the digest"
        );
        let mut claimed = recorded.clone();
        claimed.generation += 1;
        claimed.claim = Some(Claim {
            digest: recorded.digest.clone(),
            holder: stale.holder.to_owned(),
            until: Some(time_to_wire(now() + self.claim)),
        });
        let revision = self.state.tags.write(&key, &claimed, revision).await?;
        crash::point("tags.restore_claimed");
        self.write(repository, tag, manifest.as_ref()).await?;
        crash::point("tags.restored");
        let restored = TagEntry {
            generation: claimed.generation,
            ..recorded
        };
        self.state
            .tags
            .write(&key, &restored, Some(revision))
            .await?;
        // The restore may have been slow too, so the tag is read once more.
        Ok(false)
    }
}
