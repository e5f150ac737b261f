//! What is attached to images lies under tags of its own: it is found by its manifest, joined with what others attached,
//! and goes when its image does.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sluice_domain::{Digest, Repository, Tag};
use sluice_events::wire::state::TagEntry;
use sluice_registry::{Client, Manifest};

use crate::State;
use crate::error::Error;
use crate::key;
use crate::tags::{
    AlwaysCurrent, Applied, Freshness, Precondition, Provenance, TagChange, TagWriter,
};

/// Returns an image and the manifests of which it consists, as far as they are known.
///
/// # Errors
/// A failing bus.
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

/// Says whether an entry is that of something attached to an image, which is no image itself.
#[must_use]
pub fn is_attachment(entry: &TagEntry) -> bool {
    let tag = entry.tag.parse::<Tag>();
    tag.is_ok_and(|tag| tag.attached_to().is_some())
}

/// Returns what is attached to manifests of a target, by its entries: tags with what they name.
///
/// # Errors
/// A failing bus.
pub async fn attached(
    state: &State,
    stored: &str,
    manifests: &BTreeSet<Digest>,
) -> Result<Vec<(Tag, TagEntry)>, Error> {
    let (mut found, mut seen) = (Vec::new(), manifests.clone());
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
            found.push((tag, entry));
        }
        next.retain(|digest| seen.insert(digest.clone()));
        level = next;
    }
    Ok(found)
}

/// Removes what was attached to images that left a repository, and to nothing that is there still.
///
/// Its manifests stay as those of the images do. Where one of the images comes back, so does what is attached to it: with
/// the next search for missing work.
///
/// # Errors
/// As [`TagWriter::apply`].
pub async fn detach(
    state: &State,
    tags: &TagWriter,
    repository: &Repository,
    gone: &[Digest],
    by: &str,
) -> Result<(), Error> {
    let mut left = BTreeSet::new();
    for digest in gone {
        left.extend(manifests_of(state, digest).await?);
    }
    let attached = attached(state, repository.as_str(), &left).await?;
    let attached: Vec<_> = attached
        .into_iter()
        .filter(|(_, entry)| !entry.digest.is_empty())
        .collect();
    if attached.is_empty() {
        return Ok(());
    }
    let held = held(state, repository).await?;
    for (tag, entry) in attached {
        if tag.attached_to().is_none_or(|to| held.contains(&to)) {
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
            Applied::Settled { .. } => {
                tracing::info!(image.repository = %repository, image.tag = %tag, "removed with what it was attached to");
            }
            Applied::Superseded | Applied::Refused { .. } => {}
        }
    }
    Ok(())
}

/// Returns the manifests of everything in a repository to which something may be attached.
///
/// # Errors
/// A failing bus.
pub(crate) async fn held(
    state: &State,
    repository: &Repository,
) -> Result<BTreeSet<Digest>, Error> {
    let mut tops: BTreeSet<Digest> = BTreeSet::new();
    let filter = key::tags_of(repository);
    let named = state.tags.each(&filter, |_, entry| {
        let image = entry.filter(|entry| !is_attachment(&entry.value));
        if let Some(TagEntry { digest, claim, .. }) = image.map(|entry| entry.value) {
            let claimed = claim.map(|claim| claim.digest);
            let named = [Some(digest), claimed].into_iter().flatten();
            tops.extend(named.filter_map(|digest| digest.parse().ok()));
        }
        ControlFlow::Continue(())
    });
    named.await?;
    let mut held = BTreeSet::new();
    for top in tops {
        held.extend(manifests_of(state, &top).await?);
    }
    Ok(held)
}

/// An index that a tag is to name, merged with what others attached there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedIndex {
    /// What it is to name, if it still names what it did.
    pub top: Manifest,
    /// What it names.
    pub before: Option<Digest>,
}

/// Joins what is to come to a tag of a target with what others listed there (OCI distribution specification 1.1).
///
/// What came from the same place before is replaced and not joined, so that what was taken back there is taken back here.
/// Nothing is returned where others have the tag, and it is no list that could hold both.
///
/// # Errors
/// A failing registry, or a list that is none.
pub async fn merge(
    registry: &Client,
    repository: &Repository,
    tag: &Tag,
    entry: Option<&TagEntry>,
    top: Manifest,
) -> Result<Option<MergedIndex>, Error> {
    let head = registry.head(repository, &tag.into()).await?;
    let Some(before) = head.map(|head| head.digest) else {
        return Ok(Some(MergedIndex { top, before: None }));
    };
    let is_ours = entry.is_some_and(|entry| {
        let is_known = entry.move_number > 0 || entry.promoted_from.is_some();
        is_known && entry.source_digest.is_empty() && entry.digest == before.as_str()
    });
    if is_ours || before == top.digest || registry.is_tombstone(repository, &before).await? {
        let before = Some(before);
        return Ok(Some(MergedIndex { top, before }));
    }
    if !tag.is_list() {
        return Ok(None);
    }
    let there = registry.manifest(repository, &(&before).into()).await?;
    let top = match top.merged(&there) {
        Ok(top) => top,
        Err(error) => {
            tracing::warn!(%error, image.repository = %repository, image.tag = %tag, "what others have put there is no list");
            return Ok(None);
        }
    };
    let reference = (&top.digest).into();
    registry.put_manifest(repository, &reference, &top).await?;
    let before = Some(before);
    Ok(Some(MergedIndex { top, before }))
}

/// The precondition of a merged list: that of its source, and that the tag still names what it was merged with.
#[derive(Debug)]
pub struct IfUnchanged<'a, T> {
    /// The truth of its source.
    pub precondition: &'a T,
    /// The registry.
    pub registry: &'a Client,
    /// The repository.
    pub repository: &'a Repository,
    /// The tag.
    pub tag: &'a Tag,
    /// What the tag named.
    pub before: Option<&'a Digest>,
    /// What it is to name.
    pub after: &'a Digest,
}

impl<T: Precondition> Precondition for IfUnchanged<'_, T> {
    /// Where somebody else changed the list, it is joined anew with the next delivery.
    async fn freshness(&self) -> Result<Freshness, Error> {
        if self.precondition.freshness().await? == Freshness::Superseded {
            return Ok(Freshness::Superseded);
        }
        let head = self
            .registry
            .head(self.repository, &self.tag.into())
            .await?;
        let there = head.map(|head| head.digest);
        if there.as_ref() == self.before || there.as_ref() == Some(self.after) {
            return Ok(Freshness::Current);
        }
        Err(Error::TooManyConflicts {
            tag: format!("{}:{}", self.repository, self.tag),
        })
    }
}
