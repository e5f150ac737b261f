//! One move of one tag.

use sluice_bus::{Bus, Cause, Handler, Outcome};
use sluice_domain::{Class, Classify, Repository, ResourceName, Tag};
use sluice_events::facts::{TagMirrorFailed, TagMirrored, UpstreamTagGone, UpstreamTagMoved};
use sluice_events::{Decode, Event, Message, Unexpected};
use sluice_registry::{Client, Copied, CopyJob};
use sluice_state::{
    Applied, Catalog, Entry, Provenance, Snapshot, Standing, State, TagChange, TagWriter, Truth,
    describe, key, remote_registry,
};
use thiserror::Error;

/// How many sibling repositories are asked for a blob before it is transferred.
const SIBLINGS: usize = 2;

/// How often an image has waited for a registry that is away when that is told; about ten minutes.
const WAITS_UNTOLD: u32 = 8;

/// The stage.
#[derive(Debug)]
pub(crate) struct MirrorWorker {
    bus: Bus,
    state: State,
    catalog: Catalog,
    registry: Client,
    tags: TagWriter,
}

/// What the stage works on.
#[derive(Debug)]
pub(crate) enum Input {
    Moved(UpstreamTagMoved),
    Gone(UpstreamTagGone),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, Unexpected> {
        match message {
            Message::Event(Event::UpstreamTagMoved(fact)) => Ok(Self::Moved(fact)),
            Message::Event(Event::UpstreamTagGone(fact)) => Ok(Self::Gone(fact)),
            other => Err(other.unexpected()),
        }
    }
}

/// Why an image was not mirrored.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(transparent)]
    State(#[from] sluice_state::Error),
    #[error(transparent)]
    Registry(#[from] sluice_registry::Error),
    #[error("registry `{host}` cannot be used: {reason}")]
    Remote { host: String, reason: String },
    #[error("`{repository}` is a target of a promotion policy; images reach it only by promotion")]
    Target { repository: Repository },
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::State(error) => error.class(),
            Self::Registry(error) => error.class(),
            // A secret that is missing now may be mounted soon.
            Self::Remote { .. } => Class::TRANSIENT,
            Self::Target { .. } => Class::Permanent,
        }
    }
}

/// The source of truth of a mirrored tag: its `upstream` entry.
///
/// An entry that is behind the event is no contradiction: the event is published before the entry is written.
/// A move whose tag retention removed again is over: a late delivery must not bring it back.
struct Upstream<'a> {
    state: &'a State,
    mirror: &'a ResourceName,
    repository: &'a Repository,
    tag: &'a Tag,
    move_number: u64,
}

impl Truth for Upstream<'_> {
    async fn standing(&self) -> Result<Standing, sluice_state::Error> {
        let entry = self
            .state
            .upstream
            .get(&key::upstream(self.mirror, self.tag))
            .await?;
        let newer = entry.is_some_and(|entry| entry.value.move_number > self.move_number);
        let local = self
            .state
            .tags
            .get(&key::tag(self.repository, self.tag))
            .await?;
        let pruned = local.is_some_and(|Entry { value, .. }| {
            value.pruned
                && value.mirror == self.mirror.as_str()
                && value.move_number >= self.move_number
        });
        Ok(if newer || pruned {
            Standing::Superseded
        } else {
            Standing::Current
        })
    }
}

impl Handler for MirrorWorker {
    type Input = Input;
    type Error = Error;

    const SPAN: &'static str = sluice_telemetry::span::MIRROR;

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, Error> {
        match input {
            Input::Moved(fact) => match self.moved(&fact).await {
                Ok(outcome) => Ok(outcome),
                Err(error) => {
                    self.tell_failure(&fact, cause, &error).await?;
                    Err(error)
                }
            },
            Input::Gone(fact) => self.gone(&fact).await,
        }
    }
}

impl MirrorWorker {
    pub(crate) fn new(bus: Bus, state: State, catalog: Catalog, registry: Client) -> Self {
        let tags = TagWriter::new(state.clone(), registry.clone());
        Self {
            bus,
            state,
            catalog,
            registry,
            tags,
        }
    }

    async fn moved(&self, fact: &UpstreamTagMoved) -> Result<Outcome, Error> {
        let catalog = self.catalog.current();
        let truth = self.truth(&fact.mirror, &fact.repository, &fact.tag, fact.move_number);
        if truth.standing().await? == Standing::Superseded {
            tracing::info!(image.repository = %fact.repository, image.tag = %fact.tag, "superseded by a newer move, or pruned since");
            // An earlier attempt may have written the tag after it had given up waiting for an answer.
            self.tags
                .mend(&fact.repository, &fact.tag, Some(&fact.digest))
                .await?;
            return Ok(Outcome::done());
        }
        let copied = self.copy(&catalog, fact).await?;
        describe(&self.state, &self.registry, &fact.repository, &fact.digest).await?;
        let change = TagChange {
            repository: &fact.repository,
            tag: &fact.tag,
            wanted: Some(&copied.top),
            provenance: Provenance {
                by: "mirror-worker".to_owned(),
                mirror: fact.mirror.to_string(),
                move_number: fact.move_number,
                promotion: None,
            },
            truth: &truth,
        };
        if self.tags.apply(&change).await? == Applied::Superseded {
            return Ok(Outcome::done());
        }
        tracing::info!(
            image.repository = %fact.repository, image.tag = %fact.tag, image.digest = %fact.digest,
            size_bytes = copied.size_bytes, copied = copied.blobs_copied, mounted = copied.blobs_mounted, "mirrored"
        );
        Ok(Outcome::done().fact(TagMirrored {
            mirror: fact.mirror.clone(),
            source: fact.source.clone(),
            repository: fact.repository.clone(),
            tag: fact.tag.clone(),
            digest: fact.digest.clone(),
            media_type: copied.top.media_type.clone(),
            size_bytes: copied.size_bytes,
            blobs_copied: copied.blobs_copied,
            blobs_mounted: copied.blobs_mounted,
            blobs_skipped: copied.blobs_skipped,
            bytes_copied: copied.bytes_copied,
            move_number: fact.move_number,
        }))
    }

    async fn copy(&self, catalog: &Snapshot, fact: &UpstreamTagMoved) -> Result<Copied, Error> {
        if catalog.is_target(&fact.repository) {
            return Err(Error::Target {
                repository: fact.repository.clone(),
            });
        }
        let host = &fact.source.host;
        let source = remote_registry(catalog, host).map_err(|error| Error::Remote {
            host: host.to_string(),
            reason: format!("{error:#}"),
        })?;
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
        Ok(job.run().await?)
    }

    async fn gone(&self, fact: &UpstreamTagGone) -> Result<Outcome, Error> {
        if !fact.remove {
            return Ok(Outcome::done());
        }
        let truth = self.truth(&fact.mirror, &fact.repository, &fact.tag, fact.move_number);
        let change = TagChange {
            repository: &fact.repository,
            tag: &fact.tag,
            wanted: None,
            provenance: Provenance {
                by: "mirror-worker".to_owned(),
                mirror: fact.mirror.to_string(),
                move_number: fact.move_number,
                promotion: None,
            },
            truth: &truth,
        };
        self.tags.apply(&change).await?;
        Ok(Outcome::done())
    }

    const fn truth<'a>(
        &'a self,
        mirror: &'a ResourceName,
        repository: &'a Repository,
        tag: &'a Tag,
        move_number: u64,
    ) -> Upstream<'a> {
        Upstream {
            state: &self.state,
            mirror,
            repository,
            tag,
            move_number,
        }
    }

    /// Tells a failure that is final, whose message becomes a dead letter, or once that something is away for long.
    async fn tell_failure(
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
            .publish(&failed.into(), cause, &cause.occurrence)
            .await
            .map_err(sluice_state::Error::from)?;
        Ok(())
    }
}
