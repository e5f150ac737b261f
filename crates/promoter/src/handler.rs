//! One trigger: which tags name this digest, what do their policies say of it, and what follows.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sluice_bus::{Bus, Cause, Failure, Handler, Outcome, topology};
use sluice_domain::{Class, Classify, Digest, Repository, Tag, Target, now};
use sluice_events::commands::{JudgeImage, Reconcile};
use sluice_events::wire::state::{Decision, DecisionOutcome, TagEntry};
use sluice_events::{Command, Decode, Event, Message, Unexpected};
use sluice_registry::{Client, Transport};
use sluice_service::crash;
use sluice_state::reconcile::after_events;
use sluice_state::{Catalog, Entry, State, TagWriter, describe};
use thiserror::Error;

use crate::decide::decide;
use crate::facts::{Known, Subject, first_seen};
use crate::policies::{self, Policy};
use crate::restored::keep_held;
use crate::told::Told;

/// The stage.
#[derive(Debug, Clone)]
pub struct Promoter {
    pub(crate) bus: Bus,
    pub(crate) state: State,
    pub(crate) catalog: Catalog,
    pub(crate) registry: Client,
    pub(crate) tags: TagWriter,
    /// How remote registries are reached.
    pub(crate) transport: Transport,
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
    fn decode(message: Message) -> Result<Self, Unexpected> {
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

/// What is stored of a decision before it is judged anew.
struct Was {
    key: String,
    decision: Option<Entry<Decision>>,
}

/// A decision as it is stored, with what it was made of.
#[derive(Debug)]
pub(crate) struct Case<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) subject: &'a Subject,
    pub(crate) manifests: &'a [Digest],
    pub(crate) key: String,
    pub(crate) decision: Decision,
    pub(crate) revision: u64,
}

impl Case<'_> {
    /// Returns the target and the tag there.
    pub(crate) fn aim(&self) -> Result<(Target, Tag), Error> {
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
            Input::Reconcile(command) => {
                after_events(&self.bus, &topology::PROMOTER, &command, cause).await?;
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
        let Some(first) = subjects.first() else {
            tracing::info!(image.digest = %digest, "superseded; no tag names it any more");
            return Ok(Outcome::done());
        };
        let policies = policies::read(&self.state).await?;
        // What is stored is read before what it is judged by: whoever judges by something newer meanwhile has written
        // it, and this judgement is not written over that.
        let mut stored = Vec::new();
        for subject in &subjects {
            for policy in policies.iter().filter(|policy| judges(policy, subject)) {
                let key = subject.key(policy);
                let decision = self.state.decisions.get(&key).await?;
                stored.push((policy, subject, key, decision));
            }
        }
        let entry = match describe(&self.state, &self.registry, &first.repository, &digest).await {
            Ok(entry) => entry,
            Err(sluice_state::Error::Registry(error)) if error.is_not_found() => {
                tracing::info!(image.digest = %digest, "the image is gone");
                return Ok(Outcome::done());
            }
            Err(error) => return Err(error.into()),
        };
        let mut known = Known::read(&self.state, &digest, &entry).await?;
        known.scanned_at = scanned_at.max(known.scanned_at);
        // Every policy decides before any of them acts: whether an image is taken back depends on all.
        let mut cases = Vec::new();
        for (policy, subject, key, decision) in stored {
            let was = Was { key, decision };
            cases.extend(self.judge(policy, subject, was, &known, cause).await?);
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
            transport: Transport::default(),
        }
    }

    /// Reaches remote registries in another way than over the wire.
    #[must_use]
    pub fn reaching(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Judges by one policy and stores the decision, before anything follows from it.
    async fn judge<'a>(
        &self,
        policy: &'a Policy,
        subject: &'a Subject,
        was: Was,
        known: &'a Known,
        cause: &Cause,
    ) -> Result<Option<Case<'a>>, Error> {
        let repository = &subject.repository;
        let Was {
            key,
            decision: stored,
        } = was;
        let before = stored.as_ref().map(|entry| &entry.value);
        let first_seen_at = first_seen(&self.state, subject).await?;
        let candidate = known.candidate(subject, first_seen_at, now());
        let mut decision = decide(policy, &candidate, known.inputs(), before, None);
        if let Some(kept) = self.kept_instead(&decision, &subject.digest).await? {
            decision = decide(policy, &candidate, known.inputs(), before, Some(&kept));
        }
        keep_held(&mut decision, before, known.scanned_at);
        if before.is_some_and(|before| before.policy_revision > policy.revision) {
            return Err(Error::Outdated {
                policy: policy.spec.name.to_string(),
            });
        }
        if decision.target == repository.as_str() {
            tracing::debug!(policy = %policy.spec.name, "a policy does not promote a repository into itself");
            return Ok(None);
        }
        if subject.current.is_none() && !for_the_promoted(&mut decision, before) {
            if let Some(Entry {
                value, revision, ..
            }) = stored
            {
                let was = case(policy, subject, known, key, value, revision);
                self.end(&was, cause).await?;
            }
            return Ok(None);
        }
        if before != Some(&decision) {
            let revision = stored.as_ref().map(|entry| entry.revision);
            let written = self
                .state
                .decisions
                .write(&key, &decision, revision)
                .await?;
            crash::point("promoter.decided");
            tracing::info!(
                policy = decision.policy,
                image.repository = decision.repository,
                image.tag = decision.tag,
                image.digest = decision.digest,
                outcome = decision.outcome().as_str_name(),
                "decided"
            );
            return Ok(Some(case(policy, subject, known, key, decision, written)));
        }
        let revision = stored.map_or(0, |Entry { revision, .. }| revision);
        Ok(Some(case(policy, subject, known, key, decision, revision)))
    }

    /// Returns what the place of an image that is allowed keeps instead of it, if its repository is immutable.
    async fn kept_instead(
        &self,
        decision: &Decision,
        digest: &Digest,
    ) -> Result<Option<Digest>, Error> {
        let place = (
            Target::from_stored(&decision.target),
            decision.target_tag.parse(),
        );
        let (DecisionOutcome::Allow, (Ok(target), Ok(tag))) = (decision.outcome(), place) else {
            return Ok(None);
        };
        if target.registry.is_some() {
            return Ok(None);
        }
        Ok(self.tags.kept(&target.repository, &tag, digest).await?)
    }

    /// Ends what somebody who died had begun by a decision from which nothing follows any more.
    async fn end(&self, case: &Case<'_>, cause: &Cause) -> Result<(), Error> {
        self.end_claim(case).await?;
        let mut told = Told::default();
        let refused = case.decision.outcome() == DecisionOutcome::Deny;
        if refused && case.decision.promoted_at.is_none() && self.is_left(case).await? {
            self.clear_what_is_left(case, &mut told).await?;
        }
        let settled = told.settle(&self.bus, cause).await;
        settled.map_err(|source| Error::Telling { source })
    }

    /// Acts on every decision; one that fails does not hold up what the others have to tell.
    async fn act_on_all(&self, cases: &[Case<'_>], cause: &Cause) -> Result<Outcome, Error> {
        let mut told = Told::default();
        let mut failure: Option<Error> = None;
        for case in cases {
            match self.act(case).await {
                Ok(more) => told.append(more),
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
            return Ok(told.into_outcome());
        };
        told.settle(&self.bus, cause)
            .await
            .map_err(|source| Error::Telling { source })?;
        Err(failure)
    }

    async fn act(&self, case: &Case<'_>) -> Result<Told, Error> {
        self.keep_timer(case).await?;
        match case.decision.outcome() {
            DecisionOutcome::Allow if case.subject.current.is_some() => self.promote(case).await,
            DecisionOutcome::Deny => self.deny(case).await,
            DecisionOutcome::Undetermined => self.leave_open(case),
            DecisionOutcome::Allow | DecisionOutcome::Wait | DecisionOutcome::Unspecified => {
                Ok(Told::default())
            }
        }
    }

    /// Records something in a decision that was acted on; if it is another one by now, that one is what counts.
    pub(crate) fn record<F: FnOnce(&mut Decision)>(
        &self,
        case: &Case<'_>,
        change: F,
    ) -> impl Future<Output = Result<(), sluice_state::Error>> + Send + use<F> {
        let (decisions, key, revision) = (
            self.state.decisions.clone(),
            case.key.clone(),
            case.revision,
        );
        let mut decision = case.decision.clone();
        decision.announced = true;
        change(&mut decision);
        async move {
            match decisions.write(&key, &decision, Some(revision)).await {
                Ok(_) => Ok(()),
                Err(error) if error.is_conflict() => Ok(()),
                Err(error) => Err(error),
            }
        }
    }
}

const fn case<'a>(
    policy: &'a Policy,
    subject: &'a Subject,
    known: &'a Known,
    key: String,
    decision: Decision,
    revision: u64,
) -> Case<'a> {
    Case {
        policy,
        subject,
        manifests: known.manifests.as_slice(),
        key,
        decision,
        revision,
    }
}

fn judges(policy: &Policy, subject: &Subject) -> bool {
    let brought = |entry: &TagEntry| policy.brought(entry);
    policy.judges(&subject.repository) && !subject.current.as_ref().is_some_and(brought)
}

/// Says what a decision is good for when the source's tag has moved on, but the image may stand in the target.
///
/// It can take the image back, or lift a flag; it promotes nothing, and what cannot be told now changes nothing.
fn for_the_promoted(decision: &mut Decision, before: Option<&Decision>) -> bool {
    let Some(before) = before.filter(|before| before.promoted_at.is_some()) else {
        return false;
    };
    match decision.outcome() {
        DecisionOutcome::Deny => true,
        DecisionOutcome::Allow => {
            decision.announced = true;
            before.outcome() != DecisionOutcome::Allow
        }
        _ => false,
    }
}
