//! What an image consists of, read from the bytes that the registry has of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::TimeDelta;
use prost::Message as _;
use sluice_domain::{Digest, Repository, now};
use sluice_events::wire::state::{ImageChild, ImageEntry};
use sluice_events::{time_from_wire, time_to_wire};
use sluice_registry::{
    Client, Content, Copied, Descriptor, DescriptorPlatform, Document, ImageConfig, Manifest,
};
use sluice_service::crash;

use crate::State;
use crate::error::Error;
use crate::key;

/// The most labels of one manifest that are kept.
const MAX_LABELS: usize = 64;
/// The most bytes of labels that are kept of one manifest.
const MAX_CHILD_LABELS: usize = 16 << 10;
/// The most bytes of labels that are kept of one image; with 512 children the entry stays within its limit.
const MAX_IMAGE_LABELS: usize = 96 << 10;
/// The most bytes of statements that are read of one image; what is beyond that needs a scan.
const MAX_STATEMENT_BYTES: u64 = 256 << 20;
/// How long after it was described an image is not described again because somebody asks.
const FRESH: TimeDelta = TimeDelta::days(1);
/// The most bytes that a reader remembers; then it begins anew.
const MAX_REMEMBERED_BYTES: usize = 32 << 20;

/// Returns what an image consists of, from its entry or else from the registry, and keeps the entry.
///
/// Others write these entries too: they are good for finding what is attached and for showing, and nothing that decides
/// what may be promoted is taken from them.
///
/// # Errors
/// A failing bus or registry.
pub async fn describe(
    state: &State,
    registry: &Client,
    repository: &Repository,
    digest: &Digest,
) -> Result<ImageEntry, Error> {
    let reader = ImageReader::default();
    describe_by(&reader, state, registry, repository, digest).await
}

/// Returns and keeps the same of what was copied, whose manifests and configurations are at hand.
///
/// # Errors
/// As [`describe`].
pub async fn describe_copied(
    state: &State,
    registry: &Client,
    repository: &Repository,
    copied: &Copied,
) -> Result<ImageEntry, Error> {
    let reader = ImageReader::of_copied(copied);
    describe_by(&reader, state, registry, repository, &copied.top.digest).await
}

async fn describe_by(
    reader: &ImageReader,
    state: &State,
    registry: &Client,
    repository: &Repository,
    digest: &Digest,
) -> Result<ImageEntry, Error> {
    if let Some(entry) = state.images.get(&key::image(digest)).await? {
        let described_at = time_from_wire(entry.value.described_at.as_ref());
        // Whoever asks has a use for it, so it is not forgotten as one that nobody has.
        if described_at.is_none_or(|at| now() - at > FRESH) {
            put_image(state, digest, &entry.value).await?;
        }
        return Ok(entry.value);
    }
    let entry = reader.read(registry, repository, digest).await?;
    put_image(state, digest, &entry).await?;
    Ok(entry)
}

/// Writes what was read of an image over what its entry says, if that is something else.
///
/// # Errors
/// A failing bus.
pub async fn note_image(state: &State, digest: &Digest, image: &ImageEntry) -> Result<(), Error> {
    let before = state.images.get(&key::image(digest)).await?;
    let says_it = before.is_some_and(|before| {
        let unstamped = ImageEntry {
            schema: image.schema,
            described_at: None,
            ..before.value
        };
        unstamped == *image
    });
    if says_it {
        return Ok(());
    }
    put_image(state, digest, image).await
}

async fn put_image(state: &State, digest: &Digest, image: &ImageEntry) -> Result<(), Error> {
    let image = ImageEntry {
        described_at: Some(time_to_wire(now())),
        ..image.clone()
    };
    state.images.put(&key::image(digest), &image).await?;
    crash::point("images.described");
    Ok(())
}

/// What images consist of, computed from the bytes that their digests name; bytes and results are remembered by digest.
///
/// It reads no entry, since what it says decides what may be promoted.
#[derive(Debug, Clone, Default)]
pub struct ImageReader {
    read: Arc<Mutex<Remembered>>,
}

#[derive(Debug, Default)]
struct Remembered {
    images: HashMap<Digest, ImageEntry>,
    documents: HashMap<Digest, Document>,
    configs: HashMap<Digest, Bytes>,
    size_bytes: usize,
}

impl Remembered {
    /// Counts what is to be remembered besides; where that is too much, the rest is forgotten.
    fn make_room(&mut self, size_bytes: usize) {
        if self.size_bytes + size_bytes > MAX_REMEMBERED_BYTES {
            *self = Self::default();
        }
        self.size_bytes += size_bytes;
    }
}

impl ImageReader {
    /// Makes one that knows the manifests and configurations of a copy, so that they are not fetched again.
    fn of_copied(copied: &Copied) -> Self {
        let reader = Self::default();
        for manifest in copied.below.iter().chain([&copied.top]) {
            reader.remember_document(&manifest.digest, &manifest.into());
        }
        for (digest, config) in &copied.configs {
            reader.remember_config(digest, config);
        }
        reader
    }

    /// Returns what an image consists of, from a registry unless it was read before.
    ///
    /// # Errors
    /// A failing registry.
    pub async fn read(
        &self,
        registry: &Client,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<ImageEntry, Error> {
        if let Some(image) = self.remembered().images.get(digest) {
            return Ok(image.clone());
        }
        let source = Source {
            reader: self,
            registry,
            repository,
        };
        let image = source.image(digest).await?;
        let mut remembered = self.remembered();
        if !remembered.images.contains_key(digest) {
            remembered.make_room(image.encoded_len() + digest.as_str().len());
            remembered.images.insert(digest.clone(), image.clone());
        }
        Ok(image)
    }

    /// Returns a manifest, from a registry unless it was read before.
    ///
    /// # Errors
    /// A failing registry.
    pub async fn document(
        &self,
        registry: &Client,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Document, Error> {
        if let Some(document) = self.remembered().documents.get(digest) {
            return Ok(document.clone());
        }
        let document = registry.document(repository, &digest.into()).await?;
        self.remember_document(digest, &document);
        Ok(document)
    }

    /// Returns the configuration of an image, from a registry unless it was read before.
    ///
    /// # Errors
    /// A failing registry.
    pub async fn config_bytes(
        &self,
        registry: &Client,
        repository: &Repository,
        config: &Descriptor,
    ) -> Result<Bytes, Error> {
        if let Some(config) = self.remembered().configs.get(&config.digest) {
            return Ok(config.clone());
        }
        let bytes = registry.config_bytes(repository, config).await?;
        self.remember_config(&config.digest, &bytes);
        Ok(bytes)
    }

    /// Returns a manifest that was read before.
    #[must_use]
    pub fn known_manifest(&self, digest: &Digest) -> Option<Manifest> {
        let document = self.remembered().documents.get(digest).cloned();
        document?.read().ok()
    }

    fn remember_document(&self, digest: &Digest, document: &Document) {
        let mut remembered = self.remembered();
        if !remembered.documents.contains_key(digest) {
            remembered.make_room(document.raw().len());
            let document = document.clone();
            remembered.documents.insert(digest.clone(), document);
        }
    }

    fn remember_config(&self, digest: &Digest, config: &Bytes) {
        let mut remembered = self.remembered();
        if !remembered.configs.contains_key(digest) {
            remembered.make_room(config.len());
            remembered.configs.insert(digest.clone(), config.clone());
        }
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what an image consists of from a registry: its manifests, their configurations, and the statements of what is
/// taken for an attestation.
///
/// # Errors
/// A failing registry.
pub async fn read_image(
    registry: &Client,
    repository: &Repository,
    digest: &Digest,
) -> Result<ImageEntry, Error> {
    let reader = ImageReader::default();
    reader.read(registry, repository, digest).await
}

/// The repository from which an image is read, and what was read of it before.
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
        match document.read() {
            Ok(top) if matches!(top.content, Content::Image { .. }) => {
                children.push(self.child(&top).await?);
            }
            Ok(index) => {
                let mut left = MAX_STATEMENT_BYTES;
                for descriptor in index.children() {
                    children.push(self.listed_child(descriptor, &mut left).await?);
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

    async fn document(&self, digest: &Digest) -> Result<Document, Error> {
        let Self {
            reader,
            registry,
            repository,
        } = self;
        reader.document(registry, repository, digest).await
    }

    async fn listed_child(&self, listed: &Descriptor, left: &mut u64) -> Result<ImageChild, Error> {
        let manifest = match self.document(&listed.digest).await?.read() {
            Ok(manifest) => manifest,
            Err(error) => return Ok(unreadable(&listed.digest, &error)),
        };
        let sizes = manifest.blobs().map(|blob| blob.size);
        let size_bytes = sizes.fold(0, u64::saturating_add);
        let is_read = manifest.is_shaped_as_attestation(listed) && size_bytes <= *left;
        if is_read {
            *left -= size_bytes;
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
        let read = read.and_then(|raw| Ok(ImageConfig::read(config.digest.as_str(), &raw)?));
        // The configuration is the publisher's: one that is no image's tells nothing, and the scanner says the rest.
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
            Err(Error::Registry(sluice_registry::Error::Untrusted { what, reason })) => {
                tracing::debug!(what, reason, "an image has no readable configuration");
                child.labels_omitted = true;
            }
            Err(error) => return Err(error),
        }
        Ok(child)
    }
}

/// Stands for a manifest that has not exactly one reading although its bytes are those of its digest. It counts as an
/// image, so that it needs a verdict, which says that it is unsupported.
fn unreadable(digest: &Digest, error: &sluice_registry::Error) -> ImageChild {
    tracing::debug!(image.digest = %digest, %error, "a manifest cannot be read");
    ImageChild {
        digest: digest.to_string(),
        labels_omitted: true,
        ..Default::default()
    }
}

/// Leaves out labels that are too many or too large, and says so: a condition must not take them for absent.
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
    fn labels_that_are_too_many_or_too_large_are_left_out_and_that_is_said() {
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
