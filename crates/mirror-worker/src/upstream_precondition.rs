//! The source of truth of a mirrored tag.

use chrono::TimeDelta;
use sluice_domain::{Digest, Repository, ResourceName, Tag};
use sluice_events::time_from_wire;
use sluice_events::wire::state::TagEntry;
use sluice_registry::Client;
use sluice_state::{Entry, Freshness, Precondition, State, key};

/// When it is looked again whether a mirror was polled.
const POLLED_BY: TimeDelta = TimeDelta::seconds(5);

/// The source of truth of a mirrored tag: its `upstream` entry.
///
/// An entry that is behind the event is no contradiction: the event is published before the entry is written.
/// Two moves may have one number: the poller may die before it records the first, and find another digest then. The one
/// that was recorded counts. A move whose tag retention removed again is over: a late delivery must not bring it back.
pub(crate) struct Upstream<'a> {
    pub(crate) state: &'a State,
    pub(crate) registry: &'a Client,
    pub(crate) mirror: &'a ResourceName,
    pub(crate) repository: &'a Repository,
    pub(crate) tag: &'a Tag,
    /// What the move led to; nothing if the tag is gone.
    pub(crate) digest: Option<&'a Digest>,
    pub(crate) move_number: u64,
}

impl Upstream<'_> {
    /// Refuses what may be older than the registry: after a restore, until the mirror was polled once.
    ///
    /// The poll finds what moved since the backup, as a move with a higher number, and this one is superseded.
    async fn not_behind(&self, local: Option<&TagEntry>) -> Result<(), sluice_state::Error> {
        let (_, restored) = self.state.control_now().await?;
        let Some(at) = restored.and_then(|restored| time_from_wire(restored.at.as_ref())) else {
            return Ok(());
        };
        let poll = self.state.polls.get(&key::poll(self.mirror)).await?;
        let polled = poll.is_some_and(|Entry { value, .. }| {
            value.failures == 0
                && time_from_wire(value.polled_at.as_ref()).is_some_and(|polled| polled > at)
        });
        if polled {
            return Ok(());
        }
        if let Some(digest) = self.digest {
            let head = self
                .registry
                .head(self.repository, &self.tag.into())
                .await?;
            let known = |there: &str| {
                local.is_some_and(|local| {
                    local.digest == there
                        || local
                            .claim
                            .as_ref()
                            .is_some_and(|claim| claim.digest == there)
                })
            };
            if head.is_none_or(|head| head.digest == *digest || known(head.digest.as_str())) {
                return Ok(());
            }
        }
        Err(sluice_state::Error::Behind {
            tag: format!("{}:{}", self.repository, self.tag),
            until: sluice_domain::now() + POLLED_BY,
        })
    }
}

impl Precondition for Upstream<'_> {
    async fn freshness(&self) -> Result<Freshness, sluice_state::Error> {
        let entry = self
            .state
            .upstream
            .get(&key::upstream(self.mirror, self.tag))
            .await?;
        let newer = entry.is_some_and(|Entry { value, .. }| {
            let same = match self.digest {
                Some(digest) => !value.gone && value.digest == digest.as_str(),
                None => value.gone,
            };
            value.move_number > self.move_number || (value.move_number == self.move_number && !same)
        });
        let local = self
            .state
            .tags
            .get(&key::tag(self.repository, self.tag))
            .await?;
        let local = local.map(|entry| entry.value);
        let pruned = local.as_ref().is_some_and(|local| {
            local.pruned
                && local.mirror == self.mirror.as_str()
                && local.move_number >= self.move_number
        });
        if newer || pruned {
            return Ok(Freshness::Superseded);
        }
        self.not_behind(local.as_ref()).await?;
        Ok(Freshness::Current)
    }
}
