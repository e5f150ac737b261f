//! What belongs to mirrored images and lies under tags of its own: signatures, attestations, SBOMs.
//!
//! They are no choice of the mirror's: they follow their image, and are looked at with every poll, because they come late
//! and change. The image comes first: what is attached to it is looked for once it is known.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sluice_domain::resources::Mirror;
use sluice_domain::{Digest, Tag};
use sluice_state::{key, manifests_of};

use crate::poll::{Error, Poller};
use crate::tag_poll::KnownTag;

/// How many entries are read at a time.
const PARALLEL: usize = 16;

impl Poller {
    /// Returns those of the attachments that belong to what the mirror has.
    pub(crate) async fn attached(
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
        let looks: Vec<_> = images
            .map(|(tag, upstream)| self.held(mirror, tag, upstream))
            .collect();
        let mut looks = stream::iter(looks).buffer_unordered(PARALLEL);
        let mut subjects = HashSet::new();
        while let Some(held) = looks.try_next().await? {
            subjects.extend(held);
        }
        let (mut rest, mut all) = (attachments, HashSet::new());
        for _ in 0..Tag::ATTACHMENT_DEPTH {
            let belongs =
                |tag: &mut Tag| tag.attached_to().is_some_and(|to| subjects.contains(&to));
            let found: Vec<Tag> = rest.extract_if(.., belongs).collect();
            for tag in &found {
                let upstream = known.get(tag).and_then(|known| known.digest.as_ref());
                if let Some(upstream) = upstream {
                    subjects.extend(self.held(mirror, tag, upstream).await?);
                }
            }
            all.extend(found);
        }
        Ok(all)
    }

    /// Returns the manifests of which a tag consists here.
    ///
    /// Of a part of an index those are others than upstream, and what is attached to the whole does not apply to it.
    async fn held(
        &self,
        mirror: &Mirror,
        tag: &Tag,
        upstream: &Digest,
    ) -> Result<BTreeSet<Digest>, Error> {
        let mut here = upstream.clone();
        if !mirror.platforms.is_all() && tag.attached_to().is_none() {
            let entry = self.state.tags.get(&key::tag(&mirror.to, tag)).await?;
            match entry.map(|entry| entry.value.digest.parse()) {
                Some(Ok(digest)) => here = digest,
                _ => return Ok(BTreeSet::new()),
            }
        }
        Ok(manifests_of(&self.state, &here).await?)
    }
}
