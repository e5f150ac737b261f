//! Removes the entries of tags that were removed, of upstream tags that no mirror copies, and of polls of deleted mirrors.
//!
//! The entry of a tag has the number of the last move that its mirror followed, so it is removed before that of the upstream
//! tag: otherwise a tag that comes back would begin at move 1, which is older than the number in the entry.

use chrono::{DateTime, Utc};
use sluice_domain::resources::Kind;
use sluice_domain::{Repository, ResourceName, Tag};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{TagEntry, UpstreamTag};
use sluice_state::key;

use super::inventory::Inventory;
use super::part::Part;
use crate::error::Error;

/// Removes the old entries of tags that were removed.
pub(super) async fn remove_tags(
    inventory: &Inventory,
    after: u64,
    before: DateTime<Utc>,
) -> Result<Part, Error> {
    let (tags, mut part) = (&inventory.state.tags, Part::after(after));
    while let Some(page) = part.page(tags, ">").await? {
        for entry in page {
            if is_obsolete_tag(inventory, &entry.value, before).await? {
                part.remove(tags, &entry).await?;
            }
        }
    }
    Ok(part)
}

/// Removes the old entries of upstream tags that no mirror copies.
pub(super) async fn remove_upstream_tags(
    inventory: &Inventory,
    after: u64,
    before: DateTime<Utc>,
) -> Result<Part, Error> {
    let (upstream, mut part) = (&inventory.state.upstream, Part::after(after));
    while let Some(page) = part.page(upstream, "*.*").await? {
        for entry in page {
            if is_obsolete_upstream_tag(inventory, &entry.value, before).await? {
                part.remove(upstream, &entry).await?;
            }
        }
    }
    if part.next.is_none() {
        remove_polls(inventory, before, &mut part).await?;
    }
    Ok(part)
}

/// Removes the last polls of mirrors that were deleted.
async fn remove_polls(
    inventory: &Inventory,
    before: DateTime<Utc>,
    part: &mut Part,
) -> Result<(), Error> {
    let polls = &inventory.state.polls;
    for entry in polls.list("*").await? {
        let polled_at = time_from_wire(entry.value.polled_at.as_ref());
        let Ok(mirror) = entry.value.mirror.parse::<ResourceName>() else {
            continue;
        };
        if polled_at.is_some_and(|at| at < before)
            && !inventory.state.has_resource(Kind::Mirror, &mirror).await?
        {
            part.remove(polls, &entry).await?;
        }
    }
    Ok(())
}

/// Says whether a tag was removed long ago, is not in the registry, and will not be mirrored again.
async fn is_obsolete_tag(
    inventory: &Inventory,
    entry: &TagEntry,
    before: DateTime<Utc>,
) -> Result<bool, Error> {
    let is_old = time_from_wire(entry.arrived_at.as_ref()).is_some_and(|at| at < before);
    // The entry of a refused attachment keeps it from being copied again.
    let is_removed = entry.digest.is_empty() && entry.claim.is_none() && entry.refused.is_empty();
    let Ok(tag) = entry.tag.parse::<Tag>() else {
        return Ok(false);
    };
    if !is_old || !is_removed {
        return Ok(false);
    }
    let Ok(repository) = entry.repository.parse::<Repository>() else {
        // The tag of a remote registry, from which it was removed.
        return Ok(true);
    };
    for upstream in inventory.upstream_tags(&repository, &tag).await? {
        // A tag that retention removed is not mirrored again for the move that only this entry has.
        if !upstream.value.deleted || !upstream.value.pending.is_empty() {
            return Ok(false);
        }
    }
    Ok(inventory.tag_digest(&repository, &tag).await?.is_none())
}

/// Says whether an upstream tag or its mirror was deleted long ago, and the repository does not have the tag.
async fn is_obsolete_upstream_tag(
    inventory: &Inventory,
    upstream: &UpstreamTag,
    before: DateTime<Utc>,
) -> Result<bool, Error> {
    let last = upstream.history.last().and_then(|last| last.at.as_ref());
    let is_old = time_from_wire(last).is_some_and(|at| at < before);
    if !is_old || !upstream.pending.is_empty() {
        return Ok(false);
    }
    let (Ok(mirror), Ok(repository), Ok(tag)) = (
        upstream.mirror.parse::<ResourceName>(),
        upstream.repository.parse::<Repository>(),
        upstream.tag.parse::<Tag>(),
    ) else {
        return Ok(false);
    };
    if !upstream.deleted && inventory.state.has_resource(Kind::Mirror, &mirror).await? {
        return Ok(false);
    }
    let entry = inventory
        .state
        .tags
        .get(&key::tag(&repository, &tag))
        .await?;
    Ok(entry.is_none() && inventory.tag_digest(&repository, &tag).await?.is_none())
}
