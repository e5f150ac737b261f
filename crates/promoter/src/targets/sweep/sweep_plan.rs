//! What a sweep deletes: the manifests of an image, without those that other images of the target need.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use sluice_domain::resources::Recall;
use sluice_domain::{Digest, Repository, Tag};
use sluice_events::wire::state::{Decision, TagEntry};
use sluice_state::{Entry, key, live_claim};

use crate::error::Error;
use crate::evaluate::decision::is_known_to_fail;
use crate::evaluate::evaluated_decision::Evaluation;
use crate::evaluate::policies::{self, Validity};
use crate::targets::endpoint::{TargetEndpoint, Targets};

/// The manifests of an image that is to be removed from a target.
#[derive(Debug)]
pub(crate) struct SweepPlan<'a> {
    pub(crate) endpoint: &'a TargetEndpoint,
    pub(crate) manifests: &'a [Digest],
    /// The key of the decision that does not count any more; empty for an image without a decision.
    pub(crate) without: &'a str,
    /// The image itself, if a decision promoted it.
    pub(crate) digest: Option<&'a str>,
    /// The source of the image, if a decision promoted it.
    pub(crate) source: Option<&'a Repository>,
    /// Whether the image was promoted, and is withdrawn.
    pub(crate) is_withdrawal: bool,
}

impl<'a> SweepPlan<'a> {
    /// Plans the removal of an image that a decision promoted.
    pub(crate) fn of(evaluation: &'a Evaluation<'_>, endpoint: &'a TargetEndpoint) -> Self {
        Self {
            endpoint,
            manifests: evaluation.manifests(),
            // The policy may lead to the same repository now by another tag than that of the former target.
            without: if evaluation.is_former {
                ""
            } else {
                &evaluation.key
            },
            digest: Some(&evaluation.decision.digest),
            source: Some(&evaluation.subject.repository),
            is_withdrawal: evaluation.decision.promoted_at.is_some(),
        }
    }

    /// Returns the manifests of the image that no other image in its target needs.
    pub(crate) async fn unneeded(&self, targets: &Targets) -> Result<BTreeSet<Digest>, Error> {
        let kept = self.kept(targets, &BTreeMap::new()).await?;
        let manifests = self.manifests.iter();
        Ok(manifests.filter(|d| !kept.contains(*d)).cloned().collect())
    }

    /// Returns every manifest that must stay in the target: those of other promoted images, and of all tags but some.
    pub(crate) async fn kept(
        &self,
        targets: &Targets,
        removed_tags: &BTreeMap<Tag, TagEntry>,
    ) -> Result<BTreeSet<Digest>, Error> {
        let endpoint = self.endpoint;
        let mut tops = BTreeSet::new();
        for entry in self.permitted(targets).await? {
            tops.extend(entry.value.digest.parse::<Digest>().ok());
        }
        let ours = key::tags_of_target(&endpoint.target);
        // In the internal registry the tags say what is there, and decisions what is being promoted; entries are written by
        // other services too, and one that names the removed image would keep it. In a remote registry others may move
        // tags, so there the entries count too.
        if endpoint.is_remote() {
            let entries = targets.state.tags.collect(&ours, |entry| {
                let is_removed = removed_tags
                    .keys()
                    .any(|tag| entry.value.tag == tag.as_str());
                // A claim for this very image is that of a promotion that is too late, and a claim that has lapsed is that
                // of a process that died.
                let claimed = live_claim(&entry.value).map(|(claim, _)| claim.digest.clone());
                let claimed = claimed.filter(|digest| Some(digest.as_str()) != self.digest);
                (!is_removed).then_some([Some(entry.value.digest), claimed])
            });
            let named = entries.await?.into_values().flatten().flatten();
            tops.extend(named.filter_map(|digest| digest.parse::<Digest>().ok()));
        }
        // The registry may have tags without an entry; in a remote one others have their own.
        let listed = match endpoint.registry.list_tags(endpoint.repository()).await {
            Err(error) if error.is_not_found() => Vec::new(),
            listed => listed?,
        };
        for tag in listed.iter().filter(|tag| !removed_tags.contains_key(tag)) {
            let head = endpoint.head(tag).await?;
            tops.extend(head.map(|head| head.digest));
        }
        let mut kept = BTreeSet::new();
        for top in tops {
            kept.extend(targets.children(&top, endpoint).await?);
            kept.insert(top);
        }
        Ok(kept)
    }

    /// Returns the other decisions by which an image may be in the target: allowed now, or promoted and not withdrawn.
    ///
    /// A decision that is known to fail and not flagged does not count: its image is about to be withdrawn, and two images
    /// that are withdrawn at the same time would keep each other's manifests. Where it is flagged instead, its tag keeps its
    /// manifests. Decisions are found by their source, which the target's tags name, and by the policies that promote there,
    /// because an image that is being promoted has no tag yet. For an image without a decision all decisions are read. A
    /// deleted policy keeps its images by their tags, which count too, but no digest that another policy withdraws.
    pub(crate) async fn permitted(&self, targets: &Targets) -> Result<Vec<Entry<Decision>>, Error> {
        let target = &self.endpoint.target;
        let stored = target.stored();
        let mut sources = BTreeSet::new();
        sources.extend(self.source.cloned());
        let tags = key::tags_of_target(target);
        let listed = targets.state.tags.each(&tags, |_, entry| {
            let from = entry.and_then(|entry| entry.value.promoted_from);
            sources.extend(from.and_then(|from| from.repository.parse::<Repository>().ok()));
            ControlFlow::Continue(())
        });
        listed.await?;
        let policies = policies::read(&targets.state).await?;
        let withdraws = |decision: &Decision| {
            policies.iter().any(|policy| {
                policy.spec.recall == Recall::Withdraw
                    && policy.spec.name.as_str() == decision.policy
            })
        };
        let is_about_to_be_withdrawn = |decision: &Decision| {
            is_known_to_fail(decision) && (decision.flagged.is_empty() || withdraws(decision))
        };
        let mut filters: Vec<String> = sources.iter().map(key::decisions_in).collect();
        let is_without_policy = |decision: &Decision| {
            let is_same = self.digest == Some(decision.digest.as_str());
            let validity = || policies.validity(decision);
            self.is_withdrawal && is_same && matches!(validity(), Validity::Ended { .. })
        };
        for policy in policies.iter().filter(|p| p.spec.to.could_reach(target)) {
            filters.push(key::decisions_by(&policy.spec.name));
        }
        if self.source.is_none() {
            filters = vec![">".to_owned()];
        }
        let permits = |entry: &Entry<Decision>| {
            entry.key != self.without
                && entry.value.target == stored
                && entry.value.promoted_at.is_some()
                && !is_about_to_be_withdrawn(&entry.value)
                && !is_without_policy(&entry.value)
        };
        let mut permitted = BTreeMap::new();
        for filter in filters {
            let of_filter = targets
                .state
                .decisions
                .collect(&filter, |entry| Some(entry).filter(&permits));
            permitted.extend(of_filter.await?);
        }
        Ok(permitted.into_values().collect())
    }
}
