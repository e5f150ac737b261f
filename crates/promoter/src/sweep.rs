//! Deleting by digest what left a target, and nothing that another image there needs.

use std::collections::{BTreeMap, BTreeSet};

use sluice_domain::resources::Recall;
use sluice_domain::{Digest, Repository, Tag, now};
use sluice_events::commands::JudgeImage;
use sluice_events::wire::state::{Decision, TagEntry};
use sluice_events::{EventId, time_from_wire};
use sluice_service::crash;
use sluice_state::{Entry, describe, key};

use crate::decide::is_known_to_fail;
use crate::handler::{Case, Error, Promoter};
use crate::place::Place;
use crate::policies;
use crate::told::Told;

/// The manifests of an image that is to leave a target.
#[derive(Debug)]
pub(crate) struct Sweep<'a> {
    pub(crate) place: &'a Place,
    pub(crate) manifests: &'a [Digest],
    /// The key of the decision that does not count any more; empty for what no decision brought.
    pub(crate) without: &'a str,
    /// The image itself, if a decision brought it.
    pub(crate) digest: Option<&'a str>,
    /// Where it came from, if a decision brought it.
    pub(crate) source: Option<&'a Repository>,
}

impl<'a> Sweep<'a> {
    /// Makes that of an image that a decision brought.
    pub(crate) fn of(case: &'a Case<'_>, place: &'a Place) -> Self {
        Self {
            place,
            manifests: case.manifests,
            without: &case.key,
            digest: Some(&case.decision.digest),
            source: Some(&case.subject.repository),
        }
    }
}

impl Promoter {
    /// Deletes the manifests of an image that no other permitted image of the target reaches (invariants 1 and 5).
    ///
    /// Whatever cannot be listed or read ends this before anything is deleted.
    pub(crate) async fn sweep(&self, sweep: &Sweep<'_>, told: &mut Told) -> Result<(), Error> {
        self.state.unless_paused().await?;
        let attached = self.attached(sweep).await?;
        let mut leaving = self.leaving(sweep).await?;
        if !attached.is_empty() {
            self.detach(sweep, &leaving, attached).await?;
            // Between the look at what stays and the deletion lies nothing that takes long.
            leaving = self.leaving(sweep).await?;
        }
        for manifest in &leaving {
            sweep
                .place
                .registry
                .delete_manifest(sweep.place.repository(), manifest)
                .await?;
            crash::point("promoter.manifest_deleted");
            tracing::info!(image.repository = %sweep.place.target, image.digest = %manifest, "deleted");
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
            let reached = self.reached(&digest, sweep.place).await?;
            if reached
                .iter()
                .any(|digest| sweep.manifests.contains(digest))
            {
                let command = JudgeImage {
                    repository,
                    tag,
                    digest,
                };
                // A sweep that stood still while another one did the same may have deleted after that had this asked for:
                // no two of them are the same.
                told.command(command, EventId::random().to_string());
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
        let Sweep { place, .. } = sweep;
        let mut tops = BTreeSet::new();
        for entry in self.permitted(sweep).await? {
            tops.extend(entry.value.digest.parse::<Digest>().ok());
        }
        let ours = key::tags_of_target(&place.target);
        for entry in self.state.tags.list(&ours).await? {
            if leaving.keys().any(|tag| entry.value.tag == tag.as_str()) {
                continue;
            }
            tops.extend(entry.value.digest.parse::<Digest>().ok());
            // One that is claimed for this very image is that of a promotion that comes too late, and a claim that has
            // lapsed is that of somebody who died.
            let claim = entry.value.claim.filter(|claim| {
                time_from_wire(claim.until.as_ref()).is_some_and(|until| until > now())
            });
            let claimed = claim.map(|claim| claim.digest);
            let claimed = claimed.filter(|digest| Some(digest.as_str()) != sweep.digest);
            tops.extend(claimed.and_then(|digest| digest.parse::<Digest>().ok()));
        }
        // The registry may have tags that no entry knows; in a remote one others have theirs.
        let listed = match place.registry.tags(place.repository()).await {
            Err(error) if error.is_not_found() => Vec::new(),
            listed => listed?,
        };
        for tag in listed.iter().filter(|tag| !leaving.contains_key(tag)) {
            let head = place.head(tag).await?;
            tops.extend(head.map(|head| head.digest));
        }
        let mut kept = BTreeSet::new();
        for top in tops {
            kept.extend(self.reached(&top, place).await?);
            kept.insert(top);
        }
        Ok(kept)
    }

    /// Returns the other decisions by which an image may be in a target: allowed now, or promoted and not withdrawn.
    ///
    /// One that fails and is not flagged for good does not count: it is about to be withdrawn, and two that go at the same
    /// time would else keep what they share. Where it is about to be flagged instead, its tag keeps what it needs.
    /// Decisions are found by their source, which the target's tags name, and by the policies that promote there: what is
    /// on its way has no tag yet. For what no decision brought, all decisions are read.
    async fn permitted(&self, sweep: &Sweep<'_>) -> Result<Vec<Entry<Decision>>, Error> {
        let target = &sweep.place.target;
        let stored = target.stored();
        let mut sources = BTreeSet::new();
        sources.extend(sweep.source.cloned());
        for entry in self.state.tags.list(&key::tags_of_target(target)).await? {
            let from = entry.value.promoted_from;
            sources.extend(from.and_then(|from| from.repository.parse::<Repository>().ok()));
        }
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
        for policy in policies.iter().filter(|p| p.spec.to.could_reach(target)) {
            filters.push(key::decisions_by(&policy.spec.name));
        }
        if sweep.source.is_none() {
            filters = vec![">".to_owned()];
        }
        let mut permitted: Vec<Entry<Decision>> = Vec::new();
        for filter in filters {
            for entry in self.state.decisions.list(&filter).await? {
                let known = permitted.iter().any(|known| known.key == entry.key);
                let permits = entry.key != sweep.without
                    && entry.value.target == stored
                    && entry.value.promoted_at.is_some()
                    && !goes(&entry.value);
                if permits && !known {
                    permitted.push(entry);
                }
            }
        }
        Ok(permitted)
    }

    /// Returns the manifests below an image; one that is nowhere reaches nothing.
    pub(crate) async fn reached(
        &self,
        digest: &Digest,
        place: &Place,
    ) -> Result<BTreeSet<Digest>, Error> {
        match describe(&self.state, &place.registry, place.repository(), digest).await {
            Ok(entry) => Ok(entry
                .children
                .iter()
                .filter_map(|child| child.digest.parse().ok())
                .collect()),
            Err(sluice_state::Error::Registry(error)) if error.is_not_found() => {
                Ok(BTreeSet::new())
            }
            Err(error) => Err(error.into()),
        }
    }
}
