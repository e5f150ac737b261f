//! The one tag operation: the only code that writes or removes a tag (invariant 2).

use std::time::Duration;

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, Repository, Tag, now};
use sluice_events::wire::state::{Claim, Promotion, Pruning, TagEntry, Tombstone};
use sluice_events::{time_from_wire, time_to_wire};
use sluice_registry::{Client, Manifest};

use crate::State;
use crate::entries::Entry;
use crate::error::Error;
use crate::key;

/// For how long a tag is claimed; whoever takes longer starts again, so this only has to be longer than is usual.
const CLAIM: Duration = Duration::from_secs(30);
/// When a foreign claim is looked at again; most are gone in milliseconds.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How often the operation starts again before it is left to a later delivery.
const ROUNDS: usize = 5;

/// Whether the source of truth still wants the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Current,
    /// It wants something else by now.
    Superseded,
}

/// The source of truth of a tag: an `upstream` entry, a decision, a retention plan.
pub trait Truth: Send + Sync {
    /// Reads it again.
    fn standing(&self) -> impl Future<Output = Result<Standing, Error>> + Send;
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
}

/// A change of one tag.
#[derive(Debug)]
pub struct TagChange<'a, T> {
    /// The repository.
    pub repository: &'a Repository,
    /// The tag.
    pub tag: &'a Tag,
    /// What it shall point to, already in the repository by digest; `None` to remove it.
    pub wanted: Option<&'a Manifest>,
    /// Where that came from.
    pub provenance: Provenance,
    /// What wants the change.
    pub truth: &'a T,
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
}

/// Carries out tag changes for one service.
#[derive(Debug, Clone)]
pub struct TagWriter {
    state: State,
    registry: Client,
}

enum Round {
    Done(Applied),
    Again,
}

impl TagWriter {
    /// Makes a writer with the registry account of the service.
    #[must_use]
    pub const fn new(state: State, registry: Client) -> Self {
        Self { state, registry }
    }

    /// Carries out a change, so that no late worker leaves an older digest over a newer one.
    ///
    /// # Errors
    /// [`Error::Claimed`] while somebody else changes the tag, or a failing bus or registry.
    pub async fn apply<T: Truth>(&self, change: &TagChange<'_, T>) -> Result<Applied, Error> {
        self.carry_out(change, None).await
    }

    /// Carries out a removal by retention; the entry says so from the moment the removal begins.
    ///
    /// # Errors
    /// As [`TagWriter::apply`].
    pub async fn prune<T: Truth>(
        &self,
        change: &TagChange<'_, T>,
        pruning: &Pruning,
    ) -> Result<Applied, Error> {
        self.carry_out(change, Some(pruning)).await
    }

    /// Notes that somebody else pointed a tag to a digest, if it still points there.
    ///
    /// # Errors
    /// As [`TagWriter::apply`].
    pub async fn observe(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
        by: &str,
        at: DateTime<Utc>,
    ) -> Result<(), Error> {
        let key = key::tag(repository, tag);
        for _ in 0..ROUNDS {
            let (mut value, revision) = split(self.state.tags.get(&key).await?);
            if value.digest == digest.as_str() {
                return Ok(());
            }
            refuse_foreign_claim(repository, tag, &value, "")?;
            let head = self.registry.head(repository, &tag.into()).await?;
            if head.is_none_or(|head| head.digest != *digest) {
                return Ok(());
            }
            value.repository = repository.to_string();
            value.tag = tag.to_string();
            value.generation += 1;
            let provenance = Provenance {
                by: by.to_owned(),
                ..Provenance::default()
            };
            settle(&mut value, &provenance, Some(digest), at);
            match self.state.tags.write(&key, &value, revision).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Restless {
            tag: format!("{repository}:{tag}"),
        })
    }

    /// Ends the claim of somebody who died, so that the entry says again what the tag names.
    ///
    /// `ours` is what the caller would have brought: if the tag names that now, it was brought by an earlier life of
    /// the same work.
    ///
    /// # Errors
    /// [`Error::Claimed`] while that work may be alive, or a failing bus or registry.
    pub async fn end_claim(
        &self,
        repository: &Repository,
        tag: &Tag,
        ours: (&Digest, &Provenance),
    ) -> Result<(), Error> {
        let (digest, provenance) = ours;
        let key = key::tag(repository, tag);
        let (mut value, revision) = split(self.state.tags.get(&key).await?);
        let Some(claim) = value.claim.clone() else {
            return Ok(());
        };
        let is_ours = claim.digest == digest.as_str();
        if let Err(error) = refuse_foreign_claim(repository, tag, &value, "") {
            return if is_ours { Err(error) } else { Ok(()) };
        }
        let head = self.registry.head(repository, &tag.into()).await?;
        let there = text(head.as_ref().map(|head| &head.digest));
        if is_ours && there == claim.digest {
            settle(&mut value, provenance, Some(digest), now());
        } else if there.is_empty() && claim.digest.is_empty() && value.pruning.is_none() {
            // A removal that was carried out, and not noted; one by retention has to be told, and is looked for.
            settle(&mut value, provenance, None, now());
        } else if there == value.digest {
            value.claim = None;
            value.pruning = None;
        } else {
            return Ok(());
        }
        match self.state.tags.write(&key, &value, revision).await {
            Err(error) if !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }

    async fn carry_out<T: Truth>(
        &self,
        change: &TagChange<'_, T>,
        pruning: Option<&Pruning>,
    ) -> Result<Applied, Error> {
        let simulated = sluice_domain::clock::simulated_chance();
        let id = simulated.map_or_else(uuid::Uuid::new_v4, uuid::Uuid::from_u128);
        let holder = format!("{}/{id}", change.provenance.by);
        for _ in 0..ROUNDS {
            match self.round(change, pruning, &holder).await {
                Ok(Round::Done(applied)) => return Ok(applied),
                Ok(Round::Again) => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Restless {
            tag: format!("{}:{}", change.repository, change.tag),
        })
    }

    async fn round<T: Truth>(
        &self,
        change: &TagChange<'_, T>,
        pruning: Option<&Pruning>,
        holder: &str,
    ) -> Result<Round, Error> {
        let key = key::tag(change.repository, change.tag);
        let wanted = change.wanted.map(|manifest| manifest.digest.clone());
        let entry = self.state.tags.get(&key).await?;
        let (mut value, revision) = split(entry);
        if change.truth.standing().await? == Standing::Superseded {
            return self.leave(change, value, revision, holder).await;
        }
        refuse_foreign_claim(change.repository, change.tag, &value, holder)?;
        let at = self
            .registry
            .head(change.repository, &change.tag.into())
            .await?
            .map(|head| head.digest);
        let settled = value.claim.is_none() && value.digest == text(wanted.as_ref());
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
            until: Some(time_to_wire(now() + CLAIM)),
        });
        value.repository = change.repository.to_string();
        value.tag = change.tag.to_string();
        value.generation += 1;
        value.pruning = pruning.cloned();
        let revision = self.state.tags.write(&key, &value, revision).await?;
        if at != wanted {
            self.write(change).await?;
        }
        let there = self
            .registry
            .head(change.repository, &change.tag.into())
            .await?
            .map(|head| head.digest);
        if there != wanted || change.truth.standing().await? == Standing::Superseded {
            // Whoever wants something else waits for this claim to go, and has to know whose doing this is.
            value.pruning = None;
            if there == wanted {
                settle(&mut value, &change.provenance, wanted.as_ref(), now());
            } else {
                value.claim = None;
                value.digest = text(there.as_ref());
            }
            self.state.tags.write(&key, &value, Some(revision)).await?;
            return Ok(Round::Again);
        }
        settle(&mut value, &change.provenance, wanted.as_ref(), now());
        self.state.tags.write(&key, &value, Some(revision)).await?;
        Ok(Round::Done(Applied::Settled { previous }))
    }

    /// Leaves a tag to whoever wants something else, and nothing of this change behind.
    ///
    /// It, or an earlier life of it, may have been so slow that its claim had lapsed, and have written over what was
    /// settled meanwhile. Or it died with its claim, which nobody else would end.
    async fn leave<T: Truth>(
        &self,
        change: &TagChange<'_, T>,
        mut value: TagEntry,
        revision: Option<u64>,
        holder: &str,
    ) -> Result<Round, Error> {
        let done = Ok(Round::Done(Applied::Superseded));
        let wanted = change.wanted.map(|manifest| manifest.digest.clone());
        let own = |claim: &Claim| claim.digest == text(wanted.as_ref());
        if revision.is_none() || (value.claim.is_none() && value.digest == text(wanted.as_ref())) {
            return done;
        }
        if let Err(claimed) = refuse_foreign_claim(change.repository, change.tag, &value, holder) {
            // Another life of this very change may end without an end, and then this is the last that looks.
            return match &value.claim {
                Some(claim) if own(claim) => Err(claimed),
                _ => done,
            };
        }
        let there = self
            .registry
            .head(change.repository, &change.tag.into())
            .await?
            .map(|head| head.digest);
        let key = key::tag(change.repository, change.tag);
        if let Some(claim) = value.claim.take() {
            if there == wanted && own(&claim) {
                settle(&mut value, &change.provenance, wanted.as_ref(), now());
            } else if text(there.as_ref()) != value.digest {
                // Somebody else wrote it; whoever that was comes back to it.
                return done;
            }
            self.state.tags.write(&key, &value, revision).await?;
            return done;
        }
        if there != wanted {
            return done;
        }
        self.restore(change, value, revision, holder).await
    }

    /// Brings a settled tag back to what its entry says.
    async fn restore<T>(
        &self,
        change: &TagChange<'_, T>,
        settled: TagEntry,
        revision: Option<u64>,
        holder: &str,
    ) -> Result<Round, Error> {
        let key = key::tag(change.repository, change.tag);
        let digest: Option<Digest> = settled.digest.parse().ok();
        let manifest = match &digest {
            Some(digest) => match self
                .registry
                .manifest(change.repository, &digest.into())
                .await
            {
                // Whoever removed it meanwhile has changed the entry too, or will.
                Err(error) if error.is_not_found() => {
                    return Ok(Round::Done(Applied::Superseded));
                }
                found => Some(found?),
            },
            None => None,
        };
        tracing::warn!(
            image.repository = %change.repository, image.tag = %change.tag, image.digest = settled.digest,
            "a late change wrote over a newer one, which is brought back"
        );
        let mut claimed = settled.clone();
        claimed.generation += 1;
        claimed.claim = Some(Claim {
            digest: settled.digest.clone(),
            holder: holder.to_owned(),
            until: Some(time_to_wire(now() + CLAIM)),
        });
        let revision = self.state.tags.write(&key, &claimed, revision).await?;
        let back = TagChange {
            repository: change.repository,
            tag: change.tag,
            wanted: manifest.as_ref(),
            provenance: Provenance::default(),
            truth: change.truth,
        };
        self.write(&back).await?;
        let again = TagEntry {
            generation: claimed.generation,
            ..settled
        };
        self.state.tags.write(&key, &again, Some(revision)).await?;
        // Another look, since this may have been late too.
        Ok(Round::Again)
    }

    async fn write<T>(&self, change: &TagChange<'_, T>) -> Result<(), Error> {
        if let Some(manifest) = change.wanted {
            return Ok(self
                .registry
                .put_manifest(change.repository, &change.tag.into(), manifest)
                .await?);
        }
        let remember = |digest: Digest| async move {
            let tombstone = Tombstone {
                digest: digest.to_string(),
                repository: change.repository.to_string(),
                tag: change.tag.to_string(),
                created_at: Some(time_to_wire(now())),
                ..Default::default()
            };
            self.state
                .tombstones
                .put(&key::image(&digest), &tombstone)
                .await
                .map(drop)
        };
        self.registry
            .delete_tag(change.repository, change.tag, remember)
            .await?
    }
}

fn split(entry: Option<Entry<TagEntry>>) -> (TagEntry, Option<u64>) {
    entry.map_or_else(
        || (TagEntry::default(), None),
        |entry| (entry.value, Some(entry.revision)),
    )
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
    let Some(claim) = &value.claim else {
        return Ok(());
    };
    let until = time_from_wire(claim.until.as_ref()).filter(|until| *until > now());
    match until {
        Some(until) if claim.holder != holder => Err(Error::Claimed {
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
    } = provenance.clone();
    value.claim = None;
    value.pruning = value.pruning.take().filter(|_| wanted.is_none());
    value.pruned = value.pruning.is_some();
    value.digest = text(wanted);
    value.arrived_at = Some(time_to_wire(at));
    value.arrived_by = by;
    value.mirror = mirror;
    value.move_number = move_number;
    value.promoted_from = promotion;
}
