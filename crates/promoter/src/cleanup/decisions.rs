//! Removes decisions on images that neither their tag nor any target has any more.

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, Repository, Tag, Target};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome, TagEntry};
use sluice_state::key;

use super::inventory::{Inventory, retry_later};
use super::part::Part;
use crate::error::Error;
use crate::evaluate::decision::is_in_any_target;

/// Removes the old decisions from which nothing follows any more.
pub(super) async fn remove_decisions(
    inventory: &Inventory,
    after: u64,
    before: DateTime<Utc>,
) -> Result<Part, Error> {
    let (decisions, mut part) = (&inventory.state.decisions, Part::after(after));
    while let Some(page) = part.page(decisions, ">").await? {
        for entry in page {
            if is_obsolete(inventory, &entry.value, before).await? {
                part.remove(decisions, &entry).await?;
            }
        }
    }
    Ok(part)
}

/// Says whether nothing follows from a decision any more, whatever happens to its tag.
async fn is_obsolete(
    inventory: &Inventory,
    decision: &Decision,
    before: DateTime<Utc>,
) -> Result<bool, Error> {
    let is_old = time_from_wire(decision.decided_at.as_ref()).is_some_and(|at| at < before);
    let is_open = !decision.published
        || decision.wait_until.is_some()
        || decision.outcome() == DecisionOutcome::Wait;
    if !is_old || is_open || is_in_any_target(decision) {
        return Ok(false);
    }
    let (Ok(repository), Ok(tag), Ok(digest)) = (
        decision.repository.parse::<Repository>(),
        decision.tag.parse::<Tag>(),
        decision.digest.parse::<Digest>(),
    ) else {
        return Ok(false);
    };
    if is_tagged(inventory, &repository, &tag, &digest).await? {
        return Ok(false);
    }
    let Ok(target) = Target::from_stored(&decision.target) else {
        // It had no target.
        return Ok(decision.target.is_empty());
    };
    if let Ok(target_tag) = decision.target_tag.parse::<Tag>() {
        let key = key::target_tag(&target, &target_tag);
        let entry = inventory.state.tags.get(&key).await?;
        if entry.is_some_and(|entry| names(&entry.value, &digest)) {
            return Ok(false);
        }
    }
    // The target may have leftovers of an image that was allowed, and only this decision lists its manifests.
    Ok(match target.local() {
        _ if !decision.was_allowed => true,
        Some(target) => {
            let head = inventory.registry.head(target, &(&digest).into()).await;
            head.map_err(retry_later)?.is_none()
        }
        None => false,
    })
}

/// Says whether a tag names an image, by its entry, by the registry or upstream.
async fn is_tagged(
    inventory: &Inventory,
    repository: &Repository,
    tag: &Tag,
    digest: &Digest,
) -> Result<bool, Error> {
    let entry = inventory.state.tags.get(&key::tag(repository, tag)).await?;
    if entry.is_some_and(|entry| names(&entry.value, digest))
        || inventory.tag_digest(repository, tag).await?.as_ref() == Some(digest)
    {
        return Ok(true);
    }
    for entry in inventory.upstream_tags(repository, tag).await? {
        let upstream = entry.value;
        let is_current = !upstream.deleted && upstream.digest == digest.as_str();
        if is_current
            || upstream
                .pending
                .iter()
                .any(|pending| pending.digest == digest.as_str())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Says whether an entry names a digest, or is claimed for it.
fn names(entry: &TagEntry, digest: &Digest) -> bool {
    let claimed = entry.claim.as_ref();
    entry.digest == digest.as_str() || claimed.is_some_and(|claim| claim.digest == digest.as_str())
}
