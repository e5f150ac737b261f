//! Mirrors of some platforms, and lists to which others add: what is kept here is then not what upstream has.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sluice_domain::resources::{Mirror, Platforms};
use sluice_domain::{Digest, Repository, Tag};
use sluice_events::facts::UpstreamTagMoved;
use sluice_registry::Manifest;
use sluice_state::{
    Applied, IfUnchanged, MergedIndex, PlatformSubset, Precondition, Snapshot, TagChange, describe,
    detach, key, manifests_of, merge,
};

use crate::mirror::{Error, MirrorWorker, provenance};
use crate::upstream_precondition::Upstream;

/// Returns the platforms that a mirror wants of a tag; what is attached to an image has none.
pub(crate) fn wanted<'a>(mirror: &'a Mirror, tag: &Tag) -> &'a Platforms {
    if tag.attached_to().is_some() {
        return &Platforms::All;
    }
    &mirror.platforms
}

/// Returns the platforms that the mirror of a move wants.
pub(crate) fn platforms<'a>(catalog: &'a Snapshot, fact: &UpstreamTagMoved) -> &'a Platforms {
    let mirror = catalog.mirrors.get(&fact.mirror);
    mirror.map_or(&Platforms::All, |mirror| wanted(mirror, &fact.tag))
}

/// Returns what a digest, to which a move leads here, is a part of.
pub(crate) fn part(catalog: &Snapshot, fact: &UpstreamTagMoved, here: &Digest) -> PlatformSubset {
    PlatformSubset {
        source: Some(fact.digest.clone()).filter(|source| source != here),
        platforms: platforms(catalog, fact).stored(),
    }
}

impl MirrorWorker {
    /// Returns what a superseded move may have left at its tag: a part, if what is there says so, of what upstream had.
    pub(crate) async fn left(
        &self,
        catalog: &Snapshot,
        fact: &UpstreamTagMoved,
    ) -> Result<(Digest, PlatformSubset), Error> {
        let key = key::tag(&fact.repository, &fact.tag);
        let entry = self.state.tags.get(&key).await?;
        let was_part = entry.is_some_and(|entry| !entry.value.source_digest.is_empty());
        if !was_part && platforms(catalog, fact).is_all() {
            return Ok((fact.digest.clone(), PlatformSubset::default()));
        }
        let tag = (&fact.tag).into();
        let left = match self.registry.manifest(&fact.repository, &tag).await {
            Ok(there) if there.part_of().as_ref() == Some(&fact.digest) => there.digest,
            Ok(_) => fact.digest.clone(),
            Err(error) if error.is_not_found() => fact.digest.clone(),
            Err(error) => return Err(error.into()),
        };
        let part = part(catalog, fact, &left);
        Ok((left, part))
    }

    /// Points the tag of a move to what was brought, and returns what it names then.
    ///
    /// A list of referrers is joined with what else is listed here. What was attached to what the tag named goes, unless
    /// another tag still names that.
    pub(crate) async fn point(
        &self,
        catalog: &Snapshot,
        fact: &UpstreamTagMoved,
        brought: &Manifest,
        precondition: &Upstream<'_>,
    ) -> Result<(Applied, Manifest), Error> {
        let (repository, tag) = (&fact.repository, &fact.tag);
        let mut top = brought.clone();
        let applied = match self.list_to_join(fact, &mut top).await? {
            Some(before) => {
                let upon = IfUnchanged {
                    precondition,
                    registry: &self.registry,
                    repository,
                    tag,
                    before: before.as_ref(),
                    after: &top.digest,
                };
                self.settle(catalog, fact, &top, &upon).await?
            }
            None => self.settle(catalog, fact, &top, precondition).await?,
        };
        if let Applied::Settled {
            previous: Some(previous),
        } = &applied
            && tag.attached_to().is_none()
        {
            let previous = std::slice::from_ref(previous);
            detach(
                &self.state,
                &self.tags,
                repository,
                previous,
                "mirror-worker",
            )
            .await?;
        }
        Ok((applied, top))
    }

    async fn settle<T: Precondition>(
        &self,
        catalog: &Snapshot,
        fact: &UpstreamTagMoved,
        top: &Manifest,
        precondition: &T,
    ) -> Result<Applied, Error> {
        let change = TagChange {
            repository: &fact.repository,
            tag: &fact.tag,
            wanted: Some(top),
            provenance: provenance(fact, part(catalog, fact, &top.digest)),
            precondition,
        };
        Ok(self.tags.apply(&change).await?)
    }

    /// Joins a list of referrers with what is listed here; returns what the tag names, if it is such a list.
    async fn list_to_join(
        &self,
        fact: &UpstreamTagMoved,
        top: &mut Manifest,
    ) -> Result<Option<Option<Digest>>, Error> {
        let (repository, tag) = (&fact.repository, &fact.tag);
        if !tag.is_list() {
            return Ok(None);
        }
        let entry = self.state.tags.get(&key::tag(repository, tag)).await?;
        let entry = entry.map(|entry| entry.value);
        let merged = merge(&self.registry, repository, tag, entry.as_ref(), top.clone());
        match merged.await? {
            Some(MergedIndex { top: all, before }) => {
                *top = all;
                describe(&self.state, &self.registry, repository, &top.digest).await?;
                Ok(Some(before))
            }
            // What is no list gives way, as whatever else somebody put over a mirrored tag.
            None => Ok(None),
        }
    }

    /// Says whether what is attached to an image was removed with that, and the image is not back.
    pub(crate) async fn is_detached(&self, fact: &UpstreamTagMoved) -> Result<bool, Error> {
        let Some(subject) = fact.tag.attached_to() else {
            return Ok(false);
        };
        let key = key::tag(&fact.repository, &fact.tag);
        let entry = self.state.tags.get(&key).await?.map(|entry| entry.value);
        let was_removed = entry.is_some_and(|entry| {
            entry.digest.is_empty()
                && entry.claim.is_none()
                && entry.mirror == fact.mirror.as_str()
                && entry.move_number >= fact.move_number
        });
        Ok(was_removed && !self.is_subject(&fact.repository, &subject).await?)
    }

    /// Says whether something in a repository consists of a manifest, or is attached to what does.
    pub(crate) async fn is_subject(
        &self,
        repository: &Repository,
        manifest: &Digest,
    ) -> Result<bool, Error> {
        let mut tops: BTreeSet<Digest> = BTreeSet::new();
        let filter = key::tags_of(repository);
        let named = self.state.tags.each(&filter, |_, entry| {
            tops.extend(entry.and_then(|entry| entry.value.digest.parse().ok()));
            ControlFlow::Continue(())
        });
        named.await?;
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
