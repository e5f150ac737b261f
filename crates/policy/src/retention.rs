//! Plans which tags of a repository are deleted: by a pruning policy's condition, then by the repository's tag limit.
//!
//! Only tags are planned here, never manifests. Planning again after the plan was carried out gives an empty plan.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sluice_domain::resources::{Keep, KeepOrder};
use sluice_domain::{Digest, Repository, ResourceName, ScanFacts, Tag};

use crate::condition::{CompiledCondition, ConditionOutcome, ConditionResult, Facts, ImageFacts};
use crate::tags::tag_age::{TagAge, newest_first};

/// The rules for one repository.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// How many tags it may hold, and which; 0 for any number.
    pub keep: Keep,
    /// The pruning policy of this run, with its compiled condition.
    pub policy: Option<(&'a ResourceName, &'a CompiledCondition)>,
    /// The time of the plan.
    pub now: DateTime<Utc>,
}

/// A tag that the repository holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagFacts {
    /// The tag.
    pub tag: Tag,
    /// The digest that it names.
    pub digest: Digest,
    /// When it came to name this digest here; `updated_at` in conditions.
    pub arrived_at: DateTime<Utc>,
    /// When the digest was last pulled from this repository, if that is known.
    pub pulled_at: Option<DateTime<Utc>>,
    /// Why it must stay whatever the rules say.
    pub protected: Option<String>,
    /// What the scanner found, over all platforms.
    pub scan: Option<ScanFacts>,
    /// What the image says of itself.
    pub image: ImageFacts,
}

/// The tags to delete and the tags that stay, each with its reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The tags to delete, the oldest first.
    pub delete: Vec<PlannedDeletion>,
    /// The tags that stay, the newest first.
    pub kept: Vec<KeptTag>,
}

/// A tag that is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDeletion {
    /// The tag.
    pub tag: Tag,
    /// The digest that it named when the plan was made.
    pub digest: Digest,
    /// The rule and the values that decided.
    pub reason: String,
}

/// A tag that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptTag {
    /// The tag.
    pub tag: Tag,
    /// Why it stays.
    pub reason: String,
}

/// Plans the deletions of one repository. Protected tags stay, and count in the tag limit like any other.
#[must_use]
pub fn plan(rules: &Rules<'_>, tags: &[TagFacts]) -> Plan {
    let mut plan = Plan::default();
    let mut seen = BTreeSet::new();
    let tags = tags.iter().filter(|facts| seen.insert(&facts.tag));
    // Only tags that stay count in the limit, or a second plan would find room that the first one made.
    let (mut deleted, mut others) = (Vec::new(), Vec::new());
    for facts in tags {
        match (&facts.protected, evaluate(rules, facts)) {
            (Some(protection), _) => others.push((facts, protection.clone())),
            (None, Ok(reason)) => deleted.push((facts, reason)),
            (None, Err(reason)) => others.push((facts, reason)),
        }
    }
    let limit = match rules.keep.newest {
        0 => usize::MAX,
        keep => usize::try_from(keep).unwrap_or(usize::MAX),
    };
    // Without the deleted tags, a protected tag may have another rank, and push out one more.
    loop {
        sort_newest_first(&mut others, rules.keep.by);
        let (mut kept, before) = (Vec::new(), plan.delete.len());
        for (facts, reason) in others {
            if facts.protected.is_none() && kept.len() >= limit {
                plan.delete.push(deletion(facts, over_limit(rules.keep)));
            } else {
                kept.push((facts, reason));
            }
        }
        others = kept;
        if plan.delete.len() == before {
            break;
        }
    }
    plan.kept = others
        .into_iter()
        .map(|(facts, reason)| KeptTag {
            tag: facts.tag.clone(),
            reason,
        })
        .collect();
    sort_newest_first(&mut deleted, KeepOrder::Pushed);
    let deleted = deleted
        .into_iter()
        .map(|(facts, reason)| deletion(facts, reason));
    plan.delete.extend(deleted);
    plan.delete.reverse();
    plan
}

fn deletion(facts: &TagFacts, reason: String) -> PlannedDeletion {
    PlannedDeletion {
        tag: facts.tag.clone(),
        digest: facts.digest.clone(),
        reason,
    }
}

fn over_limit(keep: Keep) -> String {
    let newer = match keep.by {
        KeepOrder::Version => "are newer by version or arrival",
        KeepOrder::Pushed => "arrived later",
        KeepOrder::Pulled => "were pulled or arrived later",
    };
    let tags = if keep.newest == 1 { "tag" } else { "tags" };
    format!(
        "the repository keeps {} {tags}, and as many {newer}",
        keep.newest
    )
}

/// Sorts tags from the newest to the oldest.
///
/// By version, a tag counts as arrived no later than any of a higher version, and a date no later than any later date:
/// they are in their own order, in whatever order a mirror copied them, and among other tags where they arrived.
fn sort_newest_first(tags: &mut Vec<(&TagFacts, String)>, by: KeepOrder) {
    let mut aged: Vec<_> = tags
        .drain(..)
        .map(|(facts, reason)| (TagAge::of(&facts.tag), facts, reason))
        .collect();
    aged.sort_by(|(a_age, a, _), (b_age, b, _)| newest_first((a_age, &a.tag), (b_age, &b.tag)));
    let (mut of_versions, mut of_dates) = (None, None);
    let mut placed: Vec<_> = aged
        .into_iter()
        .map(|(age, facts, reason)| {
            let earliest = match (by, age) {
                (KeepOrder::Pushed | KeepOrder::Pulled, _) | (_, TagAge::Unknown) => &mut None,
                (KeepOrder::Version, TagAge::Version(_)) => &mut of_versions,
                (KeepOrder::Version, TagAge::Date(_)) => &mut of_dates,
            };
            let own = match by {
                KeepOrder::Pulled => facts.pulled_at.max(Some(facts.arrived_at)),
                KeepOrder::Version | KeepOrder::Pushed => Some(facts.arrived_at),
            };
            *earliest = [own, *earliest].into_iter().flatten().min();
            (*earliest, facts, reason)
        })
        .collect();
    // Tags that arrived at the same time stay in the order of their names.
    placed.sort_by_key(|(at, ..)| Reverse(*at));
    tags.extend(placed.into_iter().map(|(_, facts, reason)| (facts, reason)));
}

/// Evaluates the condition of the policy: `Ok` says why to delete, `Err` why to keep.
fn evaluate(rules: &Rules<'_>, facts: &TagFacts) -> Result<String, String> {
    let Some((policy, condition)) = rules.policy else {
        return Err("within the tag limit".to_owned());
    };
    let result = condition.evaluate(&Facts {
        tag: facts.tag.as_str(),
        repository: rules.repository.as_str(),
        platform: None,
        scan: facts.scan.as_ref(),
        image: &facts.image,
        updated_at: Some(facts.arrived_at),
        now: rules.now,
    });
    match &result.outcome {
        ConditionOutcome::True => Ok(format!(
            "policy `{policy}`: `{}` with {}",
            condition.text(),
            values(&result)
        )),
        ConditionOutcome::False => Err(format!(
            "policy `{policy}` does not delete it: {}",
            values(&result)
        )),
        ConditionOutcome::Undetermined(reason) => Err(format!(
            "policy `{policy}` is undetermined, so it stays: {reason}"
        )),
    }
}

fn values(result: &ConditionResult) -> String {
    let mut values: Vec<&str> = Vec::new();
    for value in result.terms.iter().flat_map(|term| &term.values) {
        if !values.contains(&value.as_str()) {
            values.push(value);
        }
    }
    if values.is_empty() {
        return "no values".to_owned();
    }
    values.join(", ")
}

#[cfg(test)]
mod tests;
