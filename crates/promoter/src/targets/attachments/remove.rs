//! Removes the attachments of images that are removed from a target.

use std::collections::{BTreeMap, BTreeSet};

use sluice_domain::{Digest, Tag};
use sluice_events::wire::state::TagEntry;
use sluice_state::{AlwaysCurrent, Provenance, State, TagChange, find_attachments};

use crate::error::Error;
use crate::settings::STAGE;
use crate::targets::endpoint::{TargetEndpoint, Targets};
use crate::targets::sweep::sweep_plan::SweepPlan;

/// Returns the attachments of manifests that are to be removed from a target.
pub(crate) async fn attachments_of(
    state: &State,
    plan: &SweepPlan<'_>,
) -> Result<BTreeMap<Tag, TagEntry>, Error> {
    let manifests = plan.manifests.iter().cloned().collect();
    let stored = plan.endpoint.target.stored();
    let attached = find_attachments(state, &stored, &manifests).await?;
    let is_there = |(_, entry): &(Tag, TagEntry)| !entry.digest.is_empty();
    Ok(attached.into_iter().filter(is_there).collect())
}

/// Removes the attachments of manifests that are removed from a target, with the manifests that only they need.
///
/// The manifests are removed first: after a crash they are found by the tags. Where the image is promoted again meanwhile,
/// the evaluation after the sweep copies its attachments again.
pub(crate) async fn remove_attachments(
    targets: &Targets,
    plan: &SweepPlan<'_>,
    removed: &BTreeSet<Digest>,
    mut attached: BTreeMap<Tag, TagEntry>,
) -> Result<(), Error> {
    let endpoint = plan.endpoint;
    // An attachment of an attachment is removed with it.
    let mut removed = removed.clone();
    for _ in 0..Tag::ATTACHMENT_DEPTH {
        for (tag, entry) in &attached {
            if tag.attached_to().is_some_and(|to| removed.contains(&to))
                && let Ok(digest) = entry.digest.parse()
            {
                removed.extend(targets.children(&digest, endpoint).await?);
                removed.insert(digest);
            }
        }
    }
    attached.retain(|tag, _| tag.attached_to().is_some_and(|to| removed.contains(&to)));
    if attached.is_empty() {
        return Ok(());
    }
    let kept = plan.kept(targets, &attached).await?;
    // A referrers list may name a manifest that refers to none of these, and is an image of its own.
    let is_removed = |tag: &Tag| tag.attached_to().is_none_or(|to| !kept.contains(&to));
    for (tag, entry) in attached.iter().filter(|(tag, _)| is_removed(tag)) {
        let Ok(digest) = entry.digest.parse::<Digest>() else {
            continue;
        };
        let repository = endpoint.repository();
        for manifest in targets
            .children(&digest, endpoint)
            .await?
            .iter()
            .chain([&digest])
        {
            let is_part = *manifest == digest
                || !endpoint.is_remote()
                || refers(endpoint, manifest, tag).await?;
            if is_part && !kept.contains(manifest) {
                endpoint
                    .registry
                    .delete_manifest(repository, manifest)
                    .await?;
            }
        }
        let change = TagChange {
            repository,
            tag,
            wanted: None,
            provenance: Provenance {
                by: STAGE.to_owned(),
                ..Provenance::default()
            },
            precondition: &AlwaysCurrent,
        };
        endpoint.tags.apply(&change).await?;
        tracing::info!(image.repository = %endpoint.target, image.tag = %tag, image.digest = %digest, "removed with its image");
    }
    Ok(())
}

/// Says whether a manifest refers to the image of an attachment tag; in a remote registry others may have listed anything.
async fn refers(endpoint: &TargetEndpoint, manifest: &Digest, tag: &Tag) -> Result<bool, Error> {
    let reference = manifest.into();
    let read = endpoint
        .registry
        .fetch_manifest(endpoint.repository(), &reference);
    match read.await {
        Ok(manifest) => Ok(manifest.subject() == tag.attached_to()),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}
