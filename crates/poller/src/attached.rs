//! What belongs to mirrored images and lies under tags of its own: signatures, attestations, SBOMs.
//!
//! They are no choice of the mirror's: they follow their image, and are looked at with every poll, because they come late
//! and change. The image comes first: what is attached to it is looked for once it is known.

use std::collections::{BTreeMap, HashSet};

use sluice_domain::resources::Mirror;
use sluice_domain::{Digest, Tag};
use sluice_state::key;

use crate::ask::Known;
use crate::poll::{Error, Poller};

/// What is attached to an image may have attachments itself, and those too; then it is enough.
const MAX_DEPTH: usize = 2;

impl Poller {
    /// Returns those of the attachments that belong to what the mirror has.
    pub(crate) async fn attached(
        &self,
        mirror: &Mirror,
        known: &BTreeMap<Tag, Known>,
        attachments: Vec<Tag>,
    ) -> Result<Vec<Tag>, Error> {
        if attachments.is_empty() {
            return Ok(attachments);
        }
        let mut subjects = HashSet::new();
        for (tag, upstream) in known {
            if let (None, Some(upstream)) = (tag.attached_to(), &upstream.digest) {
                self.hold(mirror, tag, upstream, &mut subjects).await?;
            }
        }
        let (mut rest, mut all) = (attachments, Vec::new());
        for _ in 0..MAX_DEPTH {
            let belongs =
                |tag: &mut Tag| tag.attached_to().is_some_and(|to| subjects.contains(&to));
            let found: Vec<Tag> = rest.extract_if(.., belongs).collect();
            for tag in &found {
                let upstream = known.get(tag).and_then(|known| known.digest.as_ref());
                if let Some(upstream) = upstream {
                    self.hold(mirror, tag, upstream, &mut subjects).await?;
                }
            }
            all.extend(found);
        }
        Ok(all)
    }

    /// Adds the manifests of which a tag consists here.
    ///
    /// Of a part of an index those are others than upstream, and what is attached to the whole does not apply to it.
    async fn hold(
        &self,
        mirror: &Mirror,
        tag: &Tag,
        upstream: &Digest,
        subjects: &mut HashSet<Digest>,
    ) -> Result<(), Error> {
        let mut here = upstream.clone();
        if !mirror.platforms.is_all() && tag.attached_to().is_none() {
            let entry = self.state.tags.get(&key::tag(&mirror.to, tag)).await?;
            match entry.map(|entry| entry.value.digest.parse()) {
                Some(Ok(digest)) => here = digest,
                _ => return Ok(()),
            }
        }
        if let Some(image) = self.state.images.get(&key::image(&here)).await? {
            let children = image.value.children;
            subjects.extend(
                children
                    .iter()
                    .filter_map(|child| child.digest.parse::<Digest>().ok()),
            );
        }
        subjects.insert(here);
        Ok(())
    }
}
