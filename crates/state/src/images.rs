//! What an image consists of, read once from the registry.

use sluice_domain::{Digest, Repository};
use sluice_events::time_to_wire;
use sluice_events::wire::state::{ImageChild, ImageEntry};
use sluice_registry::{Client, Content, Manifest};
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
                let mut described = if manifest.is_attestation(descriptor) {
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
    bound_labels(&mut children);
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
    crash::point("images.described");
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
        Ok(mut config) => {
            child.labels = config.take_labels().into_iter().collect();
            child.platform = config
                .platform
                .platform()
                .map(|platform| platform.to_string())
                .unwrap_or_default();
            child.created_at = config.created.map(time_to_wire);
        }
        Err(sluice_registry::Error::Untrusted { what, reason }) => {
            tracing::debug!(what, reason, "an image has no readable configuration");
            child.labels_omitted = true;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(child)
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
