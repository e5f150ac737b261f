//! The entry of a tag: its claim, its digest, and where that came from.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_domain::{Digest, Repository, Tag, now};
use sluice_events::wire::state::{Claim, TagEntry};
use sluice_events::{time_from_wire, time_to_wire};

use crate::error::Error;
use crate::images::tag_change::{PlatformSubset, Provenance, TagChange};

/// When a claim of another holder is checked again; most end within milliseconds.
const CLAIM_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The longest valid claim; a longer one is ignored, so that none blocks a withdrawal for ever.
const MAX_CLAIM: TimeDelta = TimeDelta::hours(1);

/// Returns the claim of whoever changes a tag now, with its end.
#[must_use]
pub fn live_claim(entry: &TagEntry) -> Option<(&Claim, DateTime<Utc>)> {
    let claim = entry.claim.as_ref()?;
    let until = time_from_wire(claim.until.as_ref())?;
    let now = now();
    (now < until && until - now <= MAX_CLAIM).then_some((claim, until))
}

/// Returns the upstream digest of what a tag names; it differs from the tag's digest if only some platforms were
/// mirrored.
#[must_use]
pub fn source_of(entry: &TagEntry) -> &str {
    if entry.source_digest.is_empty() {
        &entry.digest
    } else {
        &entry.source_digest
    }
}

/// Makes the name of a claim holder: one for each attempt.
pub(super) fn new_holder(by: &str) -> String {
    let simulated = sluice_domain::clock::simulated_chance();
    let id = simulated.map_or_else(uuid::Uuid::new_v4, uuid::Uuid::from_u128);
    format!("{by}/{id}")
}

/// Writes a digest as entries store it: empty for none.
pub(super) fn digest_text(digest: Option<&Digest>) -> String {
    digest.map(ToString::to_string).unwrap_or_default()
}

/// Fails while another holder has a live claim on the tag.
pub(super) fn ensure_unclaimed(
    repository: &Repository,
    tag: &Tag,
    entry: &TagEntry,
    holder: &str,
) -> Result<(), Error> {
    match live_claim(entry) {
        Some((claim, until)) if claim.holder != holder => Err(Error::Claimed {
            tag: format!("{repository}:{tag}"),
            holder: claim.holder.clone(),
            until: until.min(now() + CLAIM_CHECK_INTERVAL),
        }),
        _ => Ok(()),
    }
}

/// Says whether an entry has the upstream digest and the platform filter of a change.
pub(super) fn has_platform_subset<T>(entry: &TagEntry, change: &TagChange<'_, T>) -> bool {
    let subset = &change.provenance.subset;
    let source = digest_text(subset.source.as_ref());
    change.wanted.is_none()
        || (entry.source_digest == source && entry.platforms == subset.platforms)
}

/// Records in an entry that the tag names a digest now, and ends the claim.
pub(super) fn record_digest(
    entry: &mut TagEntry,
    provenance: &Provenance,
    digest: Option<&Digest>,
    at: DateTime<Utc>,
) {
    let Provenance {
        by,
        mirror,
        move_number,
        promotion,
        subset,
    } = provenance.clone();
    let subset = digest.map_or_else(PlatformSubset::default, |_| subset);
    entry.source_digest = digest_text(subset.source.as_ref());
    entry.platforms = subset.platforms;
    entry.claim = None;
    entry.refused.clear();
    entry.pruning = entry.pruning.take().filter(|_| digest.is_none());
    entry.pruned = entry.pruning.is_some();
    let before = std::mem::replace(&mut entry.digest, digest_text(digest));
    entry.previous = if before == entry.digest {
        String::new()
    } else {
        before
    };
    entry.arrived_at = Some(time_to_wire(at));
    entry.arrived_by = by;
    entry.mirror = mirror;
    entry.move_number = move_number;
    entry.promoted_from = promotion;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_or_endless_claim_is_not_live() {
        for (seconds, is_live) in [(-1, false), (30, true), (3_600, true), (90_000, false)] {
            let entry = TagEntry {
                claim: Some(Claim {
                    until: Some(time_to_wire(now() + TimeDelta::seconds(seconds))),
                    ..Default::default()
                }),
                ..Default::default()
            };
            assert_eq!(live_claim(&entry).is_some(), is_live, "{seconds}");
        }
    }
}
