//! What decides about a repository and its tags besides the plan.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sluice_domain::resources::{Keep, PruningPolicy};
use sluice_domain::{Repository, ResourceName, Tag};
use sluice_events::time_from_wire;
use sluice_events::wire::state::TagEntry;
use sluice_policy::condition::{Compiled, Scope};
use sluice_state::Snapshot;

use crate::prune::{Error, NAME};

/// Says without asking the registry that a tag limit holds and no removal was interrupted.
pub(crate) fn nothing_to_do(held: &BTreeMap<Tag, TagEntry>, newest: u32, occurrence: &str) -> bool {
    let there = held.values().filter(|entry| !entry.digest.is_empty());
    let interrupted = held.values().any(|entry| {
        entry
            .pruning
            .as_ref()
            .is_some_and(|pruning| !entry.digest.is_empty() || pruning.run == occurrence)
    });
    let within = newest == 0 || there.count() <= usize::try_from(newest).unwrap_or(usize::MAX);
    within && !interrupted
}

/// Says why a tag must stay whatever the rules say.
pub(crate) fn protection(entry: &TagEntry, now: DateTime<Utc>) -> Option<String> {
    let claim = entry.claim.as_ref()?;
    let live = time_from_wire(claim.until.as_ref()).is_some_and(|until| until > now);
    (live && !is_own(&claim.holder)).then(|| format!("`{}` is changing it", claim.holder))
}

/// Says whether a claim is that of some run of this stage.
pub(crate) fn is_own(holder: &str) -> bool {
    holder
        .strip_prefix(NAME)
        .is_some_and(|rest| rest.starts_with('/'))
}

pub(crate) fn keep(catalog: &Snapshot, repository: &Repository) -> Keep {
    catalog.settings(repository).keep
}

/// Only the promoter writes into targets, and what it put there stays until its policy withdraws it.
pub(crate) fn left_alone(catalog: &Snapshot, repository: &Repository) -> bool {
    let target = catalog.is_target(repository);
    if target {
        tracing::info!(image.repository = %repository, "left alone: it is a target of promotion, where only the promoter writes");
    }
    target
}

/// Returns a policy that is on, if it names the repository.
pub(crate) fn chosen<'a>(
    catalog: &'a Snapshot,
    name: &ResourceName,
    repository: &Repository,
) -> Option<&'a PruningPolicy> {
    catalog.pruning.get(name).filter(|policy| {
        policy.enabled
            && policy
                .repositories
                .iter()
                .any(|pattern| pattern.matches(repository.as_str()))
    })
}

pub(crate) fn compiled(policy: &PruningPolicy) -> Result<Compiled, Error> {
    Compiled::new(&policy.delete.0, Scope::Pruning).map_err(|problems| Error::Condition {
        policy: policy.name.clone(),
        problems: problems.join("; "),
    })
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
    fn a_limit_that_holds_asks_nobody() {
        let a = full("a");
        let two = BTreeMap::from([entry("1", &a, None), entry("2", &a, None)]);
        for (keep, nothing) in [(0, true), (1, false), (2, true), (3, true)] {
            assert_eq!(nothing_to_do(&two, keep, "now"), nothing, "{keep}");
        }
        let removed = BTreeMap::from([entry("1", &a, None), entry("2", "", Some("before"))]);
        assert!(nothing_to_do(&removed, 1, "now"));
        assert!(!nothing_to_do(&removed, 1, "before"));
        let begun = BTreeMap::from([entry("1", &a, Some("before"))]);
        assert!(!nothing_to_do(&begun, 1, "now"));
    }

    #[test]
    fn only_a_live_claim_of_somebody_else_protects() {
        let now = Utc::now();
        let claimed = |holder: &str, seconds| TagEntry {
            claim: Some(Claim {
                digest: String::new(),
                holder: holder.to_owned(),
                until: Some(time_to_wire(now + TimeDelta::seconds(seconds))),
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
