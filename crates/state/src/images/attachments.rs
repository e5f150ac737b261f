//! Attachments of images: signatures, attestations and SBOMs under tags named after the image's digest.
//!
//! They are found by that digest, and removed when their image leaves the repository.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sluice_domain::{Digest, Repository, Tag};
use sluice_events::wire::state::TagEntry;

use crate::State;
use crate::error::Error;
use crate::images::description::manifests_of;
use crate::images::tag_change::{AlwaysCurrent, Provenance, TagChange, TagChangeOutcome};
use crate::images::tag_writer::TagWriter;
use crate::key;

/// Says whether the entry of a tag is that of an attachment and not of an image.
#[must_use]
pub fn is_attachment(entry: &TagEntry) -> bool {
    let tag = entry.tag.parse::<Tag>();
    tag.is_ok_and(|tag| tag.attached_to().is_some())
}

/// Returns the tags of the attachments of manifests in a target, with their entries.
pub async fn find_attachments(
    state: &State,
    stored: &str,
    manifests: &BTreeSet<Digest>,
) -> Result<Vec<(Tag, TagEntry)>, Error> {
    let (mut attachments, mut seen) = (Vec::new(), manifests.clone());
    let mut level = manifests.clone();
    for _ in 0..Tag::ATTACHMENT_DEPTH {
        let mut next = BTreeSet::new();
        for tag in level.iter().flat_map(Tag::attachments_of) {
            let entry = state.tags.get(&key::stored_tag(stored, &tag)).await?;
            let Some(entry) = entry.map(|entry| entry.value) else {
                continue;
            };
            if let Ok(digest) = entry.digest.parse() {
                next.extend(manifests_of(state, &digest).await?);
            }
            attachments.push((tag, entry));
        }
        next.retain(|digest| seen.insert(digest.clone()));
        level = next;
    }
    Ok(attachments)
}

/// Removes the attachments of images that left a repository, unless another tag there still has the image.
///
/// Manifests stay, as those of the images do. If an image comes back, the next reconciliation mirrors its attachments
/// again.
pub async fn remove_attachments(
    state: &State,
    tags: &TagWriter,
    repository: &Repository,
    removed: &[Digest],
    by: &str,
) -> Result<(), Error> {
    let mut manifests = BTreeSet::new();
    for digest in removed {
        manifests.extend(manifests_of(state, digest).await?);
    }
    let mut attachments = find_attachments(state, repository.as_str(), &manifests).await?;
    attachments.retain(|(_, entry)| !entry.digest.is_empty());
    if attachments.is_empty() {
        return Ok(());
    }
    let subjects = subjects_in(state, repository).await?;
    for (tag, entry) in attachments {
        if tag.attached_to().is_none_or(|to| subjects.contains(&to)) {
            continue;
        }
        let change = TagChange {
            repository,
            tag: &tag,
            wanted: None,
            provenance: Provenance {
                by: by.to_owned(),
                mirror: entry.mirror,
                move_number: entry.move_number,
                ..Provenance::default()
            },
            precondition: &AlwaysCurrent,
        };
        match tags.apply(&change).await? {
            TagChangeOutcome::Done { .. } => {
                tracing::info!(image.repository = %repository, image.tag = %tag, "attachment removed with its image");
            }
            TagChangeOutcome::Superseded | TagChangeOutcome::Refused { .. } => {}
        }
    }
    Ok(())
}

/// Returns the manifests of all images in a repository, to which something may be attached.
async fn subjects_in(state: &State, repository: &Repository) -> Result<BTreeSet<Digest>, Error> {
    let mut tops: BTreeSet<Digest> = BTreeSet::new();
    let filter = key::tags_of(repository);
    let read = state.tags.each(&filter, |_, entry| {
        let image = entry.filter(|entry| !is_attachment(&entry.value));
        if let Some(TagEntry { digest, claim, .. }) = image.map(|entry| entry.value) {
            let claimed = claim.map(|claim| claim.digest);
            let digests = [Some(digest), claimed].into_iter().flatten();
            tops.extend(digests.filter_map(|digest| digest.parse().ok()));
        }
        ControlFlow::Continue(())
    });
    read.await?;
    let mut subjects = BTreeSet::new();
    for top in tops {
        subjects.extend(manifests_of(state, &top).await?);
    }
    Ok(subjects)
}
