//! What the cleanup reads to find out whether a tag or image still exists.

use sluice_domain::{Class, Classify as _, Digest, Repository, Tag};
use sluice_events::wire::state::UpstreamTag;
use sluice_registry::Client;
use sluice_state::{Catalog, Entry, State, key};

use crate::error::Error;
use crate::evaluate::image_contents::ImageContentsReader;

/// The state, the catalogue and the internal registry.
#[derive(Debug, Clone)]
pub(super) struct Inventory {
    pub(super) state: State,
    pub(super) catalog: Catalog,
    pub(super) registry: Client,
    pub(super) contents: ImageContentsReader,
}

impl Inventory {
    /// Returns what a tag of the internal registry names. A registry that cannot be reached is asked again later.
    pub(super) async fn tag_digest(
        &self,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<Option<Digest>, Error> {
        let head = self.registry.head(repository, &tag.into()).await;
        Ok(head.map_err(retry_later)?.map(|head| head.digest))
    }

    /// Returns the upstream tags of the mirrors that copy a tag into a repository.
    pub(super) async fn upstream_tags(
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

/// Makes the error of a failed request; a registry that cannot be reached is asked again later.
pub(super) fn retry_later(error: sluice_registry::Error) -> Error {
    if error.is_unreachable() || !matches!(error.class(), Class::Permanent) {
        return Error::unreachable(error);
    }
    error.into()
}
