//! Deletes a tag that was deleted upstream, if no other mirror has it; whether its mirror wants that says `mirror.rs`.

use sluice_bus::Outcome;
use sluice_domain::{Repository, ResourceName, Tag};
use sluice_state::{Provenance, TagChange, TagChangeOutcome, key, remove_attachments};

use super::task::NAME;
use super::upstream_precondition::UpstreamPrecondition;
use crate::error::Error;
use crate::handler::MirrorWorker;

impl MirrorWorker {
    pub(crate) async fn delete_tag_deleted_upstream(
        &self,
        mirror: &ResourceName,
        repository: &Repository,
        tag: &Tag,
        move_number: u64,
    ) -> Result<Outcome, Error> {
        if self.has_another_mirror(mirror, repository, tag).await? {
            return Ok(Outcome::done());
        }
        self.state.ensure_not_paused().await?;
        let precondition = UpstreamPrecondition {
            state: &self.state,
            registry: &self.registry,
            mirror,
            repository,
            tag,
            digest: None,
            move_number,
        };
        let change = TagChange {
            repository,
            tag,
            wanted: None,
            provenance: Provenance {
                by: NAME.to_owned(),
                mirror: mirror.to_string(),
                move_number,
                ..Provenance::default()
            },
            precondition: &precondition,
        };
        if let TagChangeOutcome::Done {
            previous: Some(previous),
        } = self.tags.apply(&change).await?
        {
            remove_attachments(&self.state, &self.tags, repository, &[previous], NAME).await?;
        }
        Ok(Outcome::done())
    }

    /// Says whether another mirror wrote the tag into the repository, or has it upstream and will.
    async fn has_another_mirror(
        &self,
        mirror: &ResourceName,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<bool, Error> {
        let entry = self.state.tags.get(&key::tag(repository, tag)).await?;
        let catalog = self.catalog.current();
        let is_other = |name: &ResourceName| {
            let other = catalog.mirrors.get(name).filter(|other| other.enabled);
            name != mirror && other.is_some_and(|other| other.to == *repository)
        };
        let written_by = entry.and_then(|entry| entry.value.mirror.parse().ok());
        if written_by.as_ref().is_some_and(is_other) {
            return Ok(true);
        }
        for name in catalog.mirrors.keys().filter(|name| is_other(name)) {
            let upstream = self.state.upstream.get(&key::upstream(name, tag)).await?;
            if upstream.is_some_and(|entry| !entry.value.deleted && !entry.value.digest.is_empty())
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
