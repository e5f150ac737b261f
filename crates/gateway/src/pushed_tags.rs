//! Records what people and build systems push and delete, so that every stage finds their tags among the others.
//!
//! What the services push is recorded by whoever does it. A target has a source of truth, by which the promoter goes.

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::{Cause, Outcome};
use sluice_domain::{Digest, Repository, Tag, is_service_account};
use sluice_events::commands::{JudgeImage, PruneRepositories};
use sluice_events::facts::{TagDeleted, TagPushed};
use sluice_state::key;

use crate::reconcile::{Comparer, Error};

/// How long after a notification the registry may still show the tag as it was: Distribution tells of a push before it has
/// written the tag.
const TAG_DELAY: TimeDelta = TimeDelta::seconds(10);
/// How soon it is asked again.
const PROBE_PAUSE: TimeDelta = TimeDelta::milliseconds(500);

/// A tag that somebody pointed to a digest, or deleted.
#[derive(Debug)]
pub(crate) struct ObservedTag {
    pub(crate) repository: Repository,
    pub(crate) tag: Tag,
    pub(crate) digest: Option<Digest>,
    pub(crate) actor: String,
    pub(crate) at: DateTime<Utc>,
}

impl From<TagPushed> for ObservedTag {
    fn from(fact: TagPushed) -> Self {
        Self {
            repository: fact.repository,
            tag: fact.tag,
            digest: Some(fact.digest),
            actor: fact.actor,
            at: fact.at,
        }
    }
}

impl From<TagDeleted> for ObservedTag {
    fn from(fact: TagDeleted) -> Self {
        Self {
            repository: fact.repository,
            tag: fact.tag,
            digest: None,
            actor: fact.actor,
            at: fact.at,
        }
    }
}

impl Comparer {
    /// Records a change once the registry shows it, and asks for what follows from it.
    pub(crate) async fn record(
        &self,
        change: ObservedTag,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        let ObservedTag {
            repository,
            tag,
            digest,
            actor,
            at,
        } = change;
        if is_service_account(&actor) || self.catalog.current().is_target(&repository) {
            return Ok(Outcome::done());
        }
        let is_recorded = self
            .tags
            .observe(&repository, &tag, digest.as_ref(), &actor, at)
            .await
            .map_err(Error::of_state)?;
        if !is_recorded {
            let now = sluice_domain::now();
            if now < cause.time + TAG_DELAY {
                return Err(Error::Unsettled {
                    tag: format!("{repository}:{tag}"),
                    until: now + PROBE_PAUSE,
                });
            }
            // It was changed once more, which has a notification of its own.
            return Ok(Outcome::done());
        }
        let Some(digest) = digest else {
            return Ok(Outcome::done());
        };
        let limit = PruneRepositories {
            policy: None,
            repository: Some(repository.clone()),
        };
        let outcome =
            Outcome::done().command_unless_pending(limit, format!("prune/pushed/{}", cause.id));
        // An image that is scanned later is judged then; of one that was scanned before, nobody else tells.
        if self
            .state
            .verdicts
            .get(&key::verdict(&digest))
            .await?
            .is_none()
        {
            return Ok(outcome);
        }
        let message_id = format!("judge/pushed/{}", cause.id);
        let judge = JudgeImage {
            repository,
            tag,
            digest,
        };
        Ok(outcome.command_unless_pending(judge, message_id))
    }
}
