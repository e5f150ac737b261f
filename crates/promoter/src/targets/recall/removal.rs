//! Removes an image from a target: the tags that a decision moved, then the manifests that no other image needs.

use std::collections::BTreeSet;

use sluice_domain::{Class, Classify as _, Tag, Target};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{DecisionOutcome, TagEntry};
use sluice_state::{TagChange, key};

use super::precondition::{RemovalPrecondition, is_still_refused};
use crate::error::Error;
use crate::evaluate::decision::{is_promoted_by, is_settled};
use crate::evaluate::evaluated_decision::Evaluation;
use crate::targets::endpoint::{TargetEndpoint, Targets};
use crate::targets::pending_events::PendingEvents;
use crate::targets::sweep::sweep;
use crate::targets::sweep::sweep_plan::SweepPlan;

/// Removes the tags that this decision moved, then by digest the manifests that nothing else in the target needs.
///
/// Returns the tags, or `None` if the decision changed meanwhile.
pub(super) async fn remove_image(
    targets: &Targets,
    evaluation: &Evaluation<'_>,
    pending_events: &mut PendingEvents,
) -> Result<Option<BTreeSet<Tag>>, Error> {
    let state = &targets.state;
    state.ensure_not_paused().await?;
    let (target, tag) = evaluation.target()?;
    let filter = key::tags_of_target(&target);
    let endpoint = targets.endpoint(target).await?;
    // A template with the time may have made more than one tag; the last is published even if it was removed before.
    let mut tags = BTreeSet::from([tag.clone()]);
    let entries = state.tags.list(&filter).await?;
    for entry in entries.iter().filter(|_| !evaluation.is_former) {
        let is_own = is_moved_by(&entry.value, evaluation)
            || is_removed_by_withdrawal(&entry.value, evaluation);
        if is_own && let Ok(tag) = entry.value.tag.parse() {
            tags.insert(tag);
        }
    }
    for at in &tags {
        let key = key::target_tag(&endpoint.target, at);
        let entry = state.tags.get(&key).await?.map(|entry| entry.value);
        // The decision says that the image was promoted to its own tag, whatever the entry says by now.
        let is_own =
            *at == tag && evaluation.decision.promoted_at.is_some() && !endpoint.is_remote();
        let is_begun = entry
            .as_ref()
            .and_then(|entry| entry.claim.as_ref())
            .is_some_and(|claim| claim.digest == evaluation.decision.digest);
        let is_moved = entry.is_some_and(|entry| is_moved_by(&entry, evaluation));
        if is_moved || (is_own || is_begun) && names_image(&endpoint, at, evaluation).await? {
            let change = TagChange {
                repository: endpoint.repository(),
                tag: at,
                wanted: None,
                provenance: evaluation.provenance(),
                precondition: &RemovalPrecondition {
                    state,
                    evaluation,
                    endpoint: &endpoint,
                    tag: at,
                },
            };
            endpoint.tags.apply(&change).await?;
        }
    }
    // A decision that changed meanwhile has its own message, which repairs what was removed.
    if !is_still_refused(state, evaluation).await? {
        return Ok(None);
    }
    let plan = SweepPlan::of(evaluation, &endpoint);
    match sweep(targets, &plan, pending_events).await {
        // The tags are removed; manifests that a remote registry does not list or delete by digest are left to its owner.
        Err(Error::Registry(error))
            if endpoint.is_remote() && error.class() == Class::Permanent =>
        {
            tracing::warn!(image.repository = %endpoint.target, image.digest = evaluation.decision.digest, %error, "its manifests stay in the remote registry");
        }
        swept => swept?,
    }
    Ok(Some(tags))
}

/// Removes the leftovers of an image that was never published as promoted, as far as a remote registry allows deletion.
pub(crate) async fn remove_leftovers(
    targets: &Targets,
    evaluation: &Evaluation<'_>,
    pending_events: &mut PendingEvents,
) -> Result<(), Error> {
    let (target, _) = evaluation.target()?;
    match remove_image(targets, evaluation, pending_events).await {
        Err(error) if target.local().is_none() && is_refused_deletion(&error) => {
            tracing::warn!(image.repository = %target, image.digest = evaluation.decision.digest, %error, "the leftovers of a refused image stay in the remote registry");
            Ok(())
        }
        removed => removed.map(drop),
    }
}

/// Removes what a target has of an image that is not promoted: what an interrupted promotion copied, and what the withdrawal
/// of another image kept for it.
///
/// Where the decision is neither allowed nor refused, a manifest that a tag names stays.
pub(crate) async fn remove_unpromoted(
    targets: &Targets,
    evaluation: &Evaluation<'_>,
    pending_events: &mut PendingEvents,
) -> Result<(), Error> {
    let decision = &evaluation.decision;
    let is_refused = match decision.outcome() {
        DecisionOutcome::Allow => return Ok(()),
        DecisionOutcome::Deny => true,
        // Others own what is in a remote target.
        _ if !decision.was_allowed || evaluation.target()?.0.local().is_none() => return Ok(()),
        _ => false,
    };
    if !has_leftovers(targets, evaluation).await? {
        return Ok(());
    }
    if is_refused {
        return remove_leftovers(targets, evaluation, pending_events).await;
    }
    let endpoint = targets.endpoint(evaluation.target()?.0).await?;
    let plan = SweepPlan::of(evaluation, &endpoint);
    sweep(targets, &plan, pending_events).await
}

/// Says whether the target has a manifest of an image whose promotion was not completed.
///
/// A promotion that is carried out while the image is withdrawn removes its own leftovers; an interrupted one does so
/// when its message is delivered again, and finds the refusal.
async fn has_leftovers(targets: &Targets, evaluation: &Evaluation<'_>) -> Result<bool, Error> {
    let Ok((target, _)) = evaluation.target() else {
        return Ok(false);
    };
    if target.local().is_none() && !evaluation.decision.was_allowed {
        return Ok(false);
    }
    let endpoint = targets.endpoint(target).await?;
    Ok(endpoint.has_any(evaluation.manifests()).await?)
}

/// Says whether a target has an image that is to be flagged.
///
/// For a remote target its entry is enough, so that a flag does not wait for a registry that is unreachable.
pub(super) async fn is_in_target(
    targets: &Targets,
    evaluation: &Evaluation<'_>,
    target: &Target,
    tag: &Tag,
) -> Result<bool, Error> {
    if target.local().is_none() {
        let key = key::target_tag(target, tag);
        let entry = targets.state.tags.get(&key).await?;
        if entry.is_some_and(|entry| is_settled(&entry.value, &evaluation.decision)) {
            return Ok(true);
        }
    }
    let endpoint = targets.endpoint(target.clone()).await?;
    Ok(endpoint.head(&evaluation.subject.digest).await?.is_some())
}

/// Says whether a registry refuses a deletion for good, as many remote ones do.
pub(super) fn is_refused_deletion(error: &Error) -> bool {
    let (Error::Registry(refused) | Error::State(sluice_state::Error::Registry(refused))) = error
    else {
        return false;
    };
    let deletion = matches!(refused, sluice_registry::Error::UnexpectedStatus { action, .. } if *action == "delete");
    deletion && refused.class() == Class::Permanent
}

/// Says whether a tag of the registry names the image.
async fn names_image(
    endpoint: &TargetEndpoint,
    tag: &Tag,
    evaluation: &Evaluation<'_>,
) -> Result<bool, Error> {
    let head = endpoint.head(tag).await?;
    Ok(head.is_some_and(|head| head.digest == evaluation.subject.digest))
}

/// Says whether a tag names its digest because of this decision.
fn is_moved_by(entry: &TagEntry, evaluation: &Evaluation<'_>) -> bool {
    entry.digest == evaluation.decision.digest && is_promoted_by(entry, &evaluation.decision)
}

/// Says whether a tag was removed by this withdrawal, which was interrupted before its event was published.
///
/// A withdrawal that was published was decided before the image was promoted again.
fn is_removed_by_withdrawal(entry: &TagEntry, evaluation: &Evaluation<'_>) -> bool {
    let decision = &evaluation.decision;
    let removed_for = entry.promoted_from.as_ref();
    let decided_at = removed_for.and_then(|from| time_from_wire(from.decided_at.as_ref()));
    entry.digest.is_empty()
        && entry.previous == decision.digest
        && is_promoted_by(entry, decision)
        && decided_at > time_from_wire(decision.promoted_at.as_ref())
}
