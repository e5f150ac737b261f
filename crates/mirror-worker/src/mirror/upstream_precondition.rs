//! The precondition of a mirrored tag: its entry in `upstream`.

use chrono::TimeDelta;
use sluice_domain::{Digest, Repository, ResourceName, Tag};
use sluice_events::time_from_wire;
use sluice_events::wire::state::TagEntry;
use sluice_registry::Client;
use sluice_state::{Entry, Freshness, Precondition, State, key};

use super::task::MirrorTask;
use crate::handler::MirrorWorker;

/// When the poll of a mirror is checked again.
const POLL_CHECK_INTERVAL: TimeDelta = TimeDelta::seconds(5);

/// The precondition that a move is the newest one of its tag, by the entry in `upstream`.
///
/// An entry that is older than the event does not contradict it: the event is published before the entry is written.
/// Two moves may have one number: the poller may die before it records the first, and find another digest then; the
/// recorded one counts. A move whose tag retention removed is over: a late delivery must not mirror the tag again.
pub(crate) struct UpstreamPrecondition<'a> {
    pub(crate) state: &'a State,
    pub(crate) registry: &'a Client,
    pub(crate) mirror: &'a ResourceName,
    pub(crate) repository: &'a Repository,
    pub(crate) tag: &'a Tag,
    /// The digest of the move; `None` for a deletion.
    pub(crate) digest: Option<&'a Digest>,
    pub(crate) move_number: u64,
}

impl UpstreamPrecondition<'_> {
    /// Fails if the state may be older than the registry: after a restore, until the mirror was polled once.
    ///
    /// The poll finds the moves since the backup, with higher numbers, and this move is superseded.
    async fn ensure_polled_since_restore(
        &self,
        local: Option<&TagEntry>,
    ) -> Result<(), sluice_state::Error> {
        let (_, restored) = self.state.pause_and_restore().await?;
        let Some(at) = restored.and_then(|restored| time_from_wire(restored.at.as_ref())) else {
            return Ok(());
        };
        let poll = self.state.polls.get(&key::poll(self.mirror)).await?;
        let is_polled = poll.is_some_and(|Entry { value, .. }| {
            value.failures == 0
                && time_from_wire(value.polled_at.as_ref()).is_some_and(|polled| polled > at)
        });
        if is_polled {
            return Ok(());
        }
        if let Some(digest) = self.digest {
            let head = self
                .registry
                .head(self.repository, &self.tag.into())
                .await?;
            let is_known = |current: &str| {
                local.is_some_and(|local| {
                    let claim = local.claim.as_ref();
                    local.digest == current || claim.is_some_and(|claim| claim.digest == current)
                })
            };
            if head.is_none_or(|head| head.digest == *digest || is_known(head.digest.as_str())) {
                return Ok(());
            }
        }
        Err(sluice_state::Error::BehindRegistry {
            tag: format!("{}:{}", self.repository, self.tag),
            until: sluice_domain::now() + POLL_CHECK_INTERVAL,
        })
    }
}

impl Precondition for UpstreamPrecondition<'_> {
    async fn freshness(&self) -> Result<Freshness, sluice_state::Error> {
        let entry = self
            .state
            .upstream
            .get(&key::upstream(self.mirror, self.tag))
            .await?;
        let is_newer = entry.is_some_and(|Entry { value, .. }| {
            let is_same = match self.digest {
                Some(digest) => !value.deleted && value.digest == digest.as_str(),
                None => value.deleted,
            };
            value.move_number > self.move_number
                || (value.move_number == self.move_number && !is_same)
        });
        let local = self
            .state
            .tags
            .get(&key::tag(self.repository, self.tag))
            .await?;
        let local = local.map(|entry| entry.value);
        let is_pruned = local.as_ref().is_some_and(|local| {
            local.pruned
                && local.mirror == self.mirror.as_str()
                && local.move_number >= self.move_number
        });
        if is_newer || is_pruned {
            return Ok(Freshness::Superseded);
        }
        self.ensure_polled_since_restore(local.as_ref()).await?;
        Ok(Freshness::Current)
    }
}

impl MirrorWorker {
    /// Returns the precondition that a move is the newest one of its tag.
    pub(crate) const fn move_precondition<'a>(
        &'a self,
        task: &'a MirrorTask,
    ) -> UpstreamPrecondition<'a> {
        UpstreamPrecondition {
            state: &self.state,
            registry: &self.registry,
            mirror: &task.mirror,
            repository: &task.repository,
            tag: &task.tag,
            digest: Some(&task.digest),
            move_number: task.move_number,
        }
    }
}
