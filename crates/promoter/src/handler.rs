//! One trigger: which tags name this digest, what do their policies say of it, and what follows.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::{Bus, Cause, Failure, Handler, Outcome, topology};
use sluice_domain::resources::Recall;
use sluice_domain::{Class, Classify, Digest, Repository, ResourceName, Tag, Target};
use sluice_events::commands::{JudgeImage, Reconcile};
use sluice_events::wire::state::{Decision, DecisionOutcome};
use sluice_events::{Command, Decode, Event, Message, UnexpectedMessage};
use sluice_registry::{Client, Transport};
use sluice_service::Secrets;
use sluice_state::reconcile::{ensure_no_pending_events, reason};
use sluice_state::{Catalog, ImageReader, RemoteClients, State, TagWriter, key};
use thiserror::Error;

use crate::decide::no_longer_passes;
use crate::evaluate::Stored;
use crate::facts::{ScannedImage, Subject};
use crate::pending_events::{Change, PendingEvents};
use crate::policies::{self, Policy};

/// How old is what is forgotten, unless the settings say otherwise.
const FORGET_AFTER: TimeDelta = TimeDelta::days(90);

/// The stage.
#[derive(Debug, Clone)]
pub struct Promoter {
    pub(crate) bus: Bus,
    pub(crate) state: State,
    pub(crate) catalog: Catalog,
    pub(crate) registry: Client,
    pub(crate) tags: TagWriter,
    pub(crate) images: ImageReader,
    pub(crate) remotes: RemoteClients,
    /// How old is what is forgotten because what it is about exists no longer.
    pub(crate) forget_after: TimeDelta,
}

/// What the stage works on. Only what was scanned is taken of an event, never what was found.
#[derive(Debug)]
pub enum Input {
    /// A scan of an image ended.
    Scanned(Repository, Digest),
    /// Somebody, or a timer, asks for a judgement.
    Judge(JudgeImage),
    /// A tag of a repository arrived that is attached to an image.
    Attached(Repository, Tag),
    /// An image arrived, which is judged once it was scanned.
    Arrived,
    /// Missing work is to be found.
    Reconcile(Reconcile),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, UnexpectedMessage> {
        match message {
            Message::Event(Event::ScanSucceeded(fact)) => {
                Ok(Self::Scanned(fact.repository, fact.digest))
            }
            Message::Event(Event::ScanFailed(fact)) => {
                Ok(Self::Scanned(fact.repository, fact.digest))
            }
            Message::Event(Event::ScanFindingsChanged(fact)) => {
                Ok(Self::Scanned(fact.repository, fact.digest))
            }
            Message::Event(Event::TagMirrored(fact)) => Ok(match fact.tag.attached_to() {
                Some(_) => Self::Attached(fact.repository, fact.tag),
                None => Self::Arrived,
            }),
            Message::Command(Command::JudgeImage(command)) => Ok(Self::Judge(command)),
            Message::Command(Command::Reconcile(command)) => Ok(Self::Reconcile(command)),
            other => Err(other.unexpected()),
        }
    }
}

/// Why an image was not judged or promoted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The state failed.
    #[error(transparent)]
    State(#[from] sluice_state::Error),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] sluice_registry::Error),
    /// What was decided could not be published.
    #[error("failed to tell what was decided")]
    Telling {
        /// Why.
        source: Failure,
    },
    #[error("the registry does not answer, so what is missing there cannot be found out")]
    Away {
        until: DateTime<Utc>,
        source: sluice_registry::Error,
    },
    /// A target could not be compared with the decisions.
    #[error("not every target could be compared with the decisions")]
    Uncompared {
        /// When to try again.
        until: DateTime<Utc>,
    },
    /// A remote registry cannot be promoted into as it is described.
    #[error("registry `{host}` cannot be promoted into: {reason}")]
    Remote {
        /// The registry.
        host: String,
        /// What is missing.
        reason: String,
    },
    /// Somebody judged by a newer policy already.
    #[error("policy `{policy}` was changed while it was read")]
    Outdated {
        /// Its name.
        policy: String,
    },
    /// The image was refused while it was promoted.
    #[error("the image was refused while it was promoted")]
    Overtaken {
        /// When to look again.
        until: DateTime<Utc>,
    },
    /// An entry makes no sense.
    #[error("{what} is damaged")]
    Damaged {
        /// It.
        what: String,
    },
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::State(error) => error.class(),
            Self::Registry(error) => error.class(),
            Self::Telling { source } => source.class(),
            Self::Outdated { .. } => Class::TRANSIENT,
            Self::Away { until, .. } | Self::Uncompared { until } | Self::Overtaken { until } => {
                Class::Unavailable { until: *until }
            }
            Self::Damaged { .. } | Self::Remote { .. } => Class::Permanent,
        }
    }
}

/// A decision as it is stored, with what it was made of.
#[derive(Debug)]
pub(crate) struct Evaluated<'a> {
    /// The policy, unless it decides on this image no more.
    pub(crate) policy: Option<&'a Policy>,
    pub(crate) name: ResourceName,
    /// What becomes of what was promoted and does not pass.
    pub(crate) recall: Recall,
    pub(crate) subject: &'a Subject,
    pub(crate) known: &'a ScannedImage,
    pub(crate) key: String,
    pub(crate) decision: Decision,
    pub(crate) revision: u64,
    /// Whether this is about a target to which the policy led before it was changed.
    pub(crate) is_former: bool,
}

impl<'a> Evaluated<'a> {
    /// Returns every manifest of the image, the top first.
    pub(crate) fn manifests(&self) -> &'a [Digest] {
        &self.known.manifests
    }

    /// Returns the target and the tag there.
    pub(crate) fn target(&self) -> Result<(Target, Tag), Error> {
        let damaged = || Error::Damaged {
            what: format!("decision `{}`", self.key),
        };
        let target = Target::from_stored(&self.decision.target).map_err(|_| damaged())?;
        let tag = self.decision.target_tag.parse().map_err(|_| damaged())?;
        Ok((target, tag))
    }
}

impl Handler for Promoter {
    type Input = Input;
    type Error = Error;

    const SPAN: &'static str = sluice_telemetry::span::PROMOTE;

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, Error> {
        let mut scanned_at = None;
        let (digest, subjects) = match input {
            Input::Reconcile(command) if command.reason == reason::CLEANUP => {
                return self.clean_up_state(&command, cause).await;
            }
            Input::Reconcile(command) => {
                self.ask_for_cleanup(&command).await?;
                ensure_no_pending_events(&self.bus, &topology::PROMOTER, &command, cause).await?;
                let found = self.missing(&command, cause).await?;
                return Ok(found.into_outcome(&self.state, &command, cause));
            }
            Input::Attached(repository, tag) => return self.late(&repository, &tag, cause).await,
            Input::Arrived => return Ok(Outcome::done()),
            Input::Scanned(repository, digest) => {
                scanned_at = Some(cause.time);
                let subjects = self.scanned(&repository, &digest).await?;
                (digest, subjects)
            }
            Input::Judge(command) => {
                let subjects = self.asked(&command).await?;
                (command.digest, subjects)
            }
        };
        if subjects.is_empty() {
            tracing::info!(image.digest = %digest, "superseded; no tag names it any more");
            return Ok(Outcome::done());
        }
        let policies = policies::read(&self.state).await?;
        let mut subjects = self.with_unsettled(&policies, &digest, subjects).await?;
        for subject in &mut subjects {
            if let Some(entry) = &mut subject.current {
                self.without_forged_promotion(entry).await?;
            }
        }
        // What is stored is read before what it is judged by: whoever judges by something newer meanwhile has written
        // it, and this judgement is not written over that.
        let mut stored = Vec::new();
        for subject in subjects {
            let filter = key::decisions_on(&subject.repository, &subject.tag);
            let mut decisions = self.state.decisions.list(&filter).await?;
            decisions.retain(|entry| entry.value.digest == digest.as_str());
            stored.push(Stored { subject, decisions });
        }
        let policies = policies::read(&self.state).await?;
        let Some(entry) = self.described(&digest, &stored).await? else {
            tracing::info!(image.digest = %digest, "the image is gone");
            return Ok(Outcome::done());
        };
        let mut known = ScannedImage::read(&self.state, &digest, &entry).await?;
        known.scanned_at = scanned_at.max(known.scanned_at);
        // Every policy decides before any of them acts: whether an image is taken back depends on all.
        let mut cases = Vec::new();
        for stored in &stored {
            let mut judging: Vec<&Policy> = policies.judging(&stored.subject).collect();
            for entry in &stored.decisions {
                let name = &entry.value.policy;
                if judging
                    .iter()
                    .all(|policy| policy.spec.name.as_str() != name)
                {
                    cases.extend(self.end(&policies, &stored.subject, entry, &known).await?);
                }
            }
            for policy in judging.drain(..) {
                cases.extend(self.judge(policy, stored, &known, cause).await?);
            }
        }
        self.act_on_all(&cases, cause).await
    }
}

impl Promoter {
    /// Makes the stage, with the account that writes into targets; a claim of a tag lapses after this long.
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
            images: ImageReader::default(),
            remotes: RemoteClients::default(),
            forget_after: FORGET_AFTER,
        }
    }

    /// Sets how old is what is forgotten because what it is about exists no longer.
    #[must_use]
    pub const fn forgetting_after(mut self, time: TimeDelta) -> Self {
        self.forget_after = time;
        self
    }

    /// Reaches remote registries in another way than over the wire.
    #[must_use]
    pub fn reaching(mut self, transport: Transport) -> Self {
        self.remotes = self.remotes.with_transport(transport);
        self
    }

    /// Takes the secrets that `Registry` resources name from this folder.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Secrets) -> Self {
        self.remotes = self.remotes.with_secrets(secrets);
        self
    }

    /// Ends what somebody who died had begun by a decision from which nothing follows any more.
    pub(crate) async fn clean_up(&self, case: &Evaluated<'_>, cause: &Cause) -> Result<(), Error> {
        self.end_claim(case).await?;
        let mut pending_events = PendingEvents::default();
        let refused = case.decision.outcome() == DecisionOutcome::Deny;
        if refused && case.decision.promoted_at.is_none() && self.is_left(case).await? {
            self.clear_what_is_left(case, &mut pending_events).await?;
        }
        let settled = pending_events.settle(&self.bus, cause).await;
        settled.map_err(|source| Error::Telling { source })
    }

    /// Acts on every decision; one that fails does not hold up what the others have to tell.
    async fn act_on_all(&self, cases: &[Evaluated<'_>], cause: &Cause) -> Result<Outcome, Error> {
        let mut pending_events = PendingEvents::default();
        let mut failure: Option<Error> = None;
        for case in cases {
            match self.act(case).await {
                Ok(more) => pending_events.append(more),
                Err(error) => {
                    let keeps = failure
                        .as_ref()
                        .is_some_and(|first| first.class() != Class::Permanent);
                    if !keeps {
                        failure = Some(error);
                    }
                }
            }
        }
        let Some(failure) = failure else {
            return Ok(pending_events.into_outcome());
        };
        pending_events
            .settle(&self.bus, cause)
            .await
            .map_err(|source| Error::Telling { source })?;
        Err(failure)
    }

    async fn act(&self, case: &Evaluated<'_>) -> Result<PendingEvents, Error> {
        self.keep_timer(case).await?;
        let mut pending_events = match case.decision.outcome() {
            DecisionOutcome::Allow if case.subject.current.is_some() => self.promote(case).await?,
            DecisionOutcome::Allow => {
                self.end_claim(case).await?;
                PendingEvents::default()
            }
            DecisionOutcome::Deny => self.deny(case).await?,
            DecisionOutcome::Undetermined => self.leave_open(case)?,
            DecisionOutcome::Wait | DecisionOutcome::Unspecified => PendingEvents::default(),
        };
        if case.decision.outcome() != DecisionOutcome::Deny && no_longer_passes(&case.decision) {
            self.flag_unknown(case, &mut pending_events).await?;
        }
        self.recall_from_former_targets(case, &mut pending_events)
            .await?;
        Ok(pending_events)
    }

    /// Records something in a decision that was acted on, and that this was published.
    pub(crate) fn record(
        &self,
        case: &Evaluated<'_>,
        change: impl FnOnce(&mut Decision) + Send + 'static,
    ) -> Change {
        self.change(case, |decision| {
            decision.announced = true;
            change(decision);
        })
    }

    /// Changes a decision; if it is another one by now, that one is what counts.
    pub(crate) fn change(
        &self,
        case: &Evaluated<'_>,
        change: impl FnOnce(&mut Decision) + Send + 'static,
    ) -> Change {
        let (decisions, key) = (self.state.decisions.clone(), case.key.clone());
        Change::new(decisions, key, case.revision, case.decision.clone(), change)
    }
}
