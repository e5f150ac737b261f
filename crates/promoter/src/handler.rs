//! The promoter: evaluates the images that a message is about, and carries out what was decided.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::{Bus, Cause, Handler, Outcome, topology};
use sluice_domain::{Class, Classify as _, Digest, Repository, Tag};
use sluice_events::commands::{JudgeImage, Reconcile};
use sluice_events::wire::state::DecisionOutcome;
use sluice_events::{Command, Decode, Event, Message, UnexpectedMessage};
use sluice_registry::{Client, Transport};
use sluice_service::Secrets;
use sluice_state::reconcile::{ensure_no_pending_events, reason};
use sluice_state::{Catalog, RemoteClients, State, TagWriter};

use crate::cleanup::Cleanup;
use crate::error::Error;
use crate::evaluate::decision::no_longer_passes;
use crate::evaluate::evaluated_decision::Evaluation;
use crate::evaluate::find_subjects::SubjectFinder;
use crate::evaluate::image_contents::ImageContentsReader;
use crate::evaluate::policies::Policy;
use crate::evaluate::subject::Subject;
use crate::evaluate::timer::schedule_evaluation;
use crate::evaluate::{EvaluationInput, EvaluationResult, Evaluator, unpromoted_before};
use crate::reconcile::Reconciler;
use crate::targets::attachments::missing::evaluate_images_with;
use crate::targets::endpoint::Targets;
use crate::targets::pending_events::PendingEvents;
use crate::targets::promote::ImagePromotion;
use crate::targets::recall::ImageRecall;
use crate::targets::recall::events::add_denial;
use crate::targets::recall::former_targets::recall_from_former_targets;
use crate::targets::recall::removal::remove_unpromoted;

/// How old entries are before the cleanup removes them, unless the settings say otherwise.
const FORGET_AFTER: TimeDelta = TimeDelta::days(90);

/// Evaluates images by policy, promotes those that pass, and recalls those that do not pass any more.
#[derive(Debug, Clone)]
pub struct Promoter {
    bus: Bus,
    state: State,
    evaluator: Evaluator,
    targets: Targets,
    cleanup: Cleanup,
}

/// What the promoter works on. Of the event of a scan only the image is used, never its findings.
#[derive(Debug)]
pub enum Input {
    /// A scan of an image ended.
    Scanned(Repository, Digest),
    /// An evaluation is requested, by a person, a timer or another stage.
    Evaluate(JudgeImage),
    /// A tag of an attachment arrived in a repository.
    AttachmentArrived(Repository, Tag),
    /// An image arrived, which is evaluated after its scan.
    ImageArrived,
    /// Missing work is to be found.
    Reconcile(Reconcile),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, UnexpectedMessage> {
        match message {
            Message::Event(Event::ScanSucceeded(event)) => {
                Ok(Self::Scanned(event.repository, event.digest))
            }
            Message::Event(Event::ScanFailed(event)) => {
                Ok(Self::Scanned(event.repository, event.digest))
            }
            Message::Event(Event::ScanFindingsChanged(event)) => {
                Ok(Self::Scanned(event.repository, event.digest))
            }
            Message::Event(Event::TagMirrored(event)) => Ok(match event.tag.attached_to() {
                Some(_) => Self::AttachmentArrived(event.repository, event.tag),
                None => Self::ImageArrived,
            }),
            Message::Command(Command::JudgeImage(command)) => Ok(Self::Evaluate(command)),
            Message::Command(Command::Reconcile(command)) => Ok(Self::Reconcile(command)),
            other => Err(other.unexpected()),
        }
    }
}

impl Handler for Promoter {
    type Input = Input;
    type Error = Error;

    const SPAN: &'static str = sluice_telemetry::span::PROMOTE;

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, Error> {
        let finder = SubjectFinder { state: &self.state };
        match input {
            Input::Reconcile(command) if command.reason == reason::CLEANUP => {
                self.cleanup.run(&command, cause).await
            }
            Input::Reconcile(command) => self.reconcile(&command, cause).await,
            Input::AttachmentArrived(repository, tag) => {
                let occurrence = &cause.occurrence;
                let pending = evaluate_images_with(&self.state, &repository, &tag, occurrence);
                Ok(pending.await?.into_outcome())
            }
            Input::ImageArrived => Ok(Outcome::done()),
            Input::Scanned(repository, digest) => {
                let subjects = finder.of_scan(&repository, &digest).await?;
                self.decide(&digest, subjects, Some(cause.time), cause)
                    .await
            }
            Input::Evaluate(command) => {
                let subjects = finder.of_command(&command).await?;
                self.decide(&command.digest, subjects, None, cause).await
            }
        }
    }
}

impl Promoter {
    /// Makes the promoter, with the account that writes into targets; a claim of a tag lapses after this long.
    #[must_use]
    pub fn new(
        bus: Bus,
        state: State,
        catalog: Catalog,
        registry: Client,
        claim: Duration,
    ) -> Self {
        let tags = TagWriter::new(state.clone(), catalog.clone(), registry.clone())
            .with_claim_duration(claim);
        let contents = ImageContentsReader::new(state.clone(), registry.clone());
        Self {
            evaluator: Evaluator {
                state: state.clone(),
                registry: registry.clone(),
                tags: tags.clone(),
                contents: contents.clone(),
            },
            cleanup: Cleanup::new(
                bus.clone(),
                state.clone(),
                catalog.clone(),
                registry.clone(),
                contents.clone(),
                FORGET_AFTER,
            ),
            targets: Targets {
                state: state.clone(),
                catalog,
                registry,
                tags,
                remotes: RemoteClients::default(),
                contents,
            },
            bus,
            state,
        }
    }

    /// Sets how old entries are before the cleanup removes them.
    #[must_use]
    pub const fn with_cleanup_age(mut self, time: TimeDelta) -> Self {
        self.cleanup.forget_after = time;
        self
    }

    /// Connects to remote registries by another transport than the network.
    #[must_use]
    pub fn reaching(mut self, transport: Transport) -> Self {
        self.targets.remotes = self.targets.remotes.with_transport(transport);
        self
    }

    /// Reads the secrets that `Registry` resources name from this folder.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Secrets) -> Self {
        self.targets.remotes = self.targets.remotes.with_secrets(secrets);
        self
    }

    async fn reconcile(&self, command: &Reconcile, cause: &Cause) -> Result<Outcome, Error> {
        self.cleanup.request_if_due(command).await?;
        ensure_no_pending_events(&self.bus, &topology::PROMOTER, command, cause).await?;
        let reconciler = Reconciler {
            bus: &self.bus,
            targets: &self.targets,
            cause,
        };
        let page = reconciler.run_page(command).await?;
        Ok(page.into_outcome(&self.state, command, cause))
    }

    /// Evaluates an image under its tags, and carries out the decisions.
    async fn decide(
        &self,
        digest: &Digest,
        subjects: Vec<Subject>,
        scanned_at: Option<DateTime<Utc>>,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        if subjects.is_empty() {
            tracing::info!(image.digest = %digest, "superseded; no tag names the image any more");
            return Ok(Outcome::done());
        }
        let input = self.evaluator.read_input(digest, subjects, scanned_at);
        let Some(input) = input.await? else {
            tracing::info!(image.digest = %digest, "no repository has the image any more");
            return Ok(Outcome::done());
        };
        let evaluations = self.evaluate_all(&input, cause).await?;
        self.carry_out_all(&evaluations, cause).await
    }

    /// Evaluates an image by every policy before any decision is carried out: a recall depends on all decisions.
    async fn evaluate_all<'a>(
        &self,
        input: &'a EvaluationInput,
        cause: &Cause,
    ) -> Result<Vec<Evaluation<'a>>, Error> {
        let mut evaluations = Vec::new();
        for subject in &input.subjects {
            let deciding: Vec<&Policy> = input.policies.deciding_on(&subject.subject).collect();
            for entry in &subject.decisions {
                let name = &entry.value.policy;
                if deciding
                    .iter()
                    .all(|policy| policy.spec.name.as_str() != name)
                {
                    let ended = self.evaluator.end_decision(
                        &input.policies,
                        &subject.subject,
                        entry,
                        &input.image,
                    );
                    evaluations.extend(ended.await?);
                }
            }
            for policy in deciding {
                if let Some(before) = unpromoted_before(policy, subject, &input.image) {
                    self.clean_up(&before, cause).await?;
                }
                let evaluate = self.evaluator.evaluate(policy, subject, &input.image);
                match evaluate.await? {
                    EvaluationResult::Decided(evaluation) => evaluations.push(evaluation),
                    EvaluationResult::Obsolete(evaluation) => {
                        self.clean_up(&evaluation, cause).await?;
                    }
                    EvaluationResult::None => {}
                }
            }
        }
        Ok(evaluations)
    }

    /// Removes what an interrupted promotion wrote for a decision that is obsolete.
    async fn clean_up(&self, evaluation: &Evaluation<'_>, cause: &Cause) -> Result<(), Error> {
        self.targets.end_claim(evaluation).await?;
        let mut pending_events = PendingEvents::default();
        if evaluation.decision.promoted_at.is_none() {
            remove_unpromoted(&self.targets, evaluation, &mut pending_events).await?;
        }
        pending_events.publish(&self.bus, cause).await
    }

    /// Carries out every decision; one that fails does not hold up the events of the others.
    async fn carry_out_all(
        &self,
        evaluations: &[Evaluation<'_>],
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        let mut pending_events = PendingEvents::default();
        let mut failure: Option<Error> = None;
        for evaluation in evaluations {
            match self.carry_out(evaluation).await {
                Ok(more) => pending_events.append(more),
                Err(error) => {
                    let is_retried = failure
                        .as_ref()
                        .is_some_and(|first| first.class() != Class::Permanent);
                    if !is_retried {
                        failure = Some(error);
                    }
                }
            }
        }
        let Some(failure) = failure else {
            return Ok(pending_events.into_outcome());
        };
        pending_events.publish(&self.bus, cause).await?;
        Err(failure)
    }

    async fn carry_out(&self, evaluation: &Evaluation<'_>) -> Result<PendingEvents, Error> {
        let (targets, decision) = (&self.targets, &evaluation.decision);
        schedule_evaluation(&self.bus, evaluation).await?;
        let recall = ImageRecall {
            targets,
            evaluation,
        };
        let mut pending_events = match decision.outcome() {
            DecisionOutcome::Allow if evaluation.subject.current.is_some() => {
                ImagePromotion::new(targets, evaluation)
                    .await?
                    .run()
                    .await?
            }
            DecisionOutcome::Allow => {
                targets.end_claim(evaluation).await?;
                PendingEvents::default()
            }
            DecisionOutcome::Deny => recall.deny().await?,
            DecisionOutcome::Undetermined => self.publish_undetermined(evaluation)?,
            DecisionOutcome::Wait | DecisionOutcome::Unspecified => PendingEvents::default(),
        };
        if decision.outcome() != DecisionOutcome::Deny && no_longer_passes(decision) {
            recall.flag_undetermined(&mut pending_events).await?;
        }
        if decision.outcome() != DecisionOutcome::Deny && decision.promoted_at.is_none() {
            remove_unpromoted(targets, evaluation, &mut pending_events).await?;
        }
        recall_from_former_targets(targets, evaluation, &mut pending_events).await?;
        Ok(pending_events)
    }

    /// Publishes an undetermined decision as a refusal whose open rules are marked; the image is not promoted, and one that
    /// was promoted stays.
    fn publish_undetermined(&self, evaluation: &Evaluation<'_>) -> Result<PendingEvents, Error> {
        let mut pending_events = PendingEvents::default();
        if !evaluation.decision.published {
            add_denial(evaluation, &mut pending_events)?;
            pending_events.record(&self.state, evaluation, |_| {});
        }
        Ok(pending_events)
    }
}
