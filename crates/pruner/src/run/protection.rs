//! What keeps a repository or a tag from being pruned, whatever the rules say.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sluice_domain::{Repository, Tag};
use sluice_events::time_from_wire;
use sluice_events::wire::state::TagEntry;
use sluice_state::Snapshot;

use crate::settings::STAGE;

/// Says whether a tag limit holds and no removal was interrupted, without a request to the registry.
pub(super) fn is_within_limit(
    entries: &BTreeMap<Tag, TagEntry>,
    newest: u32,
    occurrence: &str,
) -> bool {
    let tags = entries.values().filter(|entry| !entry.digest.is_empty());
    let is_interrupted = entries.values().any(|entry| {
        entry
            .pruning
            .as_ref()
            .is_some_and(|pruning| !entry.digest.is_empty() || pruning.run == occurrence)
    });
    let is_within = newest == 0 || tags.count() <= usize::try_from(newest).unwrap_or(usize::MAX);
    is_within && !is_interrupted
}

/// Returns why a tag must stay whatever the rules say.
pub(super) fn protection(entry: &TagEntry, now: DateTime<Utc>) -> Option<String> {
    let claim = entry.claim.as_ref()?;
    let is_live = time_from_wire(claim.until.as_ref()).is_some_and(|until| until > now);
    (is_live && !is_own(&claim.holder)).then(|| format!("`{}` is changing it", claim.holder))
}

/// Says whether a claim is held by a run of this stage.
pub(super) fn is_own(holder: &str) -> bool {
    holder
        .strip_prefix(STAGE)
        .is_some_and(|rest| rest.starts_with('/'))
}

/// Says whether a repository is a promotion target, which only the promoter changes.
pub(crate) fn is_promotion_target(catalog: &Snapshot, repository: &Repository) -> bool {
    let is_target = catalog.is_target(repository);
    if is_target {
        tracing::info!(image.repository = %repository, "not pruned: the repository is a promotion target");
    }
    is_target
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use sluice_events::time_to_wire;
    use sluice_events::wire::state::{Claim, Pruning};

    use super::*;

    fn entry(tag: &str, digest: &str, run: Option<&str>) -> (Tag, TagEntry) {
        let entry = TagEntry {
            digest: digest.to_owned(),
            pruning: run.map(|run| Pruning {
                run: run.to_owned(),
                digest: full("a"),
                reason: "too many".to_owned(),
            }),
            ..Default::default()
        };
        (tag.parse().unwrap(), entry)
    }

    fn full(fill: &str) -> String {
        format!("sha256:{}", fill.repeat(64))
    }

    #[test]
    fn a_limit_that_holds_needs_no_request() {
        let a = full("a");
        let two = BTreeMap::from([entry("1", &a, None), entry("2", &a, None)]);
        for (keep, is_within) in [(0, true), (1, false), (2, true), (3, true)] {
            assert_eq!(is_within_limit(&two, keep, "now"), is_within, "{keep}");
        }
        let removed = BTreeMap::from([entry("1", &a, None), entry("2", "", Some("before"))]);
        assert!(is_within_limit(&removed, 1, "now"));
        assert!(!is_within_limit(&removed, 1, "before"));
        let begun = BTreeMap::from([entry("1", &a, Some("before"))]);
        assert!(!is_within_limit(&begun, 1, "now"));
    }

    #[test]
    fn only_a_live_claim_of_another_stage_protects() {
        let now = Utc::now();
        let claimed = |holder: &str, seconds| TagEntry {
            claim: Some(Claim {
                digest: String::new(),
                holder: holder.to_owned(),
                until: Some(time_to_wire(now + TimeDelta::seconds(seconds))),
                ..Default::default()
            }),
            ..Default::default()
        };
        for (entry, protected) in [
            (claimed("mirror-worker/1", 5), true),
            (claimed("pruner-of-others/1", 5), true),
            (claimed("mirror-worker/1", -5), false),
            (claimed("pruner/1", 5), false),
            (TagEntry::default(), false),
        ] {
            assert_eq!(protection(&entry, now).is_some(), protected, "{entry:?}");
        }
    }
}
