//! Evaluates an image under its tags: by each policy that decides on it, and for each stored decision whose policy does not
//! decide any more. Each decision is stored before anything follows from it.

pub(crate) mod decide;
pub(crate) mod decision;
pub(crate) mod evaluated_decision;
pub(crate) mod find_subjects;
pub(crate) mod image_contents;
pub(crate) mod missing_evaluations;
pub(crate) mod policies;
pub(crate) mod rescan_after_restore;
pub(crate) mod scanned_image;
pub(crate) mod subject;
pub(crate) mod timer;

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, Repository, Tag, Target, now};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome, ImageEntry};
use sluice_registry::Client;
use sluice_service::crash;
use sluice_state::{Entry, State, TagWriter, key};

use self::decide::{decide, end, refuse_new_target};
use self::decision::{is_ended, is_in_any_target};
use self::evaluated_decision::Evaluation;
use self::find_subjects::SubjectFinder;
use self::image_contents::ImageContentsReader;
use self::policies::{Policies, Policy, Validity};
use self::rescan_after_restore::keep_waiting_for_rescan;
use self::scanned_image::{ScannedImage, first_seen};
use self::subject::Subject;
use crate::error::Error;

/// Evaluates images by policies, and stores the decisions.
#[derive(Debug, Clone)]
pub(crate) struct Evaluator {
    pub(crate) state: State,
    pub(crate) registry: Client,
    pub(crate) tags: TagWriter,
    pub(crate) contents: ImageContentsReader,
}

/// An image with its verdicts, its tags and the policies, as they were read for an evaluation.
pub(crate) struct EvaluationInput {
    pub(crate) policies: Policies,
    pub(crate) subjects: Vec<DecidedSubject>,
    pub(crate) image: ScannedImage,
}

/// An image under a tag, with the decisions on it that are stored.
pub(crate) struct DecidedSubject {
    pub(crate) subject: Subject,
    pub(crate) decisions: Vec<Entry<Decision>>,
}

impl DecidedSubject {
    fn decision(&self, key: &str) -> Option<&Entry<Decision>> {
        self.decisions.iter().find(|entry| entry.key == key)
    }
}

/// What an evaluation by one policy leads to.
pub(crate) enum EvaluationResult<'a> {
    /// The decision is stored and is to be carried out.
    Decided(Evaluation<'a>),
    /// The source's tag has moved on and the image is in no target: only an interrupted promotion may be left of the stored
    /// decision.
    Obsolete(Evaluation<'a>),
    /// Nothing follows.
    None,
}

impl Evaluator {
    /// Reads what an image is evaluated by; `None` if no repository has the image and no decision knows it.
    pub(crate) async fn read_input(
        &self,
        digest: &Digest,
        subjects: Vec<Subject>,
        scanned_at: Option<DateTime<Utc>>,
    ) -> Result<Option<EvaluationInput>, Error> {
        let finder = SubjectFinder { state: &self.state };
        let policies = policies::read(&self.state).await?;
        let mut all = finder
            .add_unsettled_subjects(&policies, digest, subjects)
            .await?;
        for subject in &mut all {
            if let Some(entry) = &mut subject.current {
                finder.clear_forged_promotion(entry).await?;
            }
        }
        // The stored decisions are read before the policies and verdicts: an evaluation by newer ones that ends meanwhile has
        // changed the decision, and this evaluation is not written over that.
        let mut subjects = Vec::new();
        for subject in all {
            let filter = key::decisions_on(&subject.repository, &subject.tag);
            let mut decisions = self.state.decisions.list(&filter).await?;
            decisions.retain(|entry| entry.value.digest == digest.as_str());
            subjects.push(DecidedSubject { subject, decisions });
        }
        let policies = policies::read(&self.state).await?;
        let Some(entry) = self.contents_of(digest, &subjects).await? else {
            return Ok(None);
        };
        let mut image = ScannedImage::read(&self.state, digest, &entry).await?;
        image.scanned_at = scanned_at.max(image.scanned_at);
        Ok(Some(EvaluationInput {
            policies,
            subjects,
            image,
        }))
    }

    /// Returns what an image consists of, read from a repository that has it: a source, or a target.
    async fn contents_of(
        &self,
        digest: &Digest,
        subjects: &[DecidedSubject],
    ) -> Result<Option<ImageEntry>, Error> {
        let mut repositories: Vec<Repository> = Vec::new();
        repositories.extend(subjects.iter().map(|one| one.subject.repository.clone()));
        for entry in subjects.iter().flat_map(|one| &one.decisions) {
            let former = entry.value.former_targets.iter();
            let targets = former.map(|former| &former.target);
            let targets = targets.chain([&entry.value.target]);
            repositories.extend(targets.filter_map(|target| target.parse().ok()));
        }
        self.contents.find(digest, repositories).await
    }

    /// Evaluates an image by one policy and stores the decision, before anything follows from it.
    pub(crate) async fn evaluate<'a>(
        &self,
        policy: &'a Policy,
        subject: &'a DecidedSubject,
        image: &'a ScannedImage,
    ) -> Result<EvaluationResult<'a>, Error> {
        let key = subject.subject.key(&policy.spec.name);
        let stored = subject.decision(&key);
        let subject = &subject.subject;
        let before = stored.map(|entry| &entry.value);
        let promoted_at = before.and_then(|before| time_from_wire(before.promoted_at.as_ref()));
        let first_seen_at = first_seen(&self.state, subject, promoted_at).await?;
        let candidate = image.candidate(subject, first_seen_at, now());
        let mut decision = decide(policy, &candidate, image.inputs(), before, None);
        if let Some(kept) = self.immutable_digest(&decision, &subject.digest).await? {
            decision = decide(policy, &candidate, image.inputs(), before, Some(&kept));
        }
        keep_waiting_for_rescan(&mut decision, before, image.scanned_at);
        if before.is_some_and(|before| before.policy_revision > policy.revision) {
            return Err(Error::PolicyChanged {
                policy: policy.spec.name.to_string(),
            });
        }
        if decision.target == subject.repository.as_str() {
            tracing::debug!(policy = %policy.spec.name, "a policy does not promote a repository into itself");
            return Ok(EvaluationResult::None);
        }
        let evaluation = |decision, revision| Evaluation {
            policy: Some(policy),
            name: policy.spec.name.clone(),
            recall: policy.spec.recall,
            subject,
            image,
            key: key.clone(),
            decision,
            revision,
            is_former: false,
        };
        if subject.current.is_none() && !restrict_to_promoted(&mut decision, before) {
            return Ok(match stored {
                Some(stored) => {
                    EvaluationResult::Obsolete(evaluation(stored.value.clone(), stored.revision))
                }
                None => EvaluationResult::None,
            });
        }
        let revision = self.store(&key, &decision, stored).await?;
        Ok(EvaluationResult::Decided(evaluation(decision, revision)))
    }

    /// Ends a stored decision whose policy does not decide on the image any more; `None` if nothing follows from that.
    pub(crate) async fn end_decision<'a>(
        &self,
        policies: &'a Policies,
        subject: &'a Subject,
        stored: &Entry<Decision>,
        image: &'a ScannedImage,
    ) -> Result<Option<Evaluation<'a>>, Error> {
        let before = &stored.value;
        let reason = match policies.validity(before) {
            Validity::Unreadable => return Ok(None),
            Validity::Ended { reason, .. } => reason,
            Validity::Current | Validity::Outdated(_) => {
                format!(
                    "policy `{}` does not promote what it promoted itself",
                    before.policy
                )
            }
        };
        let Ok(name) = before.policy.parse() else {
            return Ok(None);
        };
        if !is_in_any_target(before) && (before.published || !is_ended(before)) {
            return Ok(None);
        }
        let mut decision = end(before, &reason, now());
        if !before.published && before.outcome() == DecisionOutcome::Allow {
            // The decision may not have been carried out. Then the target does not have the image, and only leftovers of an
            // interrupted promotion are removed.
            if !self.is_tagged(before, &subject.digest).await? {
                decision.promoted_at = None;
                decision.flagged.clear();
            }
        }
        let revision = self.store(&stored.key, &decision, Some(stored)).await?;
        Ok(Some(Evaluation {
            policy: None,
            name,
            recall: policies.recall(before),
            subject,
            image,
            key: stored.key.clone(),
            decision,
            revision,
            is_former: false,
        }))
    }

    /// Says whether the tag of a decision's target names the image.
    async fn is_tagged(&self, decision: &Decision, digest: &Digest) -> Result<bool, Error> {
        let Some((target, tag)) = target_of(decision) else {
            return Ok(false);
        };
        let Some(repository) = target.local() else {
            // A remote registry is not waited for.
            let entry = self.state.tags.get(&key::target_tag(&target, &tag)).await?;
            return Ok(entry.is_some_and(|entry| entry.value.digest == decision.digest));
        };
        let head = self.registry.head(repository, &(&tag).into()).await?;
        Ok(head.is_some_and(|head| head.digest == *digest))
    }

    /// Stores a decision unless it is stored already, and returns its revision.
    async fn store(
        &self,
        key: &str,
        decision: &Decision,
        stored: Option<&Entry<Decision>>,
    ) -> Result<u64, Error> {
        if let Some(stored) = stored.filter(|stored| stored.value == *decision) {
            return Ok(stored.revision);
        }
        let revision = stored.map(|stored| stored.revision);
        let written = self.state.decisions.write(key, decision, revision).await?;
        crash::point("promoter.decided");
        tracing::info!(
            policy = decision.policy,
            image.repository = decision.repository,
            image.tag = decision.tag,
            image.digest = decision.digest,
            outcome = outcome_name(decision.outcome()),
            "decided"
        );
        Ok(written)
    }

    /// Returns what the target tag of an allowed image names, if its repository is immutable and it is another image.
    async fn immutable_digest(
        &self,
        decision: &Decision,
        digest: &Digest,
    ) -> Result<Option<Digest>, Error> {
        let (DecisionOutcome::Allow, Some((target, tag))) =
            (decision.outcome(), target_of(decision))
        else {
            return Ok(None);
        };
        if target.registry.is_some() {
            return Ok(None);
        }
        Ok(self
            .tags
            .immutable_digest(&target.repository, &tag, digest)
            .await?)
    }
}

/// Returns the decision of an earlier revision of a policy that allowed an image and did not promote it.
///
/// Its target may have what an interrupted promotion copied, and the next decision may lead elsewhere.
pub(crate) fn unpromoted_before<'a>(
    policy: &'a Policy,
    subject: &'a DecidedSubject,
    image: &'a ScannedImage,
) -> Option<Evaluation<'a>> {
    let key = subject.subject.key(&policy.spec.name);
    let stored = subject.decision(&key)?;
    let before = &stored.value;
    let is_unpromoted = before.was_allowed && before.promoted_at.is_none();
    (is_unpromoted && before.policy_revision != policy.revision).then(|| Evaluation {
        policy: Some(policy),
        name: policy.spec.name.clone(),
        recall: policy.spec.recall,
        subject: &subject.subject,
        image,
        key,
        decision: before.clone(),
        revision: stored.revision,
        is_former: false,
    })
}

fn target_of(decision: &Decision) -> Option<(Target, Tag)> {
    let target = Target::from_stored(&decision.target).ok()?;
    Some((target, decision.target_tag.parse().ok()?))
}

/// Restricts a decision to an image that was promoted, because the source's tag has moved on; says whether it was promoted.
///
/// The decision can recall the image, or lift a flag; it promotes nothing, and an undetermined one changes nothing unless
/// the policy was changed.
fn restrict_to_promoted(decision: &mut Decision, before: Option<&Decision>) -> bool {
    let Some(before) = before.filter(|before| is_in_any_target(before)) else {
        return false;
    };
    match decision.outcome() {
        DecisionOutcome::Deny => {}
        DecisionOutcome::Allow => {
            let target =
                |decision: &Decision| (decision.target.clone(), decision.target_tag.clone());
            if target(decision) == target(before) && before.promoted_at.is_some() {
                decision.published |= before.outcome() != DecisionOutcome::Allow;
            } else {
                refuse_new_target(decision, before);
            }
        }
        _ if decision.policy_revision == before.policy_revision => decision.clone_from(before),
        _ => {}
    }
    true
}

/// Returns the name of an outcome in logs.
const fn outcome_name(outcome: DecisionOutcome) -> &'static str {
    match outcome {
        DecisionOutcome::Allow => "allowed",
        DecisionOutcome::Deny => "denied",
        DecisionOutcome::Wait => "waiting",
        DecisionOutcome::Undetermined => "undetermined",
        DecisionOutcome::Unspecified => "unknown",
    }
}
