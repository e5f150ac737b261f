//! The index of a list of referrers, merged from what several writers attached under one tag.

use sluice_domain::{Digest, Repository, Tag};
use sluice_events::wire::state::TagEntry;
use sluice_registry::{Client, Manifest};

use crate::error::Error;
use crate::images::tag_change::{Freshness, Precondition};

/// An index that a tag is to name, merged with the referrers that others listed there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedIndex {
    /// The merged manifest; the tag may be pointed to it while it names `before`.
    pub top: Manifest,
    /// The digest that the tag names.
    pub before: Option<Digest>,
}

/// Merges a manifest for a tag with the referrers that others listed there (OCI distribution specification 1.1).
///
/// A manifest from the same source is replaced and not merged, so that a referrer deleted at the source is deleted
/// here. `None` if the tag names a manifest of others that is not a list of referrers.
pub async fn merge_index(
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
    let there = registry
        .fetch_manifest(repository, &(&before).into())
        .await?;
    let top = match top.merge_referrers(&there) {
        Ok(top) => top,
        Err(error) => {
            tracing::warn!(%error, image.repository = %repository, image.tag = %tag, "the tag names a manifest that is not a list of referrers");
            return Ok(None);
        }
    };
    let reference = (&top.digest).into();
    registry.put_manifest(repository, &reference, &top).await?;
    let before = Some(before);
    Ok(Some(MergedIndex { top, before }))
}

/// The precondition of a merged index: that of its source, and that the tag still names the index it was merged with.
#[derive(Debug)]
pub struct IfUnchanged<'a, T> {
    /// The precondition of the source.
    pub precondition: &'a T,
    /// The registry of the tag.
    pub registry: &'a Client,
    /// The repository of the tag.
    pub repository: &'a Repository,
    /// The tag.
    pub tag: &'a Tag,
    /// The digest that the tag named at the merge.
    pub before: Option<&'a Digest>,
    /// The digest of the merged index.
    pub after: &'a Digest,
}

impl<T: Precondition> Precondition for IfUnchanged<'_, T> {
    /// Fails after a change of the tag, so that the next delivery merges anew.
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
            what: format!("tag `{}:{}`", self.repository, self.tag),
        })
    }
}
