//! The one tag operation: the only code that writes or removes a tag (invariant 2).

use std::time::Duration;

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, RegistryHost, Repository, Tag, Target, now};
use sluice_events::time_to_wire;
use sluice_events::wire::state::{Pruning, TagEntry, Tombstone};
use sluice_registry::{Client, Manifest};
use sluice_service::crash;

use crate::State;
use crate::error::Error;
use crate::images::tag_change::{
    Freshness, Precondition, Provenance, StaleChange, TagChange, TagChangeOutcome,
};
use crate::images::tag_claim::{CLAIM, ensure_unclaimed, new_claim, new_holder};
use crate::images::tag_entry::{digest_text, has_platform_subset, record_digest};
use crate::key;
use crate::resources::catalog::Catalog;

/// How often a change starts again after a conflict before it is left to a later delivery.
pub(super) const MAX_ROUNDS: usize = 5;

/// Carries out tag changes for one service.
#[derive(Debug, Clone)]
pub struct TagWriter {
    pub(super) state: State,
    pub(super) catalog: Catalog,
    pub(super) registry: Client,
    /// The registry by name, if it is a remote one.
    pub(super) remote: Option<RegistryHost>,
    /// How long a claim lasts.
    pub(super) claim: Duration,
    /// Whether tags of immutable repositories are moved too.
    pub(super) overrides_immutability: bool,
}

enum Round {
    Done(TagChangeOutcome),
    Retry,
}

impl TagWriter {
    /// Creates a writer for the internal registry, with the account of the service.
    #[must_use]
    pub const fn new(state: State, catalog: Catalog, registry: Client) -> Self {
        Self {
            state,
            catalog,
            registry,
            remote: None,
            claim: CLAIM,
            overrides_immutability: false,
        }
    }

    /// Creates a writer with the same settings for a remote registry.
    #[must_use]
    pub fn at_remote(&self, registry: Client) -> Self {
        Self {
            state: self.state.clone(),
            catalog: self.catalog.clone(),
            remote: Some(registry.host().clone()),
            registry,
            claim: self.claim,
            overrides_immutability: self.overrides_immutability,
        }
    }

    fn target(&self, repository: &Repository) -> Target {
        Target {
            registry: self.remote.clone(),
            repository: repository.clone(),
        }
    }

    pub(super) fn key(&self, repository: &Repository, tag: &Tag) -> String {
        key::target_tag(&self.target(repository), tag)
    }

    /// Sets how long a claim lasts: the time after which the message of a worker that died is delivered again, so that
    /// the redelivery finds the claim expired.
    #[must_use]
    pub const fn with_claim_duration(mut self, claim: Duration) -> Self {
        self.claim = claim;
        self
    }

    /// Applies a change, so that no slow worker leaves an older digest over a newer one.
    ///
    /// # Errors
    /// [`Error::Claimed`] while another worker changes the tag.
    pub async fn apply<T: Precondition>(
        &self,
        change: &TagChange<'_, T>,
    ) -> Result<TagChangeOutcome, Error> {
        self.apply_with_retries(change, None).await
    }

    /// Applies a removal by retention; the entry says so from the moment the removal begins.
    pub async fn prune<T: Precondition>(
        &self,
        change: &TagChange<'_, T>,
        pruning: &Pruning,
    ) -> Result<TagChangeOutcome, Error> {
        self.apply_with_retries(change, Some(pruning)).await
    }

    /// Records that a client of the registry pointed a tag to a digest, or deleted it; says whether the registry shows
    /// that.
    ///
    /// # Errors
    /// [`Error::Claimed`] while a worker changes the tag.
    pub async fn record_external_change(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: Option<&Digest>,
        by: &str,
        at: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let key = self.key(repository, tag);
        for _ in 0..MAX_ROUNDS {
            let (mut entry, revision) = self.state.tags.get_or_default(&key).await?;
            if entry.digest == digest_text(digest) {
                return Ok(true);
            }
            ensure_unclaimed(repository, tag, &entry, "")?;
            let head = self.registry.head(repository, &tag.into()).await?;
            if head.map(|head| head.digest).as_ref() != digest {
                return Ok(false);
            }
            entry.repository = self.target(repository).stored();
            entry.tag = tag.to_string();
            entry.generation += 1;
            let provenance = Provenance {
                by: by.to_owned(),
                ..Provenance::default()
            };
            record_digest(&mut entry, &provenance, digest, at);
            if self.state.tags.try_write(&key, &entry, revision).await? {
                crash::point("tags.observed");
                return Ok(true);
            }
        }
        Err(Error::TooManyConflicts {
            what: format!("tag `{repository}:{tag}`"),
        })
    }

    async fn apply_with_retries<T: Precondition>(
        &self,
        change: &TagChange<'_, T>,
        pruning: Option<&Pruning>,
    ) -> Result<TagChangeOutcome, Error> {
        let holder = new_holder(&change.provenance.by);
        for _ in 0..MAX_ROUNDS {
            match self.round(change, pruning, &holder).await {
                Ok(Round::Done(applied)) => return Ok(applied),
                Ok(Round::Retry) => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => {
                    self.release_claim(change, &holder).await;
                    return Err(error);
                }
            }
        }
        Err(Error::TooManyConflicts {
            what: format!("tag `{}:{}`", change.repository, change.tag),
        })
    }

    /// Ends the claim of a change that failed, if the registry shows what the tag names; otherwise the claim expires.
    ///
    /// Garbage collection keeps the digest of a live claim, so a claim must not outlive the work.
    async fn release_claim<T>(&self, change: &TagChange<'_, T>, holder: &str) {
        let released = async {
            let key = self.key(change.repository, change.tag);
            let entry = self.state.tags.get(&key).await?;
            let claim = entry.and_then(|entry| entry.value.claim);
            if claim.is_some_and(|claim| claim.holder == holder) {
                self.clean_up_once(stale(change, holder)).await?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = released.await {
            tracing::debug!(%error, image.repository = %change.repository, image.tag = %change.tag, "the claim of a failed change is left to expire");
        }
    }

    async fn round<T: Precondition>(
        &self,
        change: &TagChange<'_, T>,
        pruning: Option<&Pruning>,
        holder: &str,
    ) -> Result<Round, Error> {
        let (repository, tag) = (change.repository, change.tag);
        let key = self.key(repository, tag);
        let wanted = change.wanted.map(|manifest| manifest.digest.clone());
        let (mut entry, revision) = self.state.tags.get_or_default(&key).await?;
        if change.precondition.freshness().await? == Freshness::Superseded {
            let is_clean = self.clean_up_once(stale(change, holder)).await?;
            return Ok(if is_clean {
                Round::Done(TagChangeOutcome::Superseded)
            } else {
                Round::Retry
            });
        }
        ensure_unclaimed(repository, tag, &entry, holder)?;
        let head = self.registry.head(repository, &tag.into()).await?;
        let current = head.map(|head| head.digest);
        // The tag of attachments moves in an immutable repository too: a list of referrers grows with every signature.
        if let (Some(wanted), Some(current), None) = (&wanted, &current, tag.attached_to())
            && self.is_move_forbidden(repository, &entry, wanted, current)
        {
            let kept = current.clone();
            self.clean_up_once(stale(change, holder)).await?;
            return Ok(Round::Done(TagChangeOutcome::Refused { kept }));
        }
        let is_recorded = entry.claim.is_none()
            && entry.digest == digest_text(wanted.as_ref())
            && has_platform_subset(&entry, change);
        if is_recorded && current == wanted {
            return Ok(Round::Done(TagChangeOutcome::Done { previous: None }));
        }
        let previous = entry
            .digest
            .parse()
            .ok()
            .filter(|digest| Some(digest) != wanted.as_ref());
        let wanted_text = digest_text(wanted.as_ref());
        entry.claim = Some(new_claim(
            wanted_text,
            holder,
            &change.provenance,
            self.claim,
        ));
        entry.repository = self.target(repository).stored();
        entry.tag = tag.to_string();
        entry.generation += 1;
        entry.pruning = pruning.cloned();
        let revision = self.state.tags.write(&key, &entry, revision).await?;
        crash::point("tags.claimed");
        if current != wanted {
            self.write(repository, tag, change.wanted).await?;
            crash::point("tags.written");
        }
        let head = self.registry.head(repository, &tag.into()).await?;
        let current = head.map(|head| head.digest);
        if current != wanted
            || change.precondition.freshness_after().await? == Freshness::Superseded
        {
            let superseded = self.record_superseded(change, entry, current.as_ref());
            let entry = superseded.await?;
            self.state.tags.write(&key, &entry, Some(revision)).await?;
            return Ok(Round::Retry);
        }
        record_digest(&mut entry, &change.provenance, wanted.as_ref(), now());
        crash::point("tags.checked");
        self.state.tags.write(&key, &entry, Some(revision)).await?;
        crash::point("tags.recorded");
        Ok(Round::Done(TagChangeOutcome::Done { previous }))
    }

    /// Ends the claim of a change that was superseded while it was written: the newer one waits for that, and has to see in
    /// the entry who wrote the tag.
    async fn record_superseded<T>(
        &self,
        change: &TagChange<'_, T>,
        mut entry: TagEntry,
        current: Option<&Digest>,
    ) -> Result<TagEntry, Error> {
        let wanted = change.wanted.map(|manifest| &manifest.digest);
        entry.pruning = None;
        if current == wanted {
            record_digest(&mut entry, &change.provenance, wanted, now());
            return Ok(entry);
        }
        entry.claim = None;
        if !self
            .is_transient_tombstone(change.repository, current)
            .await?
        {
            entry.digest = digest_text(current);
        }
        Ok(entry)
    }

    /// Points a tag to a manifest, or removes it.
    pub(super) async fn write(
        &self,
        repository: &Repository,
        tag: &Tag,
        wanted: Option<&Manifest>,
    ) -> Result<(), Error> {
        match wanted {
            Some(manifest) => Ok(self
                .registry
                .put_manifest(repository, &tag.into(), manifest)
                .await?),
            None => self.remove(repository, tag).await,
        }
    }

    async fn remove(&self, repository: &Repository, tag: &Tag) -> Result<(), Error> {
        let record_tombstone = |digest: Digest| async move {
            let tombstone = Tombstone {
                digest: digest.to_string(),
                repository: repository.to_string(),
                tag: tag.to_string(),
                created_at: Some(time_to_wire(now())),
                ..Default::default()
            };
            self.state
                .tombstones
                .put(&key::image(&digest), &tombstone)
                .await?;
            crash::point("tags.tombstone_recorded");
            Ok(())
        };
        self.registry
            .delete_tag(repository, tag, record_tombstone)
            .await?
    }
}

/// Describes a change that is not applied, so that its traces are removed.
fn stale<'a, T>(change: &'a TagChange<'_, T>, holder: &'a str) -> StaleChange<'a> {
    StaleChange {
        repository: change.repository,
        tag: change.tag,
        wanted: change.wanted.map(|manifest| &manifest.digest),
        provenance: &change.provenance,
        holder,
    }
}
