//! Mirrors of some platforms: what is kept here is then not what upstream has, but a part of it.

use sluice_domain::resources::{Mirror, Platforms};
use sluice_domain::{Digest, Tag};
use sluice_events::facts::UpstreamTagMoved;
use sluice_state::{Part, Snapshot, key};

use crate::mirror::{Error, MirrorWorker};

/// Returns the platforms that a mirror wants of a tag; what is attached to an image has none.
pub(crate) fn wanted<'a>(mirror: &'a Mirror, tag: &Tag) -> &'a Platforms {
    if tag.attached_to().is_some() {
        return &Platforms::All;
    }
    &mirror.platforms
}

/// Returns the platforms that the mirror of a move wants.
pub(crate) fn platforms<'a>(catalog: &'a Snapshot, fact: &UpstreamTagMoved) -> &'a Platforms {
    let mirror = catalog.mirrors.get(&fact.mirror);
    mirror.map_or(&Platforms::All, |mirror| wanted(mirror, &fact.tag))
}

/// Returns what a digest, to which a move leads here, is a part of.
pub(crate) fn part(catalog: &Snapshot, fact: &UpstreamTagMoved, here: &Digest) -> Part {
    Part {
        source: Some(fact.digest.clone()).filter(|source| source != here),
        platforms: platforms(catalog, fact).stored(),
    }
}

impl MirrorWorker {
    /// Returns what a superseded move may have left at its tag: a part, if what is there says so, of what upstream had.
    pub(crate) async fn left(
        &self,
        catalog: &Snapshot,
        fact: &UpstreamTagMoved,
    ) -> Result<(Digest, Part), Error> {
        let key = key::tag(&fact.repository, &fact.tag);
        let entry = self.state.tags.get(&key).await?;
        let was_part = entry.is_some_and(|entry| !entry.value.source_digest.is_empty());
        if !was_part && platforms(catalog, fact).is_all() {
            return Ok((fact.digest.clone(), Part::default()));
        }
        let tag = (&fact.tag).into();
        let left = match self.registry.manifest(&fact.repository, &tag).await {
            Ok(there) if there.part_of().as_ref() == Some(&fact.digest) => there.digest,
            Ok(_) => fact.digest.clone(),
            Err(error) if error.is_not_found() => fact.digest.clone(),
            Err(error) => return Err(error.into()),
        };
        let part = part(catalog, fact, &left);
        Ok((left, part))
    }
}
