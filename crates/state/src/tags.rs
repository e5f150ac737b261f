//! The one tag operation: the only code that writes or removes a tag (invariant 2).

mod mend;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, Repository, Tag};
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

    async fn carry_out<T: Truth>(
        &self,
        change: &TagChange<'_, T>,
        pruning: Option<&Pruning>,
    ) -> Result<Applied, Error> {
        let holder = format!("{}/{}", change.provenance.by, uuid::Uuid::new_v4());
        let mut wrote = false;
        for _ in 0..ROUNDS {
            match self.round(change, pruning, &holder, &mut wrote).await {
                Ok(Round::Done(Applied::Superseded)) => {
                    // What was written may have arrived after whoever superseded it had looked.
                    if wrote || change.wanted.is_some() {
                        let ours = change.wanted.map(|manifest| &manifest.digest);
                        self.mend(change.repository, change.tag, ours).await?;
                    }
                    return Ok(Applied::Superseded);
                }
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
        wrote: &mut bool,
    ) -> Result<Round, Error> {
        let key = key::tag(change.repository, change.tag);
        let wanted = change.wanted.map(|manifest| manifest.digest.clone());
        let entry = self.state.tags.get(&key).await?;
        let (mut value, revision) = split(entry);
        if change.truth.standing().await? == Standing::Superseded {
            return Ok(Round::Done(Applied::Superseded));
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
            until: Some(time_to_wire(Utc::now() + CLAIM)),
        });
        value.repository = change.repository.to_string();
        value.tag = change.tag.to_string();
        value.generation += 1;
        value.pruning = pruning.cloned();
        let revision = self.state.tags.write(&key, &value, revision).await?;
        if at != wanted {
            *wrote = true;
            self.write(change).await?;
        }
        let now = self
            .registry
            .head(change.repository, &change.tag.into())
            .await?
            .map(|head| head.digest);
        if now != wanted || change.truth.standing().await? == Standing::Superseded {
            // Whoever wants something else waits for this claim to go.
            value.claim = None;
            value.pruning = None;
            value.digest = text(now.as_ref());
            self.state.tags.write(&key, &value, Some(revision)).await?;
            return Ok(Round::Again);
        }
        settle(&mut value, &change.provenance, wanted.as_ref(), Utc::now());
        self.state.tags.write(&key, &value, Some(revision)).await?;
        Ok(Round::Done(Applied::Settled { previous }))
    }

    async fn write<T>(&self, change: &TagChange<'_, T>) -> Result<(), Error> {
        if let Some(manifest) = change.wanted {
            return Ok(self
                .registry
                .put_manifest(change.repository, &change.tag.into(), manifest)
                .await?);
        }
        remove(&self.state, &self.registry, change.repository, change.tag).await
    }
}

/// Removes a tag at the registry, and only it.
async fn remove(
    state: &State,
    registry: &Client,
    repository: &Repository,
    tag: &Tag,
) -> Result<(), Error> {
    let remember = |digest: Digest| async move {
        let tombstone = Tombstone {
            digest: digest.to_string(),
            repository: repository.to_string(),
            tag: tag.to_string(),
            created_at: Some(time_to_wire(Utc::now())),
            ..Default::default()
        };
        state
            .tombstones
            .put(&key::image(&digest), &tombstone)
            .await
            .map(drop)
    };
    registry.delete_tag(repository, tag, remember).await?
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

fn is_none_or_lapsed(value: &TagEntry) -> bool {
    value.claim.as_ref().is_none_or(|claim| {
        time_from_wire(claim.until.as_ref()).is_none_or(|until| until <= Utc::now())
    })
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
    let until = time_from_wire(claim.until.as_ref()).filter(|until| *until > Utc::now());
    match until {
        Some(until) if claim.holder != holder => Err(Error::Claimed {
            tag: format!("{repository}:{tag}"),
            holder: claim.holder.clone(),
            until: until.min(Utc::now() + LOOK_AGAIN),
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
