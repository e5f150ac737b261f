//! The one tag operation: the only code that writes or removes a tag (invariant 2).

mod immutability;
mod stale_change;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, RegistryHost, Repository, Tag, Target, now};
use sluice_events::time_to_wire;
use sluice_events::wire::state::{Claim, Promotion, Pruning, TagEntry, Tombstone};
use sluice_registry::{Client, Manifest};
use sluice_service::crash;

use self::stale_change::StaleChange;
pub use self::stale_change::live_claim;
use crate::State;
use crate::catalog::Catalog;
use crate::entries::Entry;
use crate::error::Error;
use crate::key;

/// For how long a tag is claimed, unless the stage says otherwise; this only has to be longer than is usual.
const CLAIM: Duration = Duration::from_secs(30);
/// When a foreign claim is looked at again; most are gone in milliseconds.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How often the operation starts again before it is left to a later delivery.
const ROUNDS: usize = 5;

/// Whether the change to a tag is still wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It is wanted.
    Current,
    /// Something else is wanted by now.
    Superseded,
}

/// What a change to a tag depends on: an `upstream` entry, a decision, a retention plan.
pub trait Precondition: Send + Sync {
    /// Reads the state again, before the tag is written.
    fn freshness(&self) -> impl Future<Output = Result<Freshness, Error>> + Send;

    /// Reads again what may have changed while the tag was written, so that a stale change is taken back.
    fn freshness_after(&self) -> impl Future<Output = Result<Freshness, Error>> + Send {
        self.freshness()
    }
}

/// The precondition of a change that is always wanted: a list that only grows, the removal of an attachment with its image.
#[derive(Debug, Clone, Copy)]
pub struct AlwaysCurrent;

impl Precondition for AlwaysCurrent {
    async fn freshness(&self) -> Result<Freshness, Error> {
        Ok(Freshness::Current)
    }
}

/// Where a digest came from, kept in the entry.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    /// The stage that brings it.
    pub by: String,
    /// The mirror, if it was mirrored.
    pub mirror: String,
    /// The move of the upstream tag.
    pub move_number: u64,
    /// The promotion, if it was promoted.
    pub promotion: Option<Promotion>,
    /// What upstream has, if only some platforms of it are wanted.
    pub part: PlatformSubset,
}

/// What a digest is a part of; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlatformSubset {
    /// The digest upstream, if it is not the digest itself.
    pub source: Option<Digest>,
    /// The platforms that are wanted, empty for all.
    pub platforms: String,
}

/// A change of one tag.
#[derive(Debug)]
pub struct TagChange<'a, T> {
    /// The repository.
    pub repository: &'a Repository,
    /// The tag.
    pub tag: &'a Tag,
    /// What it shall point to, of which everything below is in the repository; `None` to remove it.
    pub wanted: Option<&'a Manifest>,
    /// Where that came from.
    pub provenance: Provenance,
    /// What wants the change.
    pub precondition: &'a T,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The tag is as wanted; `previous` is what it pointed to before.
    Settled {
        /// What it pointed to before this change, if to anything else.
        previous: Option<Digest>,
    },
    /// Something else is wanted by now; nothing was to be done.
    Superseded,
    /// The repository is immutable and the tag names something else, which it keeps.
    Refused {
        /// What it keeps.
        kept: Digest,
    },
}

/// Carries out tag changes for one service.
#[derive(Debug, Clone)]
pub struct TagWriter {
    state: State,
    catalog: Catalog,
    registry: Client,
    /// The registry by name, if it is a remote one.
    remote: Option<RegistryHost>,
    claim: Duration,
    /// Whether it moves tags of immutable repositories too.
    reverts: bool,
}

enum Round {
    Done(Applied),
    Again,
}

impl TagWriter {
    /// Makes a writer with the registry account of the service.
    #[must_use]
    pub const fn new(state: State, catalog: Catalog, registry: Client) -> Self {
        Self {
            state,
            catalog,
            registry,
            remote: None,
            claim: CLAIM,
            reverts: false,
        }
    }

    /// Makes one that does the same for repositories of a remote registry, whose client this is; it claims as long.
    #[must_use]
    pub fn at_remote(&self, registry: Client) -> Self {
        Self {
            state: self.state.clone(),
            catalog: self.catalog.clone(),
            remote: Some(registry.host().clone()),
            registry,
            claim: self.claim,
            reverts: self.reverts,
        }
    }

    fn target(&self, repository: &Repository) -> Target {
        Target {
            registry: self.remote.clone(),
            repository: repository.clone(),
        }
    }

    fn key(&self, repository: &Repository, tag: &Tag) -> String {
        key::target_tag(&self.target(repository), tag)
    }

    /// Sets for how long a tag is claimed: the time after which the message of somebody who died comes again, which
    /// then finds the claim of the dead one lapsed.
    #[must_use]
    pub const fn claiming_for(mut self, claim: Duration) -> Self {
        self.claim = claim;
        self
    }

    /// Carries out a change, so that no late worker leaves an older digest over a newer one.
    ///
    /// # Errors
    /// [`Error::Claimed`] while somebody else changes the tag, or a failing bus or registry.
    pub async fn apply<T: Precondition>(
        &self,
        change: &TagChange<'_, T>,
    ) -> Result<Applied, Error> {
        self.carry_out(change, None).await
    }

    /// Carries out a removal by retention; the entry says so from the moment the removal begins.
    ///
    /// # Errors
    /// As [`TagWriter::apply`].
    pub async fn prune<T: Precondition>(
        &self,
        change: &TagChange<'_, T>,
        pruning: &Pruning,
    ) -> Result<Applied, Error> {
        self.carry_out(change, Some(pruning)).await
    }

    /// Records that somebody else pointed a tag to a digest, or deleted it; says whether the registry shows that.
    ///
    /// # Errors
    /// As [`TagWriter::apply`].
    pub async fn observe(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: Option<&Digest>,
        by: &str,
        at: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let key = self.key(repository, tag);
        for _ in 0..ROUNDS {
            let (mut value, revision) = split(self.state.tags.get(&key).await?);
            if value.digest == text(digest) {
                return Ok(true);
            }
            refuse_foreign_claim(repository, tag, &value, "")?;
            let head = self.registry.head(repository, &tag.into()).await?;
            if head.map(|head| head.digest).as_ref() != digest {
                return Ok(false);
            }
            value.repository = self.target(repository).stored();
            value.tag = tag.to_string();
            value.generation += 1;
            let provenance = Provenance {
                by: by.to_owned(),
                ..Provenance::default()
            };
            settle(&mut value, &provenance, digest, at);
            match self.state.tags.write(&key, &value, revision).await {
                Ok(_) => {
                    crash::point("tags.observed");
                    return Ok(true);
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::TooManyConflicts {
            tag: format!("{repository}:{tag}"),
        })
    }

    async fn carry_out<T: Precondition>(
        &self,
        change: &TagChange<'_, T>,
        pruning: Option<&Pruning>,
    ) -> Result<Applied, Error> {
        let holder = holder(&change.provenance.by);
        for _ in 0..ROUNDS {
            match self.round(change, pruning, &holder).await {
                Ok(Round::Done(applied)) => return Ok(applied),
                Ok(Round::Again) => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => {
                    self.release(change, &holder).await;
                    return Err(error);
                }
            }
        }
        Err(Error::TooManyConflicts {
            tag: format!("{}:{}", change.repository, change.tag),
        })
    }

    /// Ends the claim of a change that failed, if what the tag names can be told; otherwise it lapses.
    ///
    /// What a live claim is for is kept, so it must not outlive the work.
    async fn release<T>(&self, change: &TagChange<'_, T>, holder: &str) {
        let released = async {
            let key = self.key(change.repository, change.tag);
            let claim = self.state.tags.get(&key).await?;
            let claim = claim.and_then(|entry| entry.value.claim);
            if claim.is_some_and(|claim| claim.holder == holder) {
                self.end_claim(change, holder).await?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = released.await {
            tracing::debug!(%error, "a claim is left to lapse");
        }
    }

    /// Leaves nothing behind of a change that is not carried out.
    async fn end_claim<T>(&self, change: &TagChange<'_, T>, holder: &str) -> Result<bool, Error> {
        let late = StaleChange {
            repository: change.repository,
            tag: change.tag,
            wanted: change.wanted.map(|manifest| &manifest.digest),
            provenance: &change.provenance,
            holder,
        };
        self.is_left(late).await
    }

    async fn round<T: Precondition>(
        &self,
        change: &TagChange<'_, T>,
        pruning: Option<&Pruning>,
        holder: &str,
    ) -> Result<Round, Error> {
        let key = self.key(change.repository, change.tag);
        let wanted = change.wanted.map(|manifest| manifest.digest.clone());
        let entry = self.state.tags.get(&key).await?;
        let (mut value, revision) = split(entry);
        if change.precondition.freshness().await? == Freshness::Superseded {
            return Ok(if self.end_claim(change, holder).await? {
                Round::Done(Applied::Superseded)
            } else {
                Round::Again
            });
        }
        refuse_foreign_claim(change.repository, change.tag, &value, holder)?;
        let at = self
            .registry
            .head(change.repository, &change.tag.into())
            .await?
            .map(|head| head.digest);
        // What is attached to an image grows, as when somebody signs it too.
        if let (Some(wanted), Some(at), None) = (&wanted, &at, change.tag.attached_to())
            && self.keeps(change.repository, &value, wanted, at)
        {
            let kept = at.clone();
            self.end_claim(change, holder).await?;
            return Ok(Round::Done(Applied::Refused { kept }));
        }
        let settled = value.claim.is_none()
            && value.digest == text(wanted.as_ref())
            && is_noted(&value, change);
        if settled && at == wanted {
            return Ok(Round::Done(Applied::Settled { previous: None }));
        }
        let previous = value
            .digest
            .parse()
            .ok()
            .filter(|digest| Some(digest) != wanted.as_ref());
        value.claim = Some(Claim {
            digest: text(wanted.as_ref()),
            holder: holder.to_owned(),
            until: Some(time_to_wire(now() + self.claim)),
        });
        value.repository = self.target(change.repository).stored();
        value.tag = change.tag.to_string();
        value.generation += 1;
        value.pruning = pruning.cloned();
        let revision = self.state.tags.write(&key, &value, revision).await?;
        crash::point("tags.claimed");
        if at != wanted {
            self.write(change.repository, change.tag, change.wanted)
                .await?;
            crash::point("tags.written");
        }
        let there = self
            .registry
            .head(change.repository, &change.tag.into())
            .await?
            .map(|head| head.digest);
        if there != wanted || change.precondition.freshness_after().await? == Freshness::Superseded
        {
            // Whoever wants something else waits for this claim to go, and has to know whose doing this is.
            value.pruning = None;
            if there == wanted {
                settle(&mut value, &change.provenance, wanted.as_ref(), now());
            } else {
                value.claim = None;
                if !self
                    .is_transient_tombstone(change.repository, there.as_ref())
                    .await?
                {
                    value.digest = text(there.as_ref());
                }
            }
            self.state.tags.write(&key, &value, Some(revision)).await?;
            return Ok(Round::Again);
        }
        settle(&mut value, &change.provenance, wanted.as_ref(), now());
        crash::point("tags.checked");
        self.state.tags.write(&key, &value, Some(revision)).await?;
        crash::point("tags.settled");
        Ok(Round::Done(Applied::Settled { previous }))
    }

    /// Points a tag to a manifest, or removes it.
    async fn write(
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
        let remember = |digest: Digest| async move {
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
            crash::point("tags.tombstone_noted");
            Ok(())
        };
        self.registry.delete_tag(repository, tag, remember).await?
    }
}

fn split(entry: Option<Entry<TagEntry>>) -> (TagEntry, Option<u64>) {
    entry.map_or_else(
        || (TagEntry::default(), None),
        |entry| (entry.value, Some(entry.revision)),
    )
}

/// Says whether the entry has what a digest that is wanted is a part of.
fn is_noted<T>(value: &TagEntry, change: &TagChange<'_, T>) -> bool {
    let part = &change.provenance.part;
    let source = text(part.source.as_ref());
    change.wanted.is_none() || (value.source_digest == source && value.platforms == part.platforms)
}

/// Returns what upstream has of what a tag names: something else where only a part of that was mirrored.
#[must_use]
pub fn source_of(entry: &TagEntry) -> &str {
    if entry.source_digest.is_empty() {
        &entry.digest
    } else {
        &entry.source_digest
    }
}

/// Names whoever carries out a change now.
fn holder(by: &str) -> String {
    let simulated = sluice_domain::clock::simulated_chance();
    let id = simulated.map_or_else(uuid::Uuid::new_v4, uuid::Uuid::from_u128);
    format!("{by}/{id}")
}

fn text(digest: Option<&Digest>) -> String {
    digest.map(ToString::to_string).unwrap_or_default()
}

fn refuse_foreign_claim(
    repository: &Repository,
    tag: &Tag,
    value: &TagEntry,
    holder: &str,
) -> Result<(), Error> {
    match live_claim(value) {
        Some((claim, until)) if claim.holder != holder => Err(Error::Claimed {
            tag: format!("{repository}:{tag}"),
            holder: claim.holder.clone(),
            until: until.min(now() + LOOK_AGAIN),
        }),
        _ => Ok(()),
    }
}

fn settle(
    value: &mut TagEntry,
    provenance: &Provenance,
    wanted: Option<&Digest>,
    at: DateTime<Utc>,
) {
    let Provenance {
        by,
        mirror,
        move_number,
        promotion,
        part,
    } = provenance.clone();
    let part = wanted.map_or_else(PlatformSubset::default, |_| part);
    value.source_digest = text(part.source.as_ref());
    value.platforms = part.platforms;
    value.claim = None;
    value.refused.clear();
    value.pruning = value.pruning.take().filter(|_| wanted.is_none());
    value.pruned = value.pruning.is_some();
    let before = std::mem::replace(&mut value.digest, text(wanted));
    value.previous = if before == value.digest {
        String::new()
    } else {
        before
    };
    value.arrived_at = Some(time_to_wire(at));
    value.arrived_by = by;
    value.mirror = mirror;
    value.move_number = move_number;
    value.promoted_from = promotion;
}
