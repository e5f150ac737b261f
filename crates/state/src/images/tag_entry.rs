//! The entry of a tag: its digest, and where that came from.

use chrono::{DateTime, Utc};
use sluice_domain::Digest;
use sluice_events::time_to_wire;
use sluice_events::wire::state::TagEntry;

use crate::images::tag_change::{PlatformSubset, Provenance, TagChange};

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

/// Writes a digest as entries store it: empty for none.
pub(super) fn digest_text(digest: Option<&Digest>) -> String {
    digest.map(ToString::to_string).unwrap_or_default()
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
