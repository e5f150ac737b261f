//! Removes the traces of a change that is no longer wanted: its worker may have been too slow, or died.

use sluice_domain::{Digest, Repository, Tag, now};
use sluice_events::wire::state::TagEntry;
use sluice_service::crash;

use crate::error::Error;
use crate::images::tag_change::{Provenance, StaleChange};
use crate::images::tag_claim::{
    claimed_provenance, ensure_unclaimed, has_expired_claim, new_claim, new_holder,
};
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
            if is_clean(self.clean_up_once(stale).await)? {
                return Ok(());
            }
        }
        Err(too_many_conflicts(repository, tag))
    }

    /// Ends the claim of a worker that died: records what the registry shows, or finishes a removal.
    ///
    /// The message of that worker does so when it is delivered again, unless its change is not wanted any more by then and
    /// leads elsewhere.
    ///
    /// # Errors
    /// [`Error::Paused`] if a removal is to be finished and deletion is paused.
    pub async fn end_expired_claim(&self, repository: &Repository, tag: &Tag) -> Result<(), Error> {
        for _ in 0..MAX_ROUNDS {
            if is_clean(self.end_expired_claim_once(repository, tag).await)? {
                return Ok(());
            }
        }
        Err(too_many_conflicts(repository, tag))
    }

    /// Reads the tag once and ends its claim if that has expired; says whether the tag is clean.
    async fn end_expired_claim_once(
        &self,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<bool, Error> {
        let key = self.key(repository, tag);
        let (mut entry, revision) = self.state.tags.get_or_default(&key).await?;
        if !has_expired_claim(&entry) {
            return Ok(true);
        }
        let Some(claim) = entry.claim.take() else {
            return Ok(true);
        };
        let head = self.registry.head(repository, &tag.into()).await?;
        let current = head.map(|head| head.digest);
        let current_text = digest_text(current.as_ref());
        let provenance = claimed_provenance(&claim);
        if current_text == claim.digest {
            record_digest(&mut entry, &provenance, current.as_ref(), now());
        } else if current_text == entry.digest {
            entry.pruning = None;
        } else if claim.digest.is_empty()
            && self
                .is_transient_tombstone(repository, current.as_ref())
                .await?
        {
            self.state.ensure_not_paused().await?;
            record_digest(&mut entry, &provenance, None, now());
            let removal = StaleChange {
                repository,
                tag,
                wanted: None,
                provenance: &provenance,
                holder: &new_holder(&provenance.by),
            };
            return self.restore_digest(removal, entry, revision).await;
        } else {
            // Another writer pointed the tag elsewhere. What the entry said is not restored: other services write entries too.
            record_digest(&mut entry, &Provenance::default(), current.as_ref(), now());
        }
        self.state.tags.write(&key, &entry, revision).await?;
        tracing::info!(
            image.repository = %repository, image.tag = %tag, image.digest = entry.digest, holder = claim.holder,
            "ended the claim of a worker that died"
        );
        Ok(true)
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
            "the tag does not name what its entry says; restoring the digest"
        );
        let mut claimed = recorded.clone();
        claimed.generation += 1;
        claimed.claim = Some(new_claim(
            recorded.digest.clone(),
            stale.holder,
            &Provenance::default(),
            self.claim,
        ));
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

/// Says whether a tag is clean; after a conflict it has to be read once more.
fn is_clean(result: Result<bool, Error>) -> Result<bool, Error> {
    match result {
        Err(error) if error.is_conflict() => Ok(false),
        result => result,
    }
}

fn too_many_conflicts(repository: &Repository, tag: &Tag) -> Error {
    Error::TooManyConflicts {
        what: format!("tag `{repository}:{tag}`"),
    }
}
