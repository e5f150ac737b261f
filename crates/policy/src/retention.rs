//! Plans which tags of a repository are deleted: by a pruning policy's condition, then by the repository's tag limit.
//!
//! Only tags are planned here; what their digests still reach is the pruner's to find out. Planning again after the
//! plan was carried out gives an empty plan.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, Repository, ResourceName, Tag};

use crate::condition::{Compiled, Facts, ImageFacts, Outcome, ScanFacts, Truth};

/// What decides in one repository.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// How many tags it may hold, newest arrival first; 0 for any number.
    pub keep: u32,
    /// The pruning policy whose turn it is, with its compiled condition.
    pub policy: Option<(&'a ResourceName, &'a Compiled)>,
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
    /// Why it must stay whatever the rules say.
    pub protected: Option<String>,
    /// What the scanner found, over all platforms.
    pub scan: Option<ScanFacts>,
    /// What the image says of itself.
    pub image: ImageFacts,
}

/// What is to be deleted and what stays, each with its reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The tags to delete, in the order in which they arrived.
    pub delete: Vec<PlannedDeletion>,
    /// The tags that stay, newest arrival first.
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
    let mut newest_first: Vec<&TagFacts> = tags.iter().collect();
    newest_first.sort_by_key(|facts| Reverse((facts.arrived_at, &facts.tag)));
    let mut seen = BTreeSet::new();
    newest_first.retain(|facts| seen.insert(&facts.tag));
    let limit = match rules.keep {
        0 => usize::MAX,
        keep => usize::try_from(keep).unwrap_or(usize::MAX),
    };
    for facts in newest_first {
        // Only tags that stay take a place in the limit, or a second plan would find places that the first had freed.
        let doomed = match (&facts.protected, judged(rules, facts)) {
            (Some(protection), _) => Err(protection.clone()),
            (None, Ok(reason)) => Ok(reason),
            (None, Err(_)) if plan.kept.len() >= limit => Ok(format!(
                "the repository keeps {} tags, and as many arrived later",
                rules.keep
            )),
            (None, Err(reason)) => Err(reason),
        };
        match doomed {
            Ok(reason) => plan.delete.push(PlannedDeletion {
                tag: facts.tag.clone(),
                digest: facts.digest.clone(),
                reason,
            }),
            Err(reason) => plan.kept.push(KeptTag {
                tag: facts.tag.clone(),
                reason,
            }),
        }
    }
    plan.delete.reverse();
    plan
}

/// Asks the condition: `Ok` says why to delete, `Err` why to keep.
fn judged(rules: &Rules<'_>, facts: &TagFacts) -> Result<String, String> {
    let Some((policy, condition)) = rules.policy else {
        return Err("within the tag limit".to_owned());
    };
    let outcome = condition.evaluate(&Facts {
        tag: facts.tag.as_str(),
        repository: rules.repository.as_str(),
        platform: None,
        scan: facts.scan.as_ref(),
        image: &facts.image,
        updated_at: Some(facts.arrived_at),
        now: rules.now,
    });
    match &outcome.truth {
        Truth::True => Ok(format!(
            "policy `{policy}`: `{}` with {}",
            condition.text(),
            values(&outcome)
        )),
        Truth::False => Err(format!(
            "policy `{policy}` does not ask for it: {}",
            values(&outcome)
        )),
        Truth::Undetermined(reason) => Err(format!(
            "policy `{policy}` cannot tell, so it stays: {reason}"
        )),
    }
}

fn values(outcome: &Outcome) -> String {
    let mut values: Vec<&str> = Vec::new();
    for value in outcome.terms.iter().flat_map(|term| &term.values) {
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
