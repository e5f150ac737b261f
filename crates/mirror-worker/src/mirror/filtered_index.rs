//! Filtered indexes and merged lists of referrers: images whose digest here differs from the one upstream.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sluice_domain::resources::{Mirror, PlatformFilter};
use sluice_domain::{Digest, Repository, Tag};
use sluice_registry::Manifest;
use sluice_state::{
    IfUnchanged, MergedIndex, PlatformSubset, Precondition, Snapshot, TagChange, TagChangeOutcome,
    describe, key, manifests_of, merge_index, remove_attachments,
};

use super::task::{MirrorTask, NAME};
use super::upstream_precondition::UpstreamPrecondition;
use crate::error::Error;
use crate::handler::MirrorWorker;

/// Returns the platform filter of a mirror for a tag; attachments of images are not filtered.
pub(crate) fn platforms_of<'a>(mirror: &'a Mirror, tag: &Tag) -> &'a PlatformFilter {
    if tag.attached_to().is_some() {
        return &PlatformFilter::All;
    }
    &mirror.platforms
}

/// Returns the platform filter of a move.
pub(crate) fn platform_filter<'a>(catalog: &'a Snapshot, task: &MirrorTask) -> &'a PlatformFilter {
    let mirror = catalog.mirrors.get(&task.mirror);
    mirror.map_or(&PlatformFilter::All, |mirror| {
        platforms_of(mirror, &task.tag)
    })
}

/// Returns the upstream index and the filter of the digest that a move has here.
pub(crate) fn platform_subset(
    catalog: &Snapshot,
    task: &MirrorTask,
    mirrored: &Digest,
) -> PlatformSubset {
    PlatformSubset {
        source: Some(task.digest.clone()).filter(|source| source != mirrored),
        platforms: platform_filter(catalog, task).stored(),
    }
}

impl MirrorWorker {
    /// Returns the digest that a superseded move may have written to its tag: that of a filtered index, if the tag
    /// names one.
    pub(crate) async fn stale_digest(
        &self,
        catalog: &Snapshot,
        task: &MirrorTask,
    ) -> Result<(Digest, PlatformSubset), Error> {
        let key = key::tag(&task.repository, &task.tag);
        let entry = self.state.tags.get(&key).await?;
        let was_filtered = entry.is_some_and(|entry| !entry.value.source_digest.is_empty());
        if !was_filtered && platform_filter(catalog, task).is_all() {
            return Ok((task.digest.clone(), PlatformSubset::default()));
        }
        let tag = (&task.tag).into();
        let stale = match self.registry.fetch_manifest(&task.repository, &tag).await {
            Ok(index) if index.filtered_from().as_ref() == Some(&task.digest) => index.digest,
            Ok(_) => task.digest.clone(),
            Err(error) if error.is_not_found() => task.digest.clone(),
            Err(error) => return Err(error.into()),
        };
        let subset = platform_subset(catalog, task, &stale);
        Ok((stale, subset))
    }

    /// Points the tag of a move to the copied manifest, and returns the manifest that the tag names then.
    ///
    /// A list of referrers is merged with the one here. The attachments of the previous image are removed, unless
    /// another tag names it.
    pub(crate) async fn point_tag(
        &self,
        catalog: &Snapshot,
        task: &MirrorTask,
        copied: &Manifest,
        precondition: &UpstreamPrecondition<'_>,
    ) -> Result<(TagChangeOutcome, Manifest), Error> {
        let (repository, tag) = (&task.repository, &task.tag);
        let mut top = copied.clone();
        let applied = match self.merge_list(task, &mut top).await? {
            Some(before) => {
                let unchanged = IfUnchanged {
                    precondition,
                    registry: &self.registry,
                    repository,
                    tag,
                    before: before.as_ref(),
                    after: &top.digest,
                };
                self.apply_change(catalog, task, &top, &unchanged).await?
            }
            None => self.apply_change(catalog, task, &top, precondition).await?,
        };
        if let TagChangeOutcome::Done {
            previous: Some(previous),
        } = &applied
            && tag.attached_to().is_none()
        {
            let previous = std::slice::from_ref(previous);
            remove_attachments(&self.state, &self.tags, repository, previous, NAME).await?;
        }
        Ok((applied, top))
    }

    async fn apply_change<T: Precondition>(
        &self,
        catalog: &Snapshot,
        task: &MirrorTask,
        top: &Manifest,
        precondition: &T,
    ) -> Result<TagChangeOutcome, Error> {
        let change = TagChange {
            repository: &task.repository,
            tag: &task.tag,
            wanted: Some(top),
            provenance: task.provenance(platform_subset(catalog, task, &top.digest)),
            precondition,
        };
        Ok(self.tags.apply(&change).await?)
    }

    /// Merges a list of referrers with the one here; returns the digest that the tag names, if the tag is one of a
    /// list.
    async fn merge_list(
        &self,
        task: &MirrorTask,
        top: &mut Manifest,
    ) -> Result<Option<Option<Digest>>, Error> {
        let (repository, tag) = (&task.repository, &task.tag);
        if !tag.is_list() {
            return Ok(None);
        }
        let entry = self.state.tags.get(&key::tag(repository, tag)).await?;
        let entry = entry.map(|entry| entry.value);
        let merged = merge_index(&self.registry, repository, tag, entry.as_ref(), top.clone());
        match merged.await? {
            Some(MergedIndex {
                top: merged,
                before,
            }) => {
                *top = merged;
                describe(&self.state, &self.registry, repository, &top.digest).await?;
                Ok(Some(before))
            }
            // A manifest that is not a list is replaced, as any that was pushed over a mirrored tag.
            None => Ok(None),
        }
    }

    /// Says whether a tag is an attachment that was removed with its image, and the image is not back.
    pub(crate) async fn is_detached(&self, task: &MirrorTask) -> Result<bool, Error> {
        let Some(subject) = task.tag.attached_to() else {
            return Ok(false);
        };
        let key = key::tag(&task.repository, &task.tag);
        let entry = self.state.tags.get(&key).await?.map(|entry| entry.value);
        let was_removed = entry.is_some_and(|entry| {
            entry.digest.is_empty()
                && entry.claim.is_none()
                && entry.mirror == task.mirror.as_str()
                && entry.move_number >= task.move_number
        });
        Ok(was_removed && !self.is_subject(&task.repository, &subject).await?)
    }

    /// Says whether a tag of a repository names an image with a manifest, or an attachment with it.
    async fn is_subject(&self, repository: &Repository, manifest: &Digest) -> Result<bool, Error> {
        let mut tops: BTreeSet<Digest> = BTreeSet::new();
        let filter = key::tags_of(repository);
        let read = self.state.tags.each(&filter, |_, entry| {
            tops.extend(entry.and_then(|entry| entry.value.digest.parse().ok()));
            ControlFlow::Continue(())
        });
        read.await?;
        if tops.contains(manifest) {
            return Ok(true);
        }
        for top in tops {
            if manifests_of(&self.state, &top).await?.contains(manifest) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
