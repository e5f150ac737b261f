//! The attachments of mirrored images under tags of their own: signatures, attestations, SBOMs.
//!
//! The tag filter of a mirror does not select them: they follow their image, and every poll checks them, because they
//! are pushed later and change. An image is mirrored first, and its attachments once it is known.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sluice_domain::resources::Mirror;
use sluice_domain::{Digest, Tag};
use sluice_state::{key, manifests_of};

use super::known_tags::KnownTag;
use crate::error::Error;
use crate::handler::Poller;

/// How many entries are read at a time.
const PARALLEL: usize = 16;

impl Poller {
    /// Returns those of the listed attachments whose images the mirror has.
    pub(super) async fn attachments_of(
        &self,
        mirror: &Mirror,
        known: &BTreeMap<Tag, KnownTag>,
        attachments: Vec<Tag>,
    ) -> Result<HashSet<Tag>, Error> {
        if attachments.is_empty() {
            return Ok(HashSet::new());
        }
        let images = known.iter().filter_map(|(tag, known)| {
            let upstream = known.digest.as_ref()?;
            tag.attached_to().is_none().then_some((tag, upstream))
        });
        let reads: Vec<_> = images
            .map(|(tag, upstream)| self.mirrored_manifests(mirror, tag, upstream))
            .collect();
        let mut reads = stream::iter(reads).buffer_unordered(PARALLEL);
        let mut subjects = HashSet::new();
        while let Some(manifests) = reads.try_next().await? {
            subjects.extend(manifests);
        }
        let (mut rest, mut attached) = (attachments, HashSet::new());
        for _ in 0..Tag::ATTACHMENT_DEPTH {
            let is_attached =
                |tag: &mut Tag| tag.attached_to().is_some_and(|to| subjects.contains(&to));
            let level: Vec<Tag> = rest.extract_if(.., is_attached).collect();
            for tag in &level {
                let upstream = known.get(tag).and_then(|known| known.digest.as_ref());
                if let Some(upstream) = upstream {
                    subjects.extend(self.mirrored_manifests(mirror, tag, upstream).await?);
                }
            }
            attached.extend(level);
        }
        Ok(attached)
    }

    /// Returns the digests of a mirrored image and its child manifests.
    ///
    /// A filtered index has another digest than upstream, and attachments of the upstream index do not apply to it.
    async fn mirrored_manifests(
        &self,
        mirror: &Mirror,
        tag: &Tag,
        upstream: &Digest,
    ) -> Result<BTreeSet<Digest>, Error> {
        let mut mirrored = upstream.clone();
        if !mirror.platforms.is_all() && tag.attached_to().is_none() {
            let entry = self.state.tags.get(&key::tag(&mirror.to, tag)).await?;
            match entry.map(|entry| entry.value.digest.parse()) {
                Some(Ok(digest)) => mirrored = digest,
                _ => return Ok(BTreeSet::new()),
            }
        }
        Ok(manifests_of(&self.state, &mirrored).await?)
    }
}
