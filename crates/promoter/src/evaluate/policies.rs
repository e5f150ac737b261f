//! Promotion policies with their revisions, read from the state for every evaluation, and whether a stored decision of them
//! is still valid.
//!
//! A catalogue that follows a watch may be a moment behind on one replica; a decision made with a deleted policy would
//! then stay until the next reconciliation.

use std::collections::{BTreeMap, BTreeSet};

use sluice_domain::resources::{Kind, PromotionPolicy, Recall, Resource};
use sluice_domain::{Repository, ResourceName};
use sluice_events::subject;
use sluice_events::wire::state::{Decision, DecisionOutcome, TagEntry};
use sluice_state::{Error, State, key};

use super::subject::Subject;

/// A policy as it is applied now.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) spec: PromotionPolicy,
    pub(crate) revision: u64,
}

impl Policy {
    /// Says whether it decides on images of a repository.
    pub(crate) fn decides_on(&self, repository: &Repository) -> bool {
        self.spec.enabled && self.spec.from.matches(repository.as_str())
    }

    /// Says whether it promoted this tag itself: with a wide `from` it would promote its own results for ever.
    pub(crate) fn has_promoted(&self, entry: &TagEntry) -> bool {
        entry
            .promoted_from
            .as_ref()
            .is_some_and(|from| from.policy == self.spec.name.as_str())
    }

    /// Says whether its condition depends on the time, so that what it allowed has to be evaluated as time passes.
    pub(crate) fn depends_on_time(&self) -> bool {
        sluice_policy::promotion::depends_on_time(&self.spec)
    }
}

/// Whether a stored decision is valid by the policies that exist now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Validity {
    /// Its policy is the one that decided.
    Current,
    /// Its policy was changed since, and has this revision; the image has to be evaluated again.
    Outdated(u64),
    /// No policy decides on this image any more.
    Ended {
        /// Why, in words for people.
        reason: String,
        /// What becomes of what was promoted.
        recall: Recall,
    },
    /// Its policy was applied by a newer version, so the decision stays as it is.
    Unreadable,
}

/// The promotion policies as they are now.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    enabled: Vec<Policy>,
    disabled: BTreeSet<String>,
    unreadable: BTreeMap<String, u64>,
}

impl Policies {
    /// Returns the enabled policies.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.enabled.iter()
    }

    fn named(&self, name: &str) -> Option<&Policy> {
        self.iter().find(|policy| policy.spec.name.as_str() == name)
    }

    /// Returns the policies that decide on an image under a tag.
    pub(crate) fn deciding_on<'a>(&'a self, subject: &Subject) -> impl Iterator<Item = &'a Policy> {
        self.iter().filter(|policy| {
            let is_own = |entry| policy.has_promoted(entry);
            policy.decides_on(&subject.repository) && !subject.current.as_ref().is_some_and(is_own)
        })
    }

    /// Says whether a decision is valid now.
    ///
    /// Images of a policy that was deleted or disabled are flagged, whatever its `recall` was: such a change is easily
    /// made by mistake, or to promote nothing for a while, and must not empty a target. For a policy that is still
    /// enabled and leads elsewhere its own `recall` counts.
    pub(crate) fn validity(&self, decision: &Decision) -> Validity {
        let name = &decision.policy;
        if self.unreadable.contains_key(name) {
            return Validity::Unreadable;
        }
        let Some(policy) = self.named(name) else {
            let what = if self.disabled.contains(name) {
                "is disabled"
            } else {
                "was deleted"
            };
            return Validity::Ended {
                reason: format!("policy `{name}` {what}"),
                recall: Recall::Flag,
            };
        };
        let from = decision.repository.parse::<Repository>();
        if !from.is_ok_and(|repository| policy.decides_on(&repository)) {
            return Validity::Ended {
                reason: format!(
                    "policy `{name}` takes images from `{}`, no longer from {}",
                    policy.spec.from, decision.repository
                ),
                recall: policy.spec.recall,
            };
        }
        if policy.revision == decision.policy_revision {
            Validity::Current
        } else {
            Validity::Outdated(policy.revision)
        }
    }

    /// Says whether a decision allows its image now: the policy that allowed it is the one that is applied.
    pub(crate) fn allows(&self, decision: &Decision) -> bool {
        let is_made = || self.unreadable.get(&decision.policy) == Some(&decision.policy_revision);
        decision.outcome() == DecisionOutcome::Allow
            && decision.promoted_at.is_some()
            && (self.validity(decision) == Validity::Current || is_made())
    }

    /// Says whether the policy of this name may decide otherwise as time passes.
    pub(crate) fn depends_on_time(&self, name: &str) -> bool {
        self.named(name).is_some_and(Policy::depends_on_time)
    }

    /// Returns what becomes of an image that its policy promoted and does not allow any more.
    pub(crate) fn recall(&self, decision: &Decision) -> Recall {
        match self.validity(decision) {
            Validity::Ended { recall, .. } => recall,
            Validity::Unreadable => Recall::Ignore,
            Validity::Current | Validity::Outdated(_) => {
                let policy = self.named(&decision.policy);
                policy.map_or(Recall::Flag, |policy| policy.spec.recall)
            }
        }
    }
}

/// Reads the policies.
pub(crate) async fn read(state: &State) -> Result<Policies, Error> {
    let filter = format!("{}.*", subject::encode(Kind::PromotionPolicy.as_str()));
    let mut policies = Policies::default();
    for entry in state.resources.list(&filter).await? {
        match Resource::from_json(Kind::PromotionPolicy, &entry.value.json) {
            Ok(Resource::PromotionPolicy(spec)) if spec.enabled => policies.enabled.push(Policy {
                spec,
                revision: entry.revision,
            }),
            Ok(_) => drop(policies.disabled.insert(entry.value.name)),
            // It was applied by a newer version; a policy that cannot be read promotes nothing.
            Err(error) => {
                tracing::error!(policy = entry.value.name, %error, "a policy cannot be read; update this service");
                let revision = entry.revision;
                policies.unreadable.insert(entry.value.name, revision);
            }
        }
    }
    Ok(policies)
}

/// Says whether the policy of a decision is still the one that made it, as the state is now.
pub(crate) async fn is_unchanged(state: &State, decision: &Decision) -> Result<bool, Error> {
    let Ok(name) = decision.policy.parse::<ResourceName>() else {
        return Ok(false);
    };
    let key = key::resource(Kind::PromotionPolicy.as_str(), &name);
    let applied = state.resources.get(&key).await?;
    Ok(applied.is_some_and(|applied| applied.revision == decision.policy_revision))
}

#[cfg(test)]
mod tests {
    use sluice_domain::resources::parse_documents;
    use sluice_events::time_to_wire;

    use super::*;

    fn policies(text: &str, revision: u64) -> Policies {
        let mut policies = Policies::default();
        for document in parse_documents(text).unwrap() {
            match document.resource {
                Resource::PromotionPolicy(spec) if spec.enabled => {
                    policies.enabled.push(Policy { spec, revision });
                }
                other => drop(policies.disabled.insert(other.name().to_string())),
            }
        }
        policies
    }

    #[test]
    fn a_decision_is_valid_only_while_its_policy_is_enabled_unchanged_and_takes_from_there() {
        let text = "kind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: official/{name}\nrecall: withdraw\n";
        let decision = Decision {
            policy: "clean".to_owned(),
            repository: "hub/app".to_owned(),
            outcome: DecisionOutcome::Allow.into(),
            promoted_at: Some(time_to_wire(sluice_domain::now())),
            policy_revision: 7,
            ..Default::default()
        };
        for (text, revision, allows, recall) in [
            (text.to_owned(), 7, true, Recall::Withdraw),
            (text.to_owned(), 8, false, Recall::Withdraw),
            (text.replace("hub/*", "other/*"), 8, false, Recall::Withdraw),
            (format!("{text}enabled: false\n"), 8, false, Recall::Flag),
            (text.replace("clean", "renamed"), 8, false, Recall::Flag),
            (text.replace("withdraw", "ignore"), 8, false, Recall::Ignore),
        ] {
            let policies = policies(&text, revision);
            assert_eq!(policies.allows(&decision), allows, "{text}");
            assert_eq!(policies.recall(&decision), recall, "{text}");
        }
        let unreadable = |revision| Policies {
            unreadable: BTreeMap::from([("clean".to_owned(), revision)]),
            ..Policies::default()
        };
        assert!(unreadable(7).allows(&decision) && !unreadable(8).allows(&decision));
        assert_eq!(unreadable(8).validity(&decision), Validity::Unreadable);
    }
}
