//! What an image consists of, read once from the registry.

use sluice_domain::{Digest, Repository};
use sluice_events::time_to_wire;
use sluice_events::wire::state::{ImageChild, ImageEntry};
use sluice_registry::{Client, Content, Manifest};

use crate::State;
use crate::error::Error;
use crate::key;

/// Returns what an image consists of, from its entry or else from the registry, and keeps the entry.
///
/// # Errors
/// A failing bus or registry.
pub async fn describe(
    state: &State,
    registry: &Client,
    repository: &Repository,
    digest: &Digest,
) -> Result<ImageEntry, Error> {
    let key = key::image(digest);
    if let Some(entry) = state.images.get(&key).await? {
        return Ok(entry.value);
    }
    let top = registry.manifest(repository, &digest.into()).await?;
    let mut children = Vec::new();
    match &top.content {
        Content::Image { .. } => children.push(child(registry, repository, &top).await?),
        Content::Index { children: listed } => {
            for descriptor in listed {
                let manifest = registry
                    .manifest(repository, &(&descriptor.digest).into())
                    .await?;
                let mut described = if descriptor.is_attestation() {
                    ImageChild {
                        digest: descriptor.digest.to_string(),
                        attestation: true,
                        ..Default::default()
                    }
                } else {
                    child(registry, repository, &manifest).await?
                };
                if let Some(platform) = descriptor
                    .platform
                    .as_ref()
                    .and_then(|platform| platform.platform())
                {
                    described.platform = platform.to_string();
                }
                children.push(described);
            }
        }
    }
    let size_bytes = children
        .iter()
        .map(|child| child.size_bytes)
        .fold(0, u64::saturating_add);
    let entry = ImageEntry {
        digest: digest.to_string(),
        media_type: top.media_type,
        children,
        size_bytes,
        ..Default::default()
    };
    state.images.put(&key, &entry).await?;
    Ok(entry)
}

async fn child(
    registry: &Client,
    repository: &Repository,
    manifest: &Manifest,
) -> Result<ImageChild, Error> {
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
    // The configuration is the publisher's: one that is no image's tells nothing, and the scanner says the rest.
    match registry.config(repository, config).await {
        Ok(config) => {
            child.platform = config
                .platform
                .platform()
                .map(|platform| platform.to_string())
                .unwrap_or_default();
            child.created_at = config.created.map(time_to_wire);
        }
        Err(sluice_registry::Error::Untrusted { what, reason }) => {
            tracing::debug!(what, reason, "an image has no readable configuration");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(child)
}
