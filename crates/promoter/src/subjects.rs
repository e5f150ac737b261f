//! Which tags a trigger is about.

use std::collections::BTreeSet;

use sluice_domain::{Digest, Repository, Tag};
use sluice_events::commands::JudgeImage;
use sluice_events::wire::state::{Decision, DecisionOutcome};
use sluice_state::{Entry, key};

use crate::decide::stands;
use crate::facts::Subject;
use crate::handler::{Error, Promoter};
use crate::policies::Policies;

impl Promoter {
    /// Returns the tags of a repository that name a digest, and those that brought it into a target.
    pub(crate) async fn scanned(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Subject>, Error> {
        let filter = key::tags_of(repository);
        let named = self.state.tags.collect(&filter, |entry| {
            let tag = entry.value.tag.parse::<Tag>().ok()?;
            // What is attached to an image is none, even where it is the same as one.
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
        for decision in on_the_way(self.state.decisions.list(&filter).await?, repository) {
            let (Ok(from), Ok(tag)) = (decision.repository.parse(), decision.tag.parse()) else {
                continue;
            };
            let known = |subject: &Subject| subject.repository == from && subject.tag == tag;
            if !subjects.iter().any(known) {
                subjects.push(self.subject(from, tag, digest.clone()).await?);
            }
        }
        Ok(subjects)
    }

    /// Adds the tags by which an image stands in a target without being allowed there now.
    ///
    /// What becomes of it depends on all decisions on it, and one that its policy has not made since it was changed says
    /// nothing; so they are looked at together.
    pub(crate) async fn with_unsettled(
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
            if stands(&decision) && !is_settled && !is_known {
                subjects.push(self.subject(repository, tag, digest.clone()).await?);
            }
        }
        Ok(subjects)
    }

    /// Returns the one tag of a command; nothing if it names another digest now and nothing was decided on this one.
    pub(crate) async fn asked(&self, command: &JudgeImage) -> Result<Vec<Subject>, Error> {
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

/// Returns the decisions by which an image that was scanned in a repository may stand anywhere.
///
/// Those are the ones that brought it into this repository or from here into another, and from there into the next: what
/// is known of an image now concerns each target of a chain of policies. Of one that was refused, something may be left
/// that was on its way when it was refused.
fn on_the_way(decisions: Vec<Entry<Decision>>, repository: &Repository) -> Vec<Decision> {
    let mut places = BTreeSet::from([repository.to_string()]);
    let mut open: Vec<Decision> = decisions
        .into_iter()
        .map(|entry| entry.value)
        .filter(|decision| stands(decision) || decision.outcome() == DecisionOutcome::Deny)
        .collect();
    let mut found = Vec::new();
    loop {
        let is_here = |decision: &mut Decision| {
            let former = decision.former_targets.iter();
            let mut targets = former
                .map(|former| &former.target)
                .chain([&decision.target]);
            places.contains(&decision.repository)
                || targets.any(|target| target == repository.as_str())
        };
        let here: Vec<Decision> = open.extract_if(.., is_here).collect();
        if here.is_empty() {
            return found;
        }
        places.extend(here.iter().map(|decision| decision.target.clone()));
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
            let found = on_the_way(decisions(), &scanned.parse().unwrap());
            let mut names: Vec<_> = found.iter().map(|d| d.policy.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, expected, "{scanned}");
        }
    }
}
