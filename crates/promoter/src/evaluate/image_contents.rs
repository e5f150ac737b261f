//! What images consist of, for deciding what is promoted and what is recalled: read from their bytes, or from the last
//! decision on them. Entries of `images` are written by other services too, and are not used here.

use std::collections::BTreeSet;

use sluice_domain::{Digest, Repository};
use sluice_events::wire::state::{Decision, DecisionInput, ImageChild, ImageEntry};
use sluice_registry::{Client, Manifest};
use sluice_state::{ImageReader, State, key};

use crate::error::Error;

/// Reads what images consist of.
#[derive(Debug, Clone)]
pub(crate) struct ImageContentsReader {
    state: State,
    /// The internal registry.
    registry: Client,
    reader: ImageReader,
}

impl ImageContentsReader {
    pub(crate) fn new(state: State, registry: Client) -> Self {
        Self {
            state,
            registry,
            reader: ImageReader::default(),
        }
    }

    /// Returns the manifest of an image, if its bytes were read before.
    pub(crate) fn cached_manifest(&self, digest: &Digest) -> Option<Manifest> {
        self.reader.cached_manifest(digest)
    }

    /// Reads what an image consists of from its bytes in a repository.
    pub(crate) async fn read(
        &self,
        registry: &Client,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<ImageEntry, sluice_state::Error> {
        self.reader.read(registry, repository, digest).await
    }

    /// Returns what an image consists of, by its bytes in the first of some repositories that has it.
    ///
    /// Where none has it, nothing can be promoted; for a recall the manifests of the last decision on it are enough.
    pub(crate) async fn find(
        &self,
        digest: &Digest,
        repositories: Vec<Repository>,
    ) -> Result<Option<ImageEntry>, Error> {
        let mut read = BTreeSet::new();
        for repository in repositories {
            if !read.insert(repository.clone()) {
                continue;
            }
            match self.reader.read(&self.registry, &repository, digest).await {
                Ok(image) => return Ok(Some(image)),
                Err(sluice_state::Error::Registry(error)) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.decided_image(digest).await
    }

    /// Returns the manifests below an image; for one that the repository does not have, those of the last decision on it.
    pub(crate) async fn children(
        &self,
        digest: &Digest,
        registry: &Client,
        repository: &Repository,
    ) -> Result<BTreeSet<Digest>, Error> {
        let image = match self.reader.read(registry, repository, digest).await {
            Ok(image) => Some(image),
            Err(sluice_state::Error::Registry(error)) if error.is_not_found() => {
                self.decided_image(digest).await?
            }
            Err(error) => return Err(error.into()),
        };
        let children = image.into_iter().flat_map(|image| image.children);
        Ok(children
            .filter_map(|child| child.digest.parse().ok())
            .collect())
    }

    /// Returns the manifests of an image by the last decision on it.
    async fn decided_image(&self, digest: &Digest) -> Result<Option<ImageEntry>, Error> {
        let decisions = self
            .state
            .decisions
            .list(&key::decisions_about(digest))
            .await?;
        let decided = |decision: &Decision| decision.decided_at.map(|at| (at.seconds, at.nanos));
        let last = decisions
            .into_iter()
            .map(|entry| entry.value)
            .filter(|decision| !decision.inputs.is_empty())
            .max_by_key(decided);
        let child = |input: DecisionInput| ImageChild {
            platform: input.platform,
            digest: input.digest,
            labels_omitted: true,
            ..Default::default()
        };
        Ok(last.map(|decision| ImageEntry {
            digest: digest.to_string(),
            children: decision.inputs.into_iter().map(child).collect(),
            ..Default::default()
        }))
    }
}
