//! What is known of an upstream tag: what was recorded, and what was told and carried out without being recorded.

use sluice_domain::Digest;
use sluice_domain::resources::Mirror;
use sluice_events::wire::state::{FirstSeen, TagEntry, UpstreamTag};
use sluice_state::Entry;

/// The revision of an entry that is not there.
const UNRECORDED: u64 = 0;

/// One upstream tag.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Its entry.
    pub(crate) recorded: Option<Entry<UpstreamTag>>,
    /// What its entry would be, had the poller not died between telling a move and recording it.
    ahead: Option<Entry<UpstreamTag>>,
}

impl Known {
    /// Takes note of what the tag is in staging, if that is newer than what was recorded.
    pub(crate) fn carry_out(&mut self, mirror: &Mirror, key: String, local: TagEntry) {
        let recorded = self.recorded.as_ref();
        if recorded.is_some_and(|recorded| recorded.value.move_number >= local.move_number) {
            return;
        }
        let mut value = recorded.map_or_else(
            || UpstreamTag {
                mirror: local.mirror,
                source: mirror.from.to_string(),
                repository: local.repository,
                tag: local.tag,
                ..Default::default()
            },
            |recorded| recorded.value.clone(),
        );
        let seen = value.first_seen.iter();
        if !seen.into_iter().any(|seen| seen.digest == local.digest) {
            // It was seen first some time before it arrived.
            value.first_seen.push(FirstSeen {
                digest: local.digest.clone(),
                at: local.arrived_at,
            });
        }
        value.digest = local.digest;
        value.move_number = local.move_number;
        value.gone = false;
        self.ahead = Some(Entry {
            key,
            value,
            revision: recorded.map_or(UNRECORDED, |recorded| recorded.revision),
        });
    }

    /// Returns what a move to a digest is compared with; one that was not recorded is told and recorded once more.
    pub(crate) fn before(&self, digest: &Digest) -> Option<&Entry<UpstreamTag>> {
        let ahead = self.ahead.as_ref();
        let moved = ahead.filter(|ahead| ahead.value.digest != digest.as_str());
        moved.or(self.recorded.as_ref())
    }

    /// Returns what its disappearance is compared with.
    pub(crate) fn last(&self) -> Option<&Entry<UpstreamTag>> {
        self.ahead.as_ref().or(self.recorded.as_ref())
    }
}
