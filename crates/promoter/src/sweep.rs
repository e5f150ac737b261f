//! Deleting by digest what left a target, and nothing that another image there needs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use sluice_domain::resources::Recall;
use sluice_domain::{Digest, Repository, Tag};
use sluice_events::EventId;
use sluice_events::commands::JudgeImage;
use sluice_events::wire::state::{Decision, TagEntry};
use sluice_service::crash;
use sluice_state::{Entry, key, live_claim};

use crate::decide::is_known_to_fail;
use crate::handler::{Error, Evaluated, Promoter};
use crate::pending_events::PendingEvents;
use crate::policies::{self, Validity};
use crate::target_endpoint::TargetEndpoint;

/// The manifests of an image that is to leave a target.
#[derive(Debug)]
pub(crate) struct Sweep<'a> {
    pub(crate) endpoint: &'a TargetEndpoint,
    pub(crate) manifests: &'a [Digest],
    /// The key of the decision that does not count any more; empty for what no decision brought.
    pub(crate) without: &'a str,
    /// The image itself, if a decision brought it.
    pub(crate) digest: Option<&'a str>,
    /// Where it came from, if a decision brought it.
    pub(crate) source: Option<&'a Repository>,
    /// Whether it was promoted, and is withdrawn.
    pub(crate) is_withdrawal: bool,
}

impl<'a> Sweep<'a> {
    /// Makes that of an image that a decision brought.
    pub(crate) fn of(case: &'a Evaluated<'_>, endpoint: &'a TargetEndpoint) -> Self {
        Self {
            endpoint,
            manifests: case.manifests(),
            // What a policy leads to now, it leads to besides a former target.
            without: if case.is_former { "" } else { &case.key },
            digest: Some(&case.decision.digest),
            source: Some(&case.subject.repository),
            is_withdrawal: case.decision.promoted_at.is_some(),
        }
    }
}

impl Promoter {
    /// Deletes the manifests of an image that no other permitted image of the target reaches (invariants 1 and 5).
    ///
    /// Whatever cannot be listed or read ends this before anything is deleted.
    pub(crate) async fn sweep(
        &self,
        sweep: &Sweep<'_>,
        pending_events: &mut PendingEvents,
    ) -> Result<(), Error> {
        self.state.ensure_not_paused().await?;
        let attached = self.attached(sweep).await?;
        let mut leaving = self.leaving(sweep).await?;
        let mut removed = leaving.clone();
        if !attached.is_empty() {
            self.detach(sweep, &leaving, attached).await?;
            // Between the look at what stays and the deletion lies nothing that takes long.
            leaving = self.leaving(sweep).await?;
            removed.extend(leaving.iter().cloned());
        }
        // Where nothing goes there is nothing to mend, and an image that asked for itself would do so for ever.
        if removed.is_empty() {
            return Ok(());
        }
        for manifest in &leaving {
            sweep
                .endpoint
                .registry
                .delete_manifest(sweep.endpoint.repository(), manifest)
                .await?;
            crash::point("promoter.manifest_deleted");
            tracing::info!(image.repository = %sweep.endpoint.target, image.digest = %manifest, "deleted");
        }
        // An image with a manifest in common may have been allowed since the listing, and found it there when it was
        // copied. Its effect is verified once more, and mended.
        for entry in self.permitted(sweep).await? {
            let (Ok(repository), Ok(tag), Ok(digest)) = (
                entry.value.repository.parse(),
                entry.value.tag.parse(),
                entry.value.digest.parse::<Digest>(),
            ) else {
                continue;
            };
            let reached = self.reached(&digest, sweep.endpoint).await?;
            if removed.contains(&digest) || !reached.is_disjoint(&removed) {
                let command = JudgeImage {
                    repository,
                    tag,
                    digest,
                };
                // A sweep that stood still while another one did the same may have deleted after that had this asked for:
                // no two of them are the same.
                pending_events.command(command, EventId::random().to_string());
            }
        }
        Ok(())
    }

    /// Returns the manifests of an image that nothing else in its target needs.
    async fn leaving(&self, sweep: &Sweep<'_>) -> Result<BTreeSet<Digest>, Error> {
        let kept = self.kept(sweep, &BTreeMap::new()).await?;
        let leaving = sweep.manifests.iter();
        Ok(leaving.filter(|d| !kept.contains(*d)).cloned().collect())
    }

    /// Returns every manifest that must stay in a target, apart from what only this decision brought there, and some tags.
    pub(crate) async fn kept(
        &self,
        sweep: &Sweep<'_>,
        leaving: &BTreeMap<Tag, TagEntry>,
    ) -> Result<BTreeSet<Digest>, Error> {
        let Sweep { endpoint, .. } = sweep;
        let mut tops = BTreeSet::new();
        for entry in self.permitted(sweep).await? {
            tops.extend(entry.value.digest.parse::<Digest>().ok());
        }
        let ours = key::tags_of_target(&endpoint.target);
        // Here the registry says what stands, and decisions what is on its way; entries are written by others too, and one
        // that names what leaves would keep it. Who writes into a remote registry besides is not known, so there they count.
        if endpoint.is_remote() {
            let held = self.state.tags.collect(&ours, |entry| {
                let is_leaving = leaving.keys().any(|tag| entry.value.tag == tag.as_str());
                // One that is claimed for this very image is that of a promotion that comes too late, and a claim that has
                // lapsed is that of somebody who died.
                let claimed = live_claim(&entry.value).map(|(claim, _)| claim.digest.clone());
                let claimed = claimed.filter(|digest| Some(digest.as_str()) != sweep.digest);
                (!is_leaving).then_some([Some(entry.value.digest), claimed])
            });
            let named = held.await?.into_values().flatten().flatten();
            tops.extend(named.filter_map(|digest| digest.parse::<Digest>().ok()));
        }
        // The registry may have tags that no entry knows; in a remote one others have theirs.
        let listed = match endpoint.registry.tags(endpoint.repository()).await {
            Err(error) if error.is_not_found() => Vec::new(),
            listed => listed?,
        };
        for tag in listed.iter().filter(|tag| !leaving.contains_key(tag)) {
            let head = endpoint.head(tag).await?;
            tops.extend(head.map(|head| head.digest));
        }
        let mut kept = BTreeSet::new();
        for top in tops {
            kept.extend(self.reached(&top, endpoint).await?);
            kept.insert(top);
        }
        Ok(kept)
    }

    /// Returns the other decisions by which an image may be in a target: allowed now, or promoted and not withdrawn.
    ///
    /// One that fails and is not flagged for good does not count: it is about to be withdrawn, and two that go at the same
    /// time would else keep what they share. Where it is about to be flagged instead, its tag keeps what it needs.
    /// Decisions are found by their source, which the target's tags name, and by the policies that promote there: what is
    /// on its way has no tag yet. For what no decision brought, all decisions are read. A policy that is gone keeps what is
    /// tagged, since tags are looked at besides, and no digest that another policy withdraws.
    async fn permitted(&self, sweep: &Sweep<'_>) -> Result<Vec<Entry<Decision>>, Error> {
        let target = &sweep.endpoint.target;
        let stored = target.stored();
        let mut sources = BTreeSet::new();
        sources.extend(sweep.source.cloned());
        let held = key::tags_of_target(target);
        let brought = self.state.tags.each(&held, |_, entry| {
            let from = entry.and_then(|entry| entry.value.promoted_from);
            sources.extend(from.and_then(|from| from.repository.parse::<Repository>().ok()));
            ControlFlow::Continue(())
        });
        brought.await?;
        let policies = policies::read(&self.state).await?;
        let withdraws = |decision: &Decision| {
            policies.iter().any(|policy| {
                policy.spec.recall == Recall::Withdraw
                    && policy.spec.name.as_str() == decision.policy
            })
        };
        let goes = |decision: &Decision| {
            is_known_to_fail(decision) && (decision.flagged.is_empty() || withdraws(decision))
        };
        let mut filters: Vec<String> = sources.iter().map(key::decisions_in).collect();
        let is_gone = |decision: &Decision| {
            let is_same = sweep.digest == Some(decision.digest.as_str());
            let validity = || policies.validity(decision);
            sweep.is_withdrawal && is_same && matches!(validity(), Validity::Ended { .. })
        };
        for policy in policies.iter().filter(|p| p.spec.to.could_reach(target)) {
            filters.push(key::decisions_by(&policy.spec.name));
        }
        if sweep.source.is_none() {
            filters = vec![">".to_owned()];
        }
        let permits = |entry: &Entry<Decision>| {
            entry.key != sweep.without
                && entry.value.target == stored
                && entry.value.promoted_at.is_some()
                && !goes(&entry.value)
                && !is_gone(&entry.value)
        };
        let mut permitted = BTreeMap::new();
        for filter in filters {
            let of_filter = self
                .state
                .decisions
                .collect(&filter, |entry| Some(entry).filter(&permits));
            permitted.extend(of_filter.await?);
        }
        Ok(permitted.into_values().collect())
    }
}
