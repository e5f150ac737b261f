//! The entries of images: what each consists of, for finding its attachments and for display.
//!
//! Several services write these entries, so nothing that decides what may be promoted is taken from them.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use sluice_domain::{Digest, Repository, now};
use sluice_events::wire::state::ImageEntry;
use sluice_events::{time_from_wire, time_to_wire};
use sluice_registry::{Client, CopyReport};
use sluice_service::crash;

use crate::State;
use crate::error::Error;
use crate::images::image_reader::ImageReader;
use crate::key;

/// After how long an entry is stamped again when it is read, so that the cleanup does not remove it as unused.
const STAMP_INTERVAL: TimeDelta = TimeDelta::days(1);

/// Returns what an image consists of, from its entry or the registry, and stores the entry.
pub async fn describe(
    state: &State,
    registry: &Client,
    repository: &Repository,
    digest: &Digest,
) -> Result<ImageEntry, Error> {
    let reader = ImageReader::default();
    describe_by(&reader, state, registry, repository, digest).await
}

/// Does the same as [`describe`] for a copied image, without fetching its manifests and configurations again.
pub async fn describe_copied(
    state: &State,
    registry: &Client,
    repository: &Repository,
    copied: &CopyReport,
) -> Result<ImageEntry, Error> {
    let reader = ImageReader::of_copied(copied);
    describe_by(&reader, state, registry, repository, &copied.root.digest).await
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
        if described_at.is_none_or(|at| now() - at > STAMP_INTERVAL) {
            put_image(state, digest, &entry.value).await?;
        }
        return Ok(entry.value);
    }
    let entry = reader.read(registry, repository, digest).await?;
    put_image(state, digest, &entry).await?;
    Ok(entry)
}

/// Updates the entry of an image with what was read from the registry.
pub async fn update_image(state: &State, digest: &Digest, image: &ImageEntry) -> Result<(), Error> {
    let before = state.images.get(&key::image(digest)).await?;
    let is_same = before.is_some_and(|before| {
        let unstamped = ImageEntry {
            schema: image.schema,
            described_at: None,
            ..before.value
        };
        unstamped == *image
    });
    if is_same {
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

/// Reads what an image consists of from a registry: its manifests, their configurations, and the statements of its
/// attestations.
pub async fn read_image(
    registry: &Client,
    repository: &Repository,
    digest: &Digest,
) -> Result<ImageEntry, Error> {
    let reader = ImageReader::default();
    reader.read(registry, repository, digest).await
}

/// Returns the digest of an image and, if it has an entry, the digests of its child manifests.
pub async fn manifests_of(state: &State, digest: &Digest) -> Result<BTreeSet<Digest>, Error> {
    let image = state.images.get(&key::image(digest)).await?;
    let children = image.map(|image| image.value.children).unwrap_or_default();
    let mut manifests: BTreeSet<Digest> = children
        .iter()
        .filter_map(|child| child.digest.parse().ok())
        .collect();
    manifests.insert(digest.clone());
    Ok(manifests)
}
