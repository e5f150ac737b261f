//! Finds the tags that a trigger is about.

use std::collections::BTreeSet;

use sluice_domain::{Digest, Repository, Tag};
use sluice_events::commands::JudgeImage;
use sluice_events::wire::state::{Decision, DecisionOutcome, TagEntry};
use sluice_state::{Entry, State, key};

use super::decision::{is_in_any_target, key_of_holder};
use super::policies::Policies;
use super::subject::Subject;
use crate::error::Error;

/// Finds the tags that a trigger is about.
pub(crate) struct SubjectFinder<'a> {
    pub(crate) state: &'a State,
}

impl SubjectFinder<'_> {
    /// Returns the tags of a repository that name a digest, and those from which it was promoted.
    pub(crate) async fn of_scan(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Subject>, Error> {
        let filter = key::tags_of(repository);
        let named = self.state.tags.collect(&filter, |entry| {
            let tag = entry.value.tag.parse::<Tag>().ok()?;
            // The tag of an attachment is no subject, even where it names an image.
            let is_named = entry.value.digest == digest.as_str() && tag.attached_to().is_none();
            is_named.then(|| Subject {
                repository: repository.clone(),
                tag,
                digest: digest.clone(),
                current: Some(entry.value),
            })
        });
        let mut subjects: Vec<Subject> = named.await?.into_values().collect();
        let filter = key::decisions_about(digest);
        for decision in decisions_of_chain(self.state.decisions.list(&filter).await?, repository) {
            let (Ok(from), Ok(tag)) = (decision.repository.parse(), decision.tag.parse()) else {
                continue;
            };
            let is_same = |subject: &Subject| subject.repository == from && subject.tag == tag;
            if !subjects.iter().any(is_same) {
                subjects.push(self.subject(from, tag, digest.clone()).await?);
            }
        }
        Ok(subjects)
    }

    /// Adds the tags from which an image was promoted into a target where it is not allowed now.
    ///
    /// What becomes of it depends on all decisions on it, and a decision of a policy that was changed since is not valid;
    /// so all of them are evaluated together.
    pub(crate) async fn add_unsettled_subjects(
        &self,
        policies: &Policies,
        digest: &Digest,
        mut subjects: Vec<Subject>,
    ) -> Result<Vec<Subject>, Error> {
        let about = key::decisions_about(digest);
        for entry in self.state.decisions.list(&about).await? {
            let decision = entry.value;
            let is_settled = policies.allows(&decision) && decision.former_targets.is_empty();
            let (Ok(repository), Ok(tag)) =
                (decision.repository.parse(), decision.tag.parse::<Tag>())
            else {
                continue;
            };
            let is_known = subjects
                .iter()
                .any(|subject| subject.repository == repository && subject.tag == tag);
            if is_in_any_target(&decision) && !is_settled && !is_known {
                subjects.push(self.subject(repository, tag, digest.clone()).await?);
            }
        }
        Ok(subjects)
    }

    /// Returns the one tag of a command; none if it names another digest now and nothing was decided on this one.
    pub(crate) async fn of_command(&self, command: &JudgeImage) -> Result<Vec<Subject>, Error> {
        let JudgeImage {
            repository,
            tag,
            digest,
        } = command.clone();
        if tag.attached_to().is_some() {
            return Ok(Vec::new());
        }
        let subject = self.subject(repository, tag, digest).await?;
        if subject.current.is_some() {
            return Ok(vec![subject]);
        }
        let filter = key::decisions_on(&subject.repository, &subject.tag);
        let decisions = self.state.decisions.list(&filter).await?;
        let decided = decisions
            .iter()
            .any(|entry| entry.value.digest == subject.digest.as_str());
        Ok(decided.then_some(subject).into_iter().collect())
    }

    /// Clears the promotion in a tag's entry that no decision made: other services write entries too, and no policy
    /// decides on what it promoted itself.
    pub(crate) async fn clear_forged_promotion(&self, entry: &mut TagEntry) -> Result<(), Error> {
        if entry.promoted_from.is_none() {
            return Ok(());
        }
        let decision = match key_of_holder(entry) {
            Some(key) => self.state.decisions.get(&key).await?,
            None => None,
        };
        let is_made = decision.is_some_and(|decision| decision.value.target == entry.repository);
        if !is_made {
            entry.promoted_from = None;
        }
        Ok(())
    }

    async fn subject(
        &self,
        repository: Repository,
        tag: Tag,
        digest: Digest,
    ) -> Result<Subject, Error> {
        let entry = self.state.tags.get(&key::tag(&repository, &tag)).await?;
        let current = entry
            .map(|entry| entry.value)
            .filter(|entry| entry.digest == digest.as_str());
        Ok(Subject {
            repository,
            tag,
            digest,
            current,
        })
    }
}

/// Returns the decisions by which an image that was scanned in a repository may be in any target.
///
/// Those are the ones that promoted it into this repository or from here into another, and from there into the next: a
/// new verdict on an image concerns each target of a chain of policies. A refused image may be there too, if it was being
/// copied when it was refused.
fn decisions_of_chain(decisions: Vec<Entry<Decision>>, repository: &Repository) -> Vec<Decision> {
    let mut repositories = BTreeSet::from([repository.to_string()]);
    let mut open: Vec<Decision> = decisions
        .into_iter()
        .map(|entry| entry.value)
        .filter(|decision| {
            is_in_any_target(decision) || decision.outcome() == DecisionOutcome::Deny
        })
        .collect();
    let mut found = Vec::new();
    loop {
        let is_here = |decision: &mut Decision| {
            let former = decision.former_targets.iter();
            let mut targets = former
                .map(|former| &former.target)
                .chain([&decision.target]);
            repositories.contains(&decision.repository)
                || targets.any(|target| target == repository.as_str())
        };
        let here: Vec<Decision> = open.extract_if(.., is_here).collect();
        if here.is_empty() {
            return found;
        }
        repositories.extend(here.iter().map(|decision| decision.target.clone()));
        found.extend(here);
    }
}

#[cfg(test)]
mod tests {
    use sluice_events::time_to_wire;
    use sluice_events::wire::state::Decision;

    use super::*;

    #[test]
    fn a_scan_concerns_every_target_of_a_chain_and_no_other() {
        let promoted = |policy: &str, from: &str, target: &str| {
            let value = Decision {
                policy: policy.to_owned(),
                repository: from.to_owned(),
                target: target.to_owned(),
                outcome: DecisionOutcome::Allow.into(),
                promoted_at: Some(time_to_wire(sluice_domain::now())),
                ..Default::default()
            };
            Entry {
                key: policy.to_owned(),
                value,
                revision: 1,
            }
        };
        let mut waits = promoted("waits", "hub/app", "later/app");
        waits.value.outcome = DecisionOutcome::Wait.into();
        waits.value.promoted_at = None;
        let decisions = || {
            vec![
                promoted("partners", "official/app", "//registry.example/team/app"),
                promoted("first", "hub/app", "official/app"),
                promoted("elsewhere", "hub/other", "official/other"),
                promoted("back", "further/app", "hub/app"),
                waits.clone(),
            ]
        };
        for (scanned, expected) in [
            ("hub/app", vec!["back", "first", "partners"]),
            ("official/app", vec!["first", "partners"]),
            ("hub/other", vec!["elsewhere"]),
            ("nowhere", vec![]),
        ] {
            let found = decisions_of_chain(decisions(), &scanned.parse().unwrap());
            let mut names: Vec<_> = found.iter().map(|d| d.policy.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, expected, "{scanned}");
        }
    }
}
