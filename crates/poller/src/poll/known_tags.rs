//! What the state knows of the upstream tags of a mirror.

use std::collections::BTreeMap;

use sluice_domain::resources::Mirror;
use sluice_domain::{Digest, Tag};
use sluice_events::subject;
use sluice_events::wire::state::UpstreamTag;
use sluice_state::{Entry, State};

use super::tag_moves::{Observation, TagState};
use crate::error::Error;

/// How many entries are read at a time.
const PAGE: usize = 500;

/// What of an entry shows that nothing changed; whole entries are long, and mirrors may have many tags.
#[derive(Debug)]
pub(super) struct KnownTag {
    pub(super) revision: u64,
    pub(super) move_number: u64,
    /// The digest of the tag; `None` if it was deleted upstream.
    pub(super) digest: Option<Digest>,
    /// Whether the entry is of the mirror's present source and repository.
    is_same_mirror: bool,
    /// Whether every move was published.
    pub(super) is_published: bool,
}

impl KnownTag {
    fn of(mirror: &Mirror, entry: &Entry<UpstreamTag>) -> Self {
        let state = TagState::of(&entry.value);
        Self {
            revision: entry.revision,
            move_number: state.move_number,
            digest: state.digest.parse().ok(),
            is_same_mirror: state.is_of(mirror),
            is_published: entry.value.pending.is_empty(),
        }
    }

    /// Says whether an observation is no move, and no move waits to be published.
    pub(super) fn is_unchanged(&self, observation: &Observation) -> bool {
        let is_same = match observation {
            Observation::Present(digest) => {
                self.is_same_mirror && self.digest.as_ref() == Some(digest)
            }
            Observation::Deleted => self.digest.is_none(),
            Observation::Unknown => true,
        };
        is_same && self.is_published
    }
}

/// Reads what the state knows of all tags of a mirror.
pub(super) async fn read_known_tags(
    state: &State,
    mirror: &Mirror,
) -> Result<BTreeMap<Tag, KnownTag>, Error> {
    let filter = format!("{}.*", subject::encode(mirror.name.as_str()));
    let (mut known, mut after) = (BTreeMap::new(), 0);
    loop {
        let page = state.upstream.page(&filter, after, PAGE).await?;
        for entry in page.entries {
            let tag = entry.key.rsplit('.').next().and_then(subject::decode);
            if let Some(tag) = tag.and_then(|tag| tag.parse().ok()) {
                known.insert(tag, KnownTag::of(mirror, &entry));
            }
        }
        match page.next {
            Some(next) => after = next,
            None => return Ok(known),
        }
    }
}
