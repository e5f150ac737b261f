//! Entries of tags that were removed, and of upstream tags that no mirror brings.
//!
//! The entry of a tag says up to which move its mirror was followed, so it goes before that of the upstream tag: the other
//! way round a tag that comes back would begin at move 1, which looks older than what was known here.

use chrono::{DateTime, Utc};
use sluice_domain::resources::Kind;
use sluice_domain::{Repository, ResourceName, Tag};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{TagEntry, UpstreamTag};
use sluice_state::{Entry, key};

use super::Part;
use crate::handler::{Error, Promoter};

impl Promoter {
    pub(super) async fn forget_tags(
        &self,
        after: u64,
        before: DateTime<Utc>,
    ) -> Result<Part, Error> {
        let (tags, mut part) = (&self.state.tags, Part::after(after));
        while let Some(page) = part.page(tags, ">").await? {
            for entry in page {
                let is_certain = self.is_removed_for_good(&entry.value, before).await?;
                part.settle(tags, &entry, is_certain).await?;
            }
        }
        Ok(part)
    }

    pub(super) async fn forget_upstream(
        &self,
        after: u64,
        before: DateTime<Utc>,
    ) -> Result<Part, Error> {
        let (upstream, mut part) = (&self.state.upstream, Part::after(after));
        while let Some(page) = part.page(upstream, "*.*").await? {
            for entry in page {
                let is_certain = self.is_brought_by_nobody(&entry.value, before).await?;
                part.settle(upstream, &entry, is_certain).await?;
            }
        }
        Ok(part)
    }

    /// Says whether a tag was removed long ago, is not there, and is not to be brought again.
    async fn is_removed_for_good(
        &self,
        entry: &TagEntry,
        before: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let is_old = time_from_wire(entry.arrived_at.as_ref()).is_some_and(|at| at < before);
        // One that was refused says what stays out, and is not asked for again because of that.
        let is_removed =
            entry.digest.is_empty() && entry.claim.is_none() && entry.refused.is_empty();
        let Ok(tag) = entry.tag.parse::<Tag>() else {
            return Ok(false);
        };
        if !is_old || !is_removed {
            return Ok(false);
        }
        let Ok(repository) = entry.repository.parse::<Repository>() else {
            // That of a remote registry, from which it was removed.
            return Ok(true);
        };
        for upstream in self.upstream_of(&repository, &tag).await? {
            // What retention removed is not brought again for the move that it had, which only this entry knows.
            if !upstream.value.gone || !upstream.value.pending.is_empty() {
                return Ok(false);
            }
        }
        Ok(self.names(&repository, &tag).await?.is_none())
    }

    /// Says whether an upstream tag is gone for long, or its mirror is, and nothing is here of what it brought.
    async fn is_brought_by_nobody(
        &self,
        upstream: &UpstreamTag,
        before: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let last = upstream.history.last().and_then(|last| last.at.as_ref());
        let is_old = time_from_wire(last).is_some_and(|at| at < before);
        if !is_old || !upstream.pending.is_empty() {
            return Ok(false);
        }
        let (Ok(mirror), Ok(repository), Ok(tag)) = (
            upstream.mirror.parse::<ResourceName>(),
            upstream.repository.parse::<Repository>(),
            upstream.tag.parse::<Tag>(),
        ) else {
            return Ok(false);
        };
        if !upstream.gone && self.is_mirrored(&mirror).await? {
            return Ok(false);
        }
        let held = self.state.tags.get(&key::tag(&repository, &tag)).await?;
        Ok(held.is_none() && self.names(&repository, &tag).await?.is_none())
    }

    /// Says whether a mirror is applied, by its resource and not by a catalogue that may be a moment behind.
    async fn is_mirrored(&self, mirror: &ResourceName) -> Result<bool, Error> {
        let key = key::resource(Kind::Mirror.as_str(), mirror);
        Ok(self.state.resources.get(&key).await?.is_some())
    }

    /// Returns what is known upstream of a tag by the mirrors that bring it to a repository.
    pub(super) async fn upstream_of(
        &self,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<Vec<Entry<UpstreamTag>>, Error> {
        let mut found = Vec::new();
        let catalog = self.catalog.current();
        for mirror in catalog
            .mirrors
            .values()
            .filter(|mirror| mirror.to == *repository)
        {
            let key = key::upstream(&mirror.name, tag);
            found.extend(self.state.upstream.get(&key).await?);
        }
        Ok(found)
    }
}
