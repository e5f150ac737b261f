//! Records the tags that clients of the registry push and delete, so that every stage finds them.
//!
//! The services record their own pushes. Pushes into targets are left to the promoter.

use chrono::TimeDelta;
use sluice_bus::{Cause, Outcome};
use sluice_domain::is_service_account;
use sluice_events::commands::{JudgeImage, PruneRepositories};
use sluice_state::key;

use super::observed_tag::ObservedTag;
use crate::error::Error;
use crate::handler::RegistryObserver;

/// How long after a notification the registry may still show the old tag: Distribution notifies before it writes the
/// tag.
const TAG_DELAY: TimeDelta = TimeDelta::seconds(10);
/// When the registry is checked again.
const CHECK_INTERVAL: TimeDelta = TimeDelta::milliseconds(500);

impl RegistryObserver {
    /// Records a pushed or deleted tag once the registry shows it, and publishes the commands that follow.
    pub(crate) async fn record_tag(
        &self,
        observed: ObservedTag,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        let ObservedTag {
            repository,
            tag,
            digest,
            actor,
            at,
        } = observed;
        if is_service_account(&actor) || self.catalog.current().is_target(&repository) {
            return Ok(Outcome::done());
        }
        let is_recorded = self
            .tags
            .record_external_change(&repository, &tag, digest.as_ref(), &actor, at)
            .await
            .map_err(Error::from_state)?;
        if !is_recorded {
            let now = sluice_domain::now();
            if now < cause.time + TAG_DELAY {
                return Err(Error::TagNotVisible {
                    tag: format!("{repository}:{tag}"),
                    until: now + CHECK_INTERVAL,
                });
            }
            // The tag was changed again, which has a notification of its own.
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
        // An image without a verdict is evaluated after its scan; one with a verdict has no further event.
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
