//! The claim on a tag: who changes it now, until when. A claim keeps every other writer out while it is live.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_domain::{Repository, Tag, now};
use sluice_events::wire::state::{Claim, TagEntry};
use sluice_events::{time_from_wire, time_to_wire};

use crate::error::Error;
use crate::images::tag_change::{PlatformSubset, Provenance};
use crate::images::tag_entry::digest_text;

/// How long a tag is claimed, unless the stage sets another time; it only has to be longer than most changes take.
pub(super) const CLAIM: Duration = Duration::from_secs(30);
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

/// Says whether the worker that changed a tag died, or is too slow to go on.
///
/// A removal by retention does not count: the pruner finds and publishes what it did not finish.
#[must_use]
pub fn has_expired_claim(entry: &TagEntry) -> bool {
    let is_retention = |claim: &Claim| claim.digest.is_empty() && entry.pruning.is_some();
    let is_other = entry
        .claim
        .as_ref()
        .is_some_and(|claim| !is_retention(claim));
    is_other && live_claim(entry).is_none()
}

/// Makes a claim that lasts this long from now, for a change to a digest; an empty one is a removal.
pub(super) fn new_claim(
    digest: String,
    holder: &str,
    provenance: &Provenance,
    lasts: Duration,
) -> Claim {
    Claim {
        digest,
        holder: holder.to_owned(),
        until: Some(time_to_wire(now() + lasts)),
        mirror: provenance.mirror.clone(),
        move_number: provenance.move_number,
        promoted_from: provenance.promotion.clone(),
        source_digest: digest_text(provenance.subset.source.as_ref()),
        platforms: provenance.subset.platforms.clone(),
    }
}

/// Returns the provenance of the change that a claim is of.
pub(super) fn claimed_provenance(claim: &Claim) -> Provenance {
    Provenance {
        by: stage_of_holder(&claim.holder).to_owned(),
        mirror: claim.mirror.clone(),
        move_number: claim.move_number,
        promotion: claim.promoted_from.clone(),
        subset: PlatformSubset {
            source: claim.source_digest.parse().ok(),
            platforms: claim.platforms.clone(),
        },
    }
}

/// Makes the name of a claim holder: one for each attempt.
pub(super) fn new_holder(by: &str) -> String {
    let simulated = sluice_domain::clock::simulated_chance();
    let id = simulated.map_or_else(uuid::Uuid::new_v4, uuid::Uuid::from_u128);
    format!("{by}/{id}")
}

/// Returns the stage of a name that [`new_holder`] made.
fn stage_of_holder(holder: &str) -> &str {
    holder.rsplit_once('/').map_or(holder, |(by, _)| by)
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
