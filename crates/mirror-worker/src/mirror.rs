//! One move of one tag.

use std::time::Duration;

use sluice_bus::{Bus, Cause, Handler, Outcome, topology};
use sluice_domain::resources::OnDelete;
use sluice_domain::{Class, Classify, Digest, Repository, ResourceName, Tag};
use sluice_events::commands::{MirrorTag, Reconcile};
use sluice_events::facts::{TagMirrorFailed, TagMirrored, UpstreamTagGone, UpstreamTagMoved};
use sluice_events::{Command, Decode, Event, Message, Unexpected};
use sluice_registry::{Client, Copied, CopyJob, Limits, Transport};
use sluice_service::{Secrets, crash};
use sluice_state::reconcile::after_events;
use sluice_state::{
    Applied, Catalog, Freshness, PlatformSubset, Precondition as _, Provenance, Pulls,
    RemoteClients, Snapshot, State, TagChange, TagWriter, describe, describe_copied, detach, key,
    source_of,
};
use thiserror::Error;

use crate::filtered_index::{part, platforms};
use crate::referrers::ReferrersUnsupported;
use crate::upstream_precondition::Upstream;

/// How many sibling repositories are asked for a blob before it is transferred.
const SIBLINGS: usize = 4;
/// How often the registry is compared with the state, unless the settings say otherwise.
const AUDIT_EVERY: Duration = Duration::from_secs(86_400);
/// How long one move may take, unless the settings say otherwise.
const LIMIT: Duration = Duration::from_secs(3_600);
/// How often an image has waited for a registry that is away when that is told; about ten minutes.
const WAITS_UNTOLD: u32 = 8;

/// The stage.
#[derive(Debug)]
pub struct MirrorWorker {
    pub(crate) bus: Bus,
    pub(crate) state: State,
    pub(crate) catalog: Catalog,
    pub(crate) registry: Client,
    pub(crate) tags: TagWriter,
    /// How often the registry is compared with the state; zero for never.
    pub(crate) audit_every: Duration,
    remotes: RemoteClients,
    pub(crate) limits: Limits,
    /// How long one move may take.
    limit: Duration,
    pub(crate) unlisting: ReferrersUnsupported,
}

/// What the stage works on.
#[derive(Debug)]
pub enum Input {
    /// An upstream tag points to another digest.
    Moved(UpstreamTagMoved),
    /// An upstream tag is no longer there.
    Gone(UpstreamTagGone),
    /// A tag is to be mirrored whose event is gone.
    Asked(MirrorTag),
    /// Missing work is to be found.
    Reconcile(Reconcile),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, Unexpected> {
        match message {
            Message::Event(Event::UpstreamTagMoved(fact)) => Ok(Self::Moved(fact)),
            Message::Event(Event::UpstreamTagGone(fact)) => Ok(Self::Gone(fact)),
            Message::Command(Command::MirrorTag(command)) => Ok(Self::Asked(command)),
            Message::Command(Command::Reconcile(command)) => Ok(Self::Reconcile(command)),
            other => Err(other.unexpected()),
        }
    }
}

/// How thoroughly a copy checks what the destination has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verification {
    /// A manifest proves that its blobs are there.
    Trusting,
    /// Every blob is looked up.
    Thorough,
}

/// Why an image was not mirrored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The state failed.
    #[error(transparent)]
    State(#[from] sluice_state::Error),
    /// A registry failed.
    #[error(transparent)]
    Registry(#[from] sluice_registry::Error),
    /// An upstream registry cannot be used.
    #[error("registry `{host}` cannot be used: {reason}")]
    Remote {
        /// Its name.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It took too long.
    #[error("it was not mirrored within {limit:?}")]
    TimedOut {
        /// How long it may take.
        limit: Duration,
    },
    /// The repository may only be written by promotion.
    #[error("`{repository}` is a target of a promotion policy; images reach it only by promotion")]
    Target {
        /// It.
        repository: Repository,
    },
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::State(error) => error.class(),
            Self::Registry(error) => error.class(),
            // A secret that is missing now may be mounted soon.
            Self::Remote { .. } | Self::TimedOut { .. } => Class::TRANSIENT,
            Self::Target { .. } => Class::Permanent,
        }
    }
}

impl Handler for MirrorWorker {
    type Input = Input;
    type Error = Error;

    const SPAN: &'static str = sluice_telemetry::span::MIRROR;

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, Error> {
        match input {
            Input::Moved(fact) => self.moved_or_told(&fact, cause).await,
            Input::Gone(fact) => self.gone(&fact).await,
            Input::Asked(command) => self.asked(&command, cause).await,
            Input::Reconcile(command) => {
                let command = self.audit_if_due(command).await?;
                after_events(&self.bus, &topology::MIRROR_WORKER, &command, cause).await?;
                let found = self.missing(&command).await?;
                Ok(found.into_outcome(&self.state, &command, cause))
            }
        }
    }
}

/// Returns where an image comes from, as a tag's entry keeps it.
pub(crate) fn provenance(fact: &UpstreamTagMoved, part: PlatformSubset) -> Provenance {
    Provenance {
        by: "mirror-worker".to_owned(),
        mirror: fact.mirror.to_string(),
        move_number: fact.move_number,
        promotion: None,
        part,
    }
}

impl MirrorWorker {
    /// Makes the stage, with the account that writes into staging; a claim of a tag lapses after this long.
    #[must_use]
    pub fn new(
        bus: Bus,
        state: State,
        catalog: Catalog,
        registry: Client,
        claim: Duration,
    ) -> Self {
        let tags =
            TagWriter::new(state.clone(), catalog.clone(), registry.clone()).claiming_for(claim);
        Self {
            bus,
            state,
            catalog,
            registry,
            tags,
            audit_every: AUDIT_EVERY,
            remotes: RemoteClients::default(),
            limits: Limits::of_process(),
            limit: LIMIT,
            unlisting: ReferrersUnsupported::default(),
        }
    }

    /// Sets how often the registry is compared with what the state says of it; zero for never.
    #[must_use]
    pub const fn auditing_every(mut self, every: Duration) -> Self {
        self.audit_every = every;
        self
    }

    /// Sets how long one move may take before it is tried again.
    #[must_use]
    pub const fn giving_up_after(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Reaches upstream registries in another way than over the wire.
    #[must_use]
    pub fn reaching(mut self, transport: Transport) -> Self {
        self.remotes = self.remotes.reaching(transport);
        self
    }

    /// Takes the secrets that `Registry` resources name from this folder.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Secrets) -> Self {
        self.remotes = self.remotes.with_secrets(secrets);
        self
    }

    /// Mirrors a tag, and tells a failure that is final.
    pub(crate) async fn moved_or_told(
        &self,
        fact: &UpstreamTagMoved,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        // The bus gives up a little later, and could not say of what.
        let moved = tokio::time::timeout(self.limit, Box::pin(self.moved(fact))).await;
        match moved.unwrap_or(Err(Error::TimedOut { limit: self.limit })) {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                self.tell_failure(fact, cause, &error).await?;
                Err(error)
            }
        }
    }

    async fn moved(&self, fact: &UpstreamTagMoved) -> Result<Outcome, Error> {
        let catalog = self.catalog.current();
        let mut precondition =
            self.precondition(&fact.mirror, &fact.repository, &fact.tag, fact.move_number);
        precondition.digest = Some(&fact.digest);
        if precondition.freshness().await? == Freshness::Superseded {
            tracing::info!(image.repository = %fact.repository, image.tag = %fact.tag, "superseded by a newer move, or pruned since");
            let (left, part) = self.left(&catalog, fact).await?;
            let provenance = provenance(fact, part);
            self.tags
                .clean_up_stale(&fact.repository, &fact.tag, Some(&left), &provenance)
                .await?;
            return self.superseded(&catalog, fact).await;
        }
        if self.is_detached(fact).await? {
            return Ok(Outcome::done());
        }
        if let Some(kept) = self.keeps(fact).await? {
            return self.refused(fact, kept).await;
        }
        let mut copied = match self.copy(&catalog, fact, Verification::Trusting).await {
            Err(error) if self.has_moved_on(&catalog, fact, &error).await? => {
                tracing::info!(image.repository = %fact.repository, image.tag = %fact.tag, "the tag has moved on upstream; the next poll finds it");
                return Ok(Outcome::done());
            }
            copied => copied?,
        };
        crash::point_of("mirror-worker.copied", fact.tag.as_str());
        describe_copied(&self.state, &self.registry, &fact.repository, &copied).await?;
        let pointed = match self.point(&catalog, fact, &copied.top, &precondition).await {
            Err(Error::State(sluice_state::Error::Registry(error))) if error.is_missing_part() => {
                tracing::debug!(%error, "the registry lacks what it was seen to have");
                copied = self.copy(&catalog, fact, Verification::Thorough).await?;
                self.point(&catalog, fact, &copied.top, &precondition).await
            }
            pointed => pointed,
        };
        let (applied, top) = pointed?;
        match applied {
            Applied::Superseded => return self.superseded(&catalog, fact).await,
            Applied::Refused { kept } => return self.refused(fact, kept).await,
            Applied::Settled { .. } => {}
        }
        let digest = &top.digest;
        let source_digest = part(&catalog, fact, digest).source;
        tracing::info!(
            image.repository = %fact.repository, image.tag = %fact.tag, image.digest = %digest,
            size_bytes = copied.size_bytes, copied = copied.blobs_copied, mounted = copied.blobs_mounted, "mirrored"
        );
        // Whatever led here: one move is mirrored once.
        let occurrence = fact.move_number.to_string();
        let mirrored = TagMirrored {
            mirror: fact.mirror.clone(),
            source: fact.source.clone(),
            repository: fact.repository.clone(),
            tag: fact.tag.clone(),
            digest: digest.clone(),
            media_type: top.media_type.clone(),
            size_bytes: copied.size_bytes,
            blobs_copied: copied.blobs_copied,
            blobs_mounted: copied.blobs_mounted,
            blobs_skipped: copied.blobs_skipped,
            bytes_copied: copied.bytes_copied,
            move_number: fact.move_number,
            source_digest,
        };
        let outcome = Outcome::done().fact_at(mirrored, occurrence);
        Ok(self.with_referrers(outcome, fact))
    }

    /// Tells a move that is superseded by now, but was carried out before that: what is there is to be scanned.
    ///
    /// If the tag is gone upstream, it may have been removed here before this move, which was late, brought it.
    async fn superseded(
        &self,
        catalog: &Snapshot,
        fact: &UpstreamTagMoved,
    ) -> Result<Outcome, Error> {
        let upstream = key::upstream(&fact.mirror, &fact.tag);
        let upstream = self.state.upstream.get(&upstream).await?;
        let mirror = catalog.mirrors.get(&fact.mirror);
        let removes = mirror.is_some_and(|mirror| mirror.on_delete == OnDelete::Delete);
        let upstream = upstream.map(|entry| entry.value);
        if let Some(gone) = upstream.as_ref().filter(|entry| entry.gone && removes) {
            return self
                .gone(&UpstreamTagGone {
                    mirror: fact.mirror.clone(),
                    source: fact.source.clone(),
                    repository: fact.repository.clone(),
                    tag: fact.tag.clone(),
                    last_digest: None,
                    move_number: gone.move_number,
                    remove: true,
                })
                .await;
        }
        let key = key::tag(&fact.repository, &fact.tag);
        let entry = self.state.tags.get(&key).await?;
        let there = entry.map(|entry| entry.value).filter(|value| {
            value.claim.is_none()
                && source_of(value) == fact.digest.as_str()
                && value.mirror == fact.mirror.as_str()
                && value.move_number == fact.move_number
        });
        let Some(Ok(digest)) = there.map(|there| there.digest.parse::<Digest>()) else {
            return Ok(Outcome::done());
        };
        // Whoever brought what is wanted may have found it there before this move, which was late, wrote over it.
        let newest = upstream.filter(|entry| !entry.gone && entry.digest != fact.digest.as_str());
        if let Some(newest) = newest
            && let Ok(digest) = newest.digest.parse()
        {
            let newest = UpstreamTagMoved {
                digest,
                previous: None,
                move_number: newest.move_number,
                ..fact.clone()
            };
            return Box::pin(self.moved(&newest)).await;
        }
        let image = describe(&self.state, &self.registry, &fact.repository, &digest).await?;
        Ok(Outcome::done().fact(TagMirrored {
            mirror: fact.mirror.clone(),
            source: fact.source.clone(),
            repository: fact.repository.clone(),
            tag: fact.tag.clone(),
            source_digest: Some(fact.digest.clone()).filter(|source| *source != digest),
            digest,
            media_type: image.media_type,
            size_bytes: image.size_bytes,
            blobs_copied: 0,
            blobs_mounted: 0,
            blobs_skipped: 0,
            bytes_copied: 0,
            move_number: fact.move_number,
        }))
    }

    pub(crate) async fn copy(
        &self,
        catalog: &Snapshot,
        fact: &UpstreamTagMoved,
        look: Verification,
    ) -> Result<Copied, Error> {
        if catalog.is_target(&fact.repository) {
            return Err(Error::Target {
                repository: fact.repository.clone(),
            });
        }
        let source = self.source(catalog, fact)?;
        let siblings: Vec<Repository> = catalog
            .mirrors
            .values()
            .map(|mirror| &mirror.to)
            .filter(|repository| **repository != fact.repository)
            .take(SIBLINGS)
            .cloned()
            .collect();
        let job = CopyJob {
            source: &source,
            source_repository: &fact.source.repository,
            digest: &fact.digest,
            target: &self.registry,
            target_repository: &fact.repository,
            siblings: &siblings,
        };
        let wanted = platforms(catalog, fact);
        let top = if wanted.is_all() {
            None
        } else {
            let part = source.part(job.source_repository, job.digest, wanted);
            Some(part.await?)
        };
        Ok(self.run(&job, fact, top, look).await?)
    }

    /// Says whether what a move led to is missing upstream because the tag names something else by now.
    async fn has_moved_on(
        &self,
        catalog: &Snapshot,
        fact: &UpstreamTagMoved,
        error: &Error,
    ) -> Result<bool, Error> {
        if !matches!(error, Error::Registry(error) if error.is_not_found()) {
            return Ok(false);
        }
        let source = self.source(catalog, fact)?;
        let tag = (&fact.tag).into();
        let head = source.resolve(&fact.source.repository, &tag).await?;
        Ok(head.is_some_and(|head| head.digest != fact.digest))
    }

    /// Returns the upstream registry of a move.
    pub(crate) fn source(
        &self,
        catalog: &Snapshot,
        fact: &UpstreamTagMoved,
    ) -> Result<Client, Error> {
        let host = &fact.source.host;
        let pulls = if fact.urgent {
            Pulls::Urgent
        } else {
            Pulls::Background
        };
        let client = self
            .remotes
            .client(&self.state.budgets, catalog, host, pulls);
        client.map_err(|error| Error::Remote {
            host: host.to_string(),
            reason: format!("{error:#}"),
        })
    }

    pub(crate) async fn gone(&self, fact: &UpstreamTagGone) -> Result<Outcome, Error> {
        if !fact.remove || self.has_another_mirror(fact).await? {
            return Ok(Outcome::done());
        }
        self.state.unless_paused().await?;
        let precondition =
            self.precondition(&fact.mirror, &fact.repository, &fact.tag, fact.move_number);
        let change = TagChange {
            repository: &fact.repository,
            tag: &fact.tag,
            wanted: None,
            provenance: Provenance {
                by: "mirror-worker".to_owned(),
                mirror: fact.mirror.to_string(),
                move_number: fact.move_number,
                ..Provenance::default()
            },
            precondition: &precondition,
        };
        let applied = self.tags.apply(&change).await?;
        if let Applied::Settled {
            previous: Some(previous),
        } = applied
        {
            let previous = std::slice::from_ref(&previous);
            let tags = &self.tags;
            detach(
                &self.state,
                tags,
                &fact.repository,
                previous,
                "mirror-worker",
            )
            .await?;
        }
        Ok(Outcome::done())
    }

    /// Says whether another mirror brought the tag into the repository, or has it upstream and will.
    async fn has_another_mirror(&self, fact: &UpstreamTagGone) -> Result<bool, Error> {
        let entry = self
            .state
            .tags
            .get(&key::tag(&fact.repository, &fact.tag))
            .await?;
        let catalog = self.catalog.current();
        let into_it = |name: &ResourceName| {
            let mirror = catalog.mirrors.get(name).filter(|mirror| mirror.enabled);
            *name != fact.mirror && mirror.is_some_and(|mirror| mirror.to == fact.repository)
        };
        let brought_by = entry.and_then(|entry| entry.value.mirror.parse().ok());
        if brought_by.as_ref().is_some_and(into_it) {
            return Ok(true);
        }
        for name in catalog.mirrors.keys().filter(|name| into_it(name)) {
            let upstream = self
                .state
                .upstream
                .get(&key::upstream(name, &fact.tag))
                .await?;
            if upstream.is_some_and(|entry| !entry.value.gone && !entry.value.digest.is_empty()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) const fn precondition<'a>(
        &'a self,
        mirror: &'a ResourceName,
        repository: &'a Repository,
        tag: &'a Tag,
        move_number: u64,
    ) -> Upstream<'a> {
        Upstream {
            state: &self.state,
            registry: &self.registry,
            mirror,
            repository,
            tag,
            digest: None,
            move_number,
        }
    }

    /// Tells a failure that is final, whose message becomes a dead letter, or once that something is away for long.
    pub(crate) async fn tell_failure(
        &self,
        fact: &UpstreamTagMoved,
        cause: &Cause,
        error: &Error,
    ) -> Result<(), Error> {
        let is_away = error.class().is_outage() && cause.waits == WAITS_UNTOLD;
        if !is_away && !cause.is_final(error.class()) {
            return Ok(());
        }
        let failed = TagMirrorFailed {
            mirror: fact.mirror.clone(),
            source: fact.source.clone(),
            repository: fact.repository.clone(),
            tag: fact.tag.clone(),
            digest: fact.digest.clone(),
            reason: error.to_string(),
            move_number: fact.move_number,
        };
        self.bus
            .publish(&failed.into(), cause, &fact.move_number.to_string())
            .await
            .map_err(sluice_state::Error::from)?;
        crash::point("mirror-worker.failure_told");
        Ok(())
    }
}
