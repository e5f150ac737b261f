//! Reads what an image consists of, from the bytes that its digests name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prost::Message as _;
use sluice_domain::{Digest, Repository};
use sluice_events::time_to_wire;
use sluice_events::wire::state::{ImageChild, ImageEntry};
use sluice_registry::{
    Client, Content, CopyReport, Descriptor, DescriptorPlatform, ImageConfig, Manifest, RawManifest,
};

use crate::error::Error;

/// The most labels of one manifest that are kept.
const MAX_LABELS: usize = 64;
/// The most bytes of labels that are kept of one manifest.
const MAX_CHILD_LABELS: usize = 16 << 10;
/// The most bytes of labels that are kept of one image; with 512 children the entry stays within its limit.
const MAX_IMAGE_LABELS: usize = 96 << 10;
/// The most bytes of in-toto statements that are read of one image; beyond that a manifest counts as runnable.
const MAX_STATEMENT_BYTES: u64 = 256 << 20;
/// The most bytes that a reader caches; at the limit the cache is cleared.
const MAX_CACHED_BYTES: usize = 32 << 20;

/// Reads images from a registry, with a cache of manifests, configurations and results by digest.
///
/// No entry of the state is read, since the result decides what may be promoted.
#[derive(Debug, Clone, Default)]
pub struct ImageReader {
    cache: Arc<Mutex<Cache>>,
}

#[derive(Debug, Default)]
struct Cache {
    images: HashMap<Digest, ImageEntry>,
    documents: HashMap<Digest, RawManifest>,
    configs: HashMap<Digest, Bytes>,
    size_bytes: usize,
}

impl Cache {
    /// Makes room for so many more bytes; at the limit the cache is cleared.
    fn make_room(&mut self, size_bytes: usize) {
        if self.size_bytes + size_bytes > MAX_CACHED_BYTES {
            *self = Self::default();
        }
        self.size_bytes += size_bytes;
    }
}

impl ImageReader {
    /// Creates a reader whose cache holds the manifests and configurations of a copy, so that they are not fetched
    /// again.
    pub(super) fn of_copied(copied: &CopyReport) -> Self {
        let reader = Self::default();
        for manifest in copied.children.iter().chain([&copied.root]) {
            reader.cache_document(&manifest.digest, &manifest.into());
        }
        for (digest, config) in &copied.configs {
            reader.cache_config(digest, config);
        }
        reader
    }

    /// Returns what an image consists of, from the cache or a registry.
    pub async fn read(
        &self,
        registry: &Client,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<ImageEntry, Error> {
        if let Some(image) = self.cache().images.get(digest) {
            return Ok(image.clone());
        }
        let source = Source {
            reader: self,
            registry,
            repository,
        };
        let image = source.image(digest).await?;
        let mut cache = self.cache();
        if !cache.images.contains_key(digest) {
            cache.make_room(image.encoded_len() + digest.as_str().len());
            cache.images.insert(digest.clone(), image.clone());
        }
        Ok(image)
    }

    /// Returns a manifest, from the cache or a registry.
    pub async fn document(
        &self,
        registry: &Client,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<RawManifest, Error> {
        if let Some(document) = self.cache().documents.get(digest) {
            return Ok(document.clone());
        }
        let document = registry
            .fetch_raw_manifest(repository, &digest.into())
            .await?;
        self.cache_document(digest, &document);
        Ok(document)
    }

    /// Returns the configuration of an image, from the cache or a registry.
    pub async fn config_bytes(
        &self,
        registry: &Client,
        repository: &Repository,
        config: &Descriptor,
    ) -> Result<Bytes, Error> {
        if let Some(config) = self.cache().configs.get(&config.digest) {
            return Ok(config.clone());
        }
        let bytes = registry.fetch_config_bytes(repository, config).await?;
        self.cache_config(&config.digest, &bytes);
        Ok(bytes)
    }

    /// Returns a manifest from the cache.
    #[must_use]
    pub fn cached_manifest(&self, digest: &Digest) -> Option<Manifest> {
        let document = self.cache().documents.get(digest).cloned();
        document?.parse().ok()
    }

    fn cache_document(&self, digest: &Digest, document: &RawManifest) {
        let mut cache = self.cache();
        if !cache.documents.contains_key(digest) {
            cache.make_room(document.raw().len());
            let document = document.clone();
            cache.documents.insert(digest.clone(), document);
        }
    }

    fn cache_config(&self, digest: &Digest, config: &Bytes) {
        let mut cache = self.cache();
        if !cache.configs.contains_key(digest) {
            cache.make_room(config.len());
            cache.configs.insert(digest.clone(), config.clone());
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The repository from which an image is read.
struct Source<'a> {
    reader: &'a ImageReader,
    registry: &'a Client,
    repository: &'a Repository,
}

impl Source<'_> {
    async fn image(&self, digest: &Digest) -> Result<ImageEntry, Error> {
        let document = self.document(digest).await?;
        let media_type = document.media_type().to_owned();
        let mut children = Vec::new();
        match document.parse() {
            Ok(top) if matches!(top.content, Content::Image { .. }) => {
                children.push(self.child(&top).await?);
            }
            Ok(index) => {
                let mut statement_bytes = MAX_STATEMENT_BYTES;
                for descriptor in index.children() {
                    children.push(self.listed_child(descriptor, &mut statement_bytes).await?);
                }
            }
            Err(error) => children.push(unreadable(digest, &error)),
        }
        bound_labels(&mut children);
        let size_bytes = children
            .iter()
            .map(|child| child.size_bytes)
            .fold(0, u64::saturating_add);
        Ok(ImageEntry {
            digest: digest.to_string(),
            media_type,
            children,
            size_bytes,
            ..Default::default()
        })
    }

    async fn document(&self, digest: &Digest) -> Result<RawManifest, Error> {
        let Self {
            reader,
            registry,
            repository,
        } = self;
        reader.document(registry, repository, digest).await
    }

    async fn listed_child(
        &self,
        listed: &Descriptor,
        statement_bytes: &mut u64,
    ) -> Result<ImageChild, Error> {
        let manifest = match self.document(&listed.digest).await?.parse() {
            Ok(manifest) => manifest,
            Err(error) => return Ok(unreadable(&listed.digest, &error)),
        };
        let sizes = manifest.blobs().map(|blob| blob.size);
        let size_bytes = sizes.fold(0, u64::saturating_add);
        let is_read = manifest.has_attestation_types(listed) && size_bytes <= *statement_bytes;
        if is_read {
            *statement_bytes -= size_bytes;
        }
        if is_read
            && self
                .registry
                .is_attestation(self.repository, listed, &manifest)
                .await?
        {
            return Ok(ImageChild {
                digest: listed.digest.to_string(),
                attestation: true,
                ..Default::default()
            });
        }
        let mut described = self.child(&manifest).await?;
        let platform = listed.platform.as_ref();
        if let Some(platform) = platform.and_then(DescriptorPlatform::platform) {
            described.platform = platform.to_string();
        }
        Ok(described)
    }

    async fn child(&self, manifest: &Manifest) -> Result<ImageChild, Error> {
        let mut child = ImageChild {
            digest: manifest.digest.to_string(),
            ..Default::default()
        };
        child.size_bytes = manifest
            .blobs()
            .map(|blob| blob.size)
            .fold(0, u64::saturating_add);
        let Content::Image { config, .. } = &manifest.content else {
            return Ok(child);
        };
        let Self {
            reader,
            registry,
            repository,
        } = self;
        let read = reader.config_bytes(registry, repository, config).await;
        let read = read.and_then(|raw| Ok(ImageConfig::parse(config.digest.as_str(), &raw)?));
        // The publisher writes the configuration: one that is not an image's is ignored, and the scanner decides.
        match read {
            Ok(mut config) => {
                child.labels = config.take_labels().into_iter().collect();
                child.platform = config
                    .platform
                    .platform()
                    .map(|platform| platform.to_string())
                    .unwrap_or_default();
                child.created_at = config.created.map(time_to_wire);
            }
            Err(Error::Registry(sluice_registry::Error::Untrusted { object, reason })) => {
                tracing::debug!(
                    object,
                    reason,
                    "the configuration of an image cannot be read"
                );
                child.labels_omitted = true;
            }
            Err(error) => return Err(error),
        }
        Ok(child)
    }
}

/// Describes a manifest that cannot be parsed in exactly one way although its bytes match its digest. It counts as an
/// image, so that it needs a verdict, which says that it is unsupported.
fn unreadable(digest: &Digest, error: &sluice_registry::Error) -> ImageChild {
    tracing::debug!(image.digest = %digest, %error, "a manifest cannot be read");
    ImageChild {
        digest: digest.to_string(),
        labels_omitted: true,
        ..Default::default()
    }
}

/// Omits labels that are too many or too large, and marks that: a condition must not take them for absent.
fn bound_labels(children: &mut [ImageChild]) {
    let mut total = 0_usize;
    for child in children {
        let size = child
            .labels
            .iter()
            .map(|(key, value)| key.len() + value.len() + 8)
            .fold(0, usize::saturating_add);
        if child.labels.len() > MAX_LABELS
            || size > MAX_CHILD_LABELS
            || total.saturating_add(size) > MAX_IMAGE_LABELS
        {
            child.labels.clear();
            child.labels_omitted = true;
        } else {
            total += size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(count: usize, size: usize) -> ImageChild {
        ImageChild {
            labels: (0..count)
                .map(|n| (format!("{n:08}"), "x".repeat(size)))
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn labels_that_are_too_many_or_too_large_are_omitted_and_marked() {
        for (count, size, omitted) in [
            (0, 0, false),
            (64, 10, false),
            (65, 10, true),
            (1, 16 << 10, true),
        ] {
            let mut children = [labelled(count, size)];
            bound_labels(&mut children);
            assert_eq!(children[0].labels_omitted, omitted, "{count} of {size}");
            assert_eq!(children[0].labels.len(), if omitted { 0 } else { count });
        }
    }

    #[test]
    fn the_labels_of_a_large_index_stay_within_the_limit_of_an_entry() {
        let mut children = vec![labelled(10, 100); 512];
        bound_labels(&mut children);
        let kept: usize = children
            .iter()
            .flat_map(|child| &child.labels)
            .map(|(key, value)| key.len() + value.len())
            .sum();
        assert!(kept <= MAX_IMAGE_LABELS);
        assert!(!children[0].labels_omitted && children[511].labels_omitted);
    }
}
