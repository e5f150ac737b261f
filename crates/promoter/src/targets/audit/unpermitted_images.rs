//! Images that a promotion copied into a target and that no decision permits there any more: an audit removes those of their
//! manifests that nothing else in the target needs.
//!
//! A promotion removes what it copied too late itself. One that died does not, and by the time that its message is delivered
//! again, the decision may lead elsewhere.

use chrono::TimeDelta;
use sluice_bus::{Bus, Cause};
use sluice_domain::{Digest, Repository, now};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome, TargetImage};
use sluice_state::reconcile::PAGE;
use sluice_state::{Entry, State, key};

use crate::error::Error;
use crate::evaluate::decision::targets_of;
use crate::targets::endpoint::Targets;
use crate::targets::pending_events::PendingEvents;
use crate::targets::sweep::sweep;
use crate::targets::sweep::sweep_plan::SweepPlan;

/// How long the record of an image is kept that is gone from its target: longer than any copy takes that has begun.
const KEPT_FOR: TimeDelta = TimeDelta::days(1);

/// Removes the unpermitted images of a target that have no tag, and the records of those that are gone.
pub(super) async fn remove_unpermitted_images(
    targets: &Targets,
    repository: &Repository,
    bus: &Bus,
    cause: &Cause,
) -> Result<(), Error> {
    let images = &targets.state.target_images;
    let (filter, mut after) = (key::images_of_target(repository), Some(0));
    while let Some(start) = after {
        let page = images.page(&filter, start, PAGE).await?;
        for entry in &page.entries {
            let mut pending_events = PendingEvents::default();
            remove_if_unpermitted(targets, repository, entry, &mut pending_events).await?;
            pending_events.publish(bus, cause).await?;
        }
        after = page.next;
    }
    Ok(())
}

async fn remove_if_unpermitted(
    targets: &Targets,
    repository: &Repository,
    entry: &Entry<TargetImage>,
    pending_events: &mut PendingEvents,
) -> Result<(), Error> {
    let state = &targets.state;
    let image = &entry.value;
    let manifests = image.manifests.iter().filter_map(|one| one.parse().ok());
    let manifests: Vec<Digest> = manifests.collect();
    let Some(digest) = manifests.first() else {
        return Ok(());
    };
    if is_permitted(state, repository, digest, &image.decision).await? {
        return Ok(());
    }
    let endpoint = targets.internal(repository.clone());
    if !endpoint.has_any(&manifests).await? {
        let copied_at = time_from_wire(image.copied_at.as_ref());
        if copied_at.is_none_or(|copied_at| copied_at + KEPT_FOR < now()) {
            let images = &state.target_images;
            images.delete_at(&entry.key, entry.revision).await?;
        }
        return Ok(());
    }
    let source = image.source.parse().ok();
    let plan = SweepPlan {
        endpoint: &endpoint,
        manifests: &manifests,
        without: "",
        digest: Some(digest.as_str()),
        source: source.as_ref(),
        is_withdrawal: false,
    };
    sweep(targets, &plan, pending_events).await
}

/// Says whether a decision leads an image to a target, or it is still to be recalled from there; asks the decision first by
/// which it was copied.
async fn is_permitted(
    state: &State,
    repository: &Repository,
    digest: &Digest,
    copied_by: &str,
) -> Result<bool, Error> {
    let permits = |decision: &Decision| {
        let is_allowed = decision.outcome() == DecisionOutcome::Allow;
        targets_of(decision).any(|target| target == repository.as_str())
            || is_allowed && decision.target == repository.as_str()
    };
    let copied_by = state.decisions.get(copied_by).await?;
    if copied_by.is_some_and(|entry| permits(&entry.value)) {
        return Ok(true);
    }
    let decisions = state.decisions.list(&key::decisions_about(digest)).await?;
    Ok(decisions.iter().any(|entry| permits(&entry.value)))
}
