//! What follows from a refusal, and for an image that was promoted before: a flag, or its withdrawal.

use std::collections::BTreeSet;

use sluice_domain::resources::Recall;
use sluice_domain::{Digest, Repository, Tag, now};
use sluice_events::commands::JudgeImage;
use sluice_events::facts::{ImageFlagged, ImageWithdrawn};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome, Promotion, TagEntry};
use sluice_registry::Client;
use sluice_service::crash;
use sluice_state::{Entry, Standing, State, TagChange, Truth, describe, key};

use crate::decide::{is_known_to_fail, why};
use crate::handler::{Case, Error, Promoter};
use crate::policies;
use crate::promote::{occurrence, provenance};
use crate::told::Told;

/// The source of truth of a withdrawal: the decision still refuses what the tag names.
struct Refused<'a> {
    state: &'a State,
    registry: &'a Client,
    case: &'a Case<'a>,
    target: &'a Repository,
    tag: &'a Tag,
}

impl Truth for Refused<'_> {
    async fn standing(&self) -> Result<Standing, sluice_state::Error> {
        let now = self.state.decisions.get(&self.case.key).await?;
        let still_refused = now.is_some_and(|now| now.value.outcome() == DecisionOutcome::Deny);
        let entry = self
            .state
            .tags
            .get(&key::tag(self.target, self.tag))
            .await?;
        // Somebody may have promoted another digest meanwhile, which must stay. While the tag is claimed, its entry
        // does not say yet what it names.
        let still_named = entry.is_some_and(|entry| {
            entry.value.claim.is_some() || entry.value.digest == self.case.decision.digest
        });
        // What the registry's tag names otherwise, no decision of this image speaks of: after a restore it may be newer.
        let head = self.registry.head(self.target, &self.tag.into()).await?;
        let other = match head {
            Some(head) if head.digest.as_str() != self.case.decision.digest => {
                !self
                    .registry
                    .is_tombstone(self.target, &head.digest)
                    .await?
            }
            _ => false,
        };
        Ok(if still_refused && still_named && !other {
            Standing::Current
        } else {
            Standing::Superseded
        })
    }
}

/// The manifests of an image that is to leave a target.
#[derive(Debug)]
pub(crate) struct Sweep<'a> {
    pub(crate) target: &'a Repository,
    pub(crate) manifests: &'a [Digest],
    /// The key of the decision that does not count any more; empty for what no decision brought.
    pub(crate) without: &'a str,
    /// The image itself, if a decision brought it.
    pub(crate) digest: Option<&'a str>,
    /// Where it came from, if a decision brought it.
    pub(crate) source: Option<&'a Repository>,
    /// What tells this from the next time.
    pub(crate) occurrence: String,
}

impl<'a> Sweep<'a> {
    /// Makes that of an image that a decision brought.
    pub(crate) fn of(case: &'a Case<'_>, target: &'a Repository) -> Self {
        Self {
            target,
            manifests: case.manifests,
            without: &case.key,
            digest: Some(&case.decision.digest),
            source: Some(&case.subject.repository),
            occurrence: occurrence(&case.decision),
        }
    }
}

impl Promoter {
    /// Tells a refusal, and takes back what was promoted before as far as the policy asks for it.
    pub(crate) async fn deny(&self, case: &Case<'_>) -> Result<Told, Error> {
        let mut told = Told::default();
        if !case.decision.announced {
            self.tell_refusal(case, &mut told)?;
        }
        self.end_claim(case).await?;
        if !case.decision.flagged.is_empty() && self.is_half(case).await? {
            let (target, _) = case.place()?;
            self.state.unless_paused().await?;
            // What it shares with another image went with that while it was on its way.
            match self.copy(case, &target).await {
                Ok(_) => {}
                // Its source is gone too, and half of a refused image is of no use to anybody.
                Err(error) if error.is_not_found() => {
                    self.withdraw(case, &mut told).await?;
                    return Ok(told);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let recall = case.policy.spec.recall;
        let asked_for = match recall {
            Recall::Flag => case.decision.flagged.is_empty(),
            Recall::Withdraw => true,
            Recall::Ignore => false,
        };
        if asked_for && case.decision.promoted_at.is_some() && is_known_to_fail(&case.decision) {
            let others = self.others(case).await?;
            let allowed = |other: &Decision| other.outcome() == DecisionOutcome::Allow;
            // Another policy that still allows the image in the same target keeps it there.
            if !others.iter().any(allowed) {
                if recall == Recall::Flag {
                    self.flag(case, &mut told).await?;
                } else {
                    self.withdraw(case, &mut told).await?;
                }
                ask_again(case, &others, &mut told);
                return Ok(told);
            }
        }
        if case.decision.promoted_at.is_none() && self.is_left(case).await? {
            self.clear(case, &mut told).await?;
        }
        if !case.decision.announced {
            told.record(self.record(case, |_| {}));
        }
        Ok(told)
    }

    /// Says whether something is in the target of an image that nothing brought there for good.
    ///
    /// A promotion that was carried out while the image was withdrawn cleans up behind itself; one that died does so
    /// when its message comes again, and finds the refusal.
    pub(crate) async fn is_left(&self, case: &Case<'_>) -> Result<bool, Error> {
        let Ok((target, _)) = case.place() else {
            return Ok(false);
        };
        for manifest in case.manifests {
            let head = self.registry.head(&target, &manifest.into()).await?;
            if head.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Says whether an image is in its target without all that it lists.
    ///
    /// Where it is not there itself there is nothing to mend; a registry that lost its disk says so of everything.
    async fn is_half(&self, case: &Case<'_>) -> Result<bool, Error> {
        let (target, _) = case.place()?;
        let top = (&case.subject.digest).into();
        if self.registry.head(&target, &top).await?.is_none() {
            return Ok(false);
        }
        for manifest in case.manifests {
            let head = self.registry.head(&target, &manifest.into()).await?;
            if head.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the other decisions by which this image stands in the same target.
    async fn others(&self, case: &Case<'_>) -> Result<Vec<Decision>, Error> {
        let about = key::decisions_about(&case.subject.digest);
        let decisions = self.state.decisions.list(&about).await?;
        Ok(decisions
            .into_iter()
            .filter(|entry| entry.key != case.key)
            .map(|entry| entry.value)
            .filter(|other| other.target == case.decision.target && other.promoted_at.is_some())
            .collect())
    }

    async fn flag(&self, case: &Case<'_>, told: &mut Told) -> Result<(), Error> {
        let (target, tag) = case.place()?;
        let digest = &case.subject.digest;
        // Refused between the decision that allowed it and the copy, it never stood there.
        if self.registry.head(&target, &digest.into()).await?.is_none() {
            told.record(self.record(case, |decision| decision.promoted_at = None));
            return Ok(());
        }
        let reason = why(&case.decision);
        tracing::warn!(image.repository = %target, image.tag = %tag, reason, "flagged");
        told.fact(
            ImageFlagged {
                policy: case.policy.spec.name.clone(),
                repository: target,
                tag,
                digest: case.subject.digest.clone(),
                reason: reason.clone(),
            },
            &occurrence(&case.decision),
        );
        told.record(self.record(case, |decision| decision.flagged = reason));
        Ok(())
    }

    /// Takes an image back, and tells it.
    async fn withdraw(&self, case: &Case<'_>, told: &mut Told) -> Result<(), Error> {
        let (target, _) = case.place()?;
        let Some(brought) = self.clear(case, told).await? else {
            return Ok(());
        };
        let reason = why(&case.decision);
        for tag in brought {
            tracing::warn!(image.repository = %target, image.tag = %tag, reason, "withdrawn");
            told.fact(
                ImageWithdrawn {
                    policy: case.policy.spec.name.clone(),
                    repository: target.clone(),
                    tag,
                    digest: case.subject.digest.clone(),
                    reason: reason.clone(),
                },
                &occurrence(&case.decision),
            );
        }
        told.record(self.record(case, |decision| {
            decision.promoted_at = None;
            decision.flagged = String::new();
        }));
        Ok(())
    }

    /// Removes the tags that this decision brought, then by digest what nothing else there reaches.
    ///
    /// Returns the tags, or nothing if the decision is another one by now.
    pub(crate) async fn clear(
        &self,
        case: &Case<'_>,
        told: &mut Told,
    ) -> Result<Option<BTreeSet<Tag>>, Error> {
        self.state.unless_paused().await?;
        let (target, tag) = case.place()?;
        // A template with the time may have brought more than one tag; the last is told even when it is gone already.
        let mut brought = BTreeSet::from([tag]);
        for entry in self.state.tags.list(&key::tags_of(&target)).await? {
            let is_ours = is_brought_by(&entry.value, case) || is_withdrawn_by(&entry.value, case);
            if is_ours && let Ok(tag) = entry.value.tag.parse() {
                brought.insert(tag);
            }
        }
        for tag in &brought {
            let truth = Refused {
                state: &self.state,
                registry: &self.registry,
                case,
                target: &target,
                tag,
            };
            let entry = self.state.tags.get(&key::tag(&target, tag)).await?;
            if let Some(entry) = entry
                && (is_brought_by(&entry.value, case)
                    || self.is_begun(&entry.value, case, &target, tag).await?)
            {
                let change = TagChange {
                    repository: &target,
                    tag,
                    wanted: None,
                    provenance: provenance(case),
                    truth: &truth,
                };
                self.tags.apply(&change).await?;
            }
        }
        // A decision that changed meanwhile has its own message, which mends what was removed.
        let now = self.state.decisions.get(&case.key).await?;
        if now.is_none_or(|now| now.value.outcome() != DecisionOutcome::Deny) {
            return Ok(None);
        }
        self.sweep(&Sweep::of(case, &target), told).await?;
        Ok(Some(brought))
    }

    /// Says whether a promotion of this image began to write a tag, and did not come to its end.
    async fn is_begun(
        &self,
        entry: &TagEntry,
        case: &Case<'_>,
        target: &Repository,
        tag: &Tag,
    ) -> Result<bool, Error> {
        let claim = entry.claim.as_ref();
        if claim.is_none_or(|claim| claim.digest != case.decision.digest) {
            return Ok(false);
        }
        let head = self.registry.head(target, &tag.into()).await?;
        Ok(head.is_some_and(|head| head.digest == case.subject.digest))
    }

    /// Deletes the manifests of an image that no other permitted image of the target reaches (invariants 1 and 5).
    ///
    /// Whatever cannot be listed or read ends this before anything is deleted.
    pub(crate) async fn sweep(&self, sweep: &Sweep<'_>, told: &mut Told) -> Result<(), Error> {
        self.state.unless_paused().await?;
        let kept = self.kept(sweep).await?;
        for manifest in sweep
            .manifests
            .iter()
            .filter(|digest| !kept.contains(*digest))
        {
            self.registry
                .delete_manifest(sweep.target, manifest)
                .await?;
            crash::point("promoter.manifest_deleted");
            tracing::info!(image.repository = %sweep.target, image.digest = %manifest, "deleted");
        }
        // An image with a manifest in common may have been allowed since the listing, and found it there when it was
        // copied. Its effect is verified once more, and mended.
        for entry in self.permitted(sweep).await? {
            let (Ok(repository), Ok(tag), Ok(digest)) = (
                entry.value.repository.parse(),
                entry.value.tag.parse(),
                entry.value.digest.parse::<Digest>(),
            ) else {
                continue;
            };
            let reached = self.reached(&digest, sweep.target).await?;
            if reached
                .iter()
                .any(|digest| sweep.manifests.contains(digest))
            {
                let id = format!("judge/mend/{}/{}", entry.key, sweep.occurrence);
                let command = JudgeImage {
                    repository,
                    tag,
                    digest,
                };
                told.command(command, id);
            }
        }
        Ok(())
    }

    /// Returns every manifest that must stay in a target, apart from what only this decision brought there.
    async fn kept(&self, sweep: &Sweep<'_>) -> Result<BTreeSet<Digest>, Error> {
        let target = sweep.target;
        let mut tops = BTreeSet::new();
        for entry in self.permitted(sweep).await? {
            tops.extend(entry.value.digest.parse::<Digest>().ok());
        }
        for entry in self.state.tags.list(&key::tags_of(target)).await? {
            tops.extend(entry.value.digest.parse::<Digest>().ok());
            // One that is claimed for this very image is that of a promotion that comes too late, and a claim that has
            // lapsed is that of somebody who died.
            let claim = entry.value.claim.filter(|claim| {
                time_from_wire(claim.until.as_ref()).is_some_and(|until| until > now())
            });
            let claimed = claim.map(|claim| claim.digest);
            let claimed = claimed.filter(|digest| Some(digest.as_str()) != sweep.digest);
            tops.extend(claimed.and_then(|digest| digest.parse::<Digest>().ok()));
        }
        // The registry may have tags that no entry knows.
        let listed = match self.registry.tags(target).await {
            Err(error) if error.is_not_found() => Vec::new(),
            listed => listed?,
        };
        for tag in &listed {
            let head = self.registry.head(target, &tag.into()).await?;
            tops.extend(head.map(|head| head.digest));
        }
        let mut kept = BTreeSet::new();
        for top in tops {
            kept.extend(self.reached(&top, target).await?);
            kept.insert(top);
        }
        Ok(kept)
    }

    /// Returns the other decisions by which an image may be in a target: allowed now, or promoted and not withdrawn.
    ///
    /// One that fails and is not flagged for good does not count: it is about to be withdrawn, and two that go at the same
    /// time would else keep what they share. Where it is about to be flagged instead, its tag keeps what it needs.
    /// Decisions are found by their source, which the target's tags name, and by the policies that promote there: what is
    /// on its way has no tag yet. For what no decision brought, all decisions are read.
    async fn permitted(&self, sweep: &Sweep<'_>) -> Result<Vec<Entry<Decision>>, Error> {
        let target = sweep.target;
        let mut sources = BTreeSet::new();
        sources.extend(sweep.source.cloned());
        for entry in self.state.tags.list(&key::tags_of(target)).await? {
            let from = entry.value.promoted_from;
            sources.extend(from.and_then(|from| from.repository.parse::<Repository>().ok()));
        }
        let policies = policies::read(&self.state).await?;
        let withdraws = |decision: &Decision| {
            policies.iter().any(|policy| {
                policy.spec.recall == Recall::Withdraw
                    && policy.spec.name.as_str() == decision.policy
            })
        };
        let goes = |decision: &Decision| {
            is_known_to_fail(decision) && (decision.flagged.is_empty() || withdraws(decision))
        };
        let mut filters: Vec<String> = sources.iter().map(key::decisions_in).collect();
        for policy in policies.iter().filter(|p| p.spec.to.could_produce(target)) {
            filters.push(key::decisions_by(&policy.spec.name));
        }
        if sweep.source.is_none() {
            filters = vec![">".to_owned()];
        }
        let mut permitted: Vec<Entry<Decision>> = Vec::new();
        for filter in filters {
            for entry in self.state.decisions.list(&filter).await? {
                let known = permitted.iter().any(|known| known.key == entry.key);
                let permits = entry.key != sweep.without
                    && entry.value.target == target.as_str()
                    && entry.value.promoted_at.is_some()
                    && !goes(&entry.value);
                if permits && !known {
                    permitted.push(entry);
                }
            }
        }
        Ok(permitted)
    }

    /// Returns the manifests below an image; one that is nowhere reaches nothing.
    async fn reached(
        &self,
        digest: &Digest,
        target: &Repository,
    ) -> Result<BTreeSet<Digest>, Error> {
        match describe(&self.state, &self.registry, target, digest).await {
            Ok(entry) => Ok(entry
                .children
                .iter()
                .filter_map(|child| child.digest.parse().ok())
                .collect()),
            Err(sluice_state::Error::Registry(error)) if error.is_not_found() => {
                Ok(BTreeSet::new())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Has the policies look again whose own recall this decision may have held up.
fn ask_again(case: &Case<'_>, others: &[Decision], told: &mut Told) {
    for other in others {
        if let (Ok(repository), Ok(tag)) = (other.repository.parse(), other.tag.parse()) {
            let id = format!(
                "judge/recall/{}/{repository}/{tag}/{}/{}",
                other.policy,
                case.key,
                occurrence(&case.decision)
            );
            let command = JudgeImage {
                repository,
                tag,
                digest: case.subject.digest.clone(),
            };
            told.command(command, id);
        }
    }
}

/// Says whether a tag names its digest because of this decision.
fn is_brought_by(entry: &TagEntry, case: &Case<'_>) -> bool {
    entry.digest == case.decision.digest && changed_by(entry, case).is_some()
}

/// Says whether a tag was removed by this withdrawal, which was interrupted before it was told.
///
/// One that was told before was decided before the image was promoted again.
fn is_withdrawn_by(entry: &TagEntry, case: &Case<'_>) -> bool {
    let time = |wire: Option<_>| time_from_wire(wire.as_ref());
    let promoted_at = time(case.decision.promoted_at);
    entry.digest.is_empty()
        && entry.previous == case.decision.digest
        && changed_by(entry, case).is_some_and(|from| time(from.decided_at) > promoted_at)
}

/// Returns the promotion or withdrawal that changed a tag last, if it was by this policy for this source.
fn changed_by<'a>(entry: &'a TagEntry, case: &Case<'_>) -> Option<&'a Promotion> {
    let decision = &case.decision;
    entry.promoted_from.as_ref().filter(|from| {
        from.policy == decision.policy
            && from.repository == decision.repository
            && from.tag == decision.tag
    })
}
