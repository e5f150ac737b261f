//! Finds allowed images that are missing where they were promoted to, and what others wrote over them in remote registries.
//!
//! The tags of a remote registry are not listed: of it only what was promoted there is asked for, a HEAD each. One that
//! does not answer is not asked again in the same page, and holds up nothing else.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use sluice_bus::Cause;
use sluice_domain::{Class, Classify as _, Digest, RegistryHost, Repository, Tag, Target, now};
use sluice_events::commands::JudgeImage;
use sluice_events::wire::state::{Decision, DecisionOutcome, TagEntry};
use sluice_state::{Entry, key};

use crate::handler::{Error, Promoter};
use crate::pending_events::PendingEvents;
use crate::target_endpoint::{TargetEndpoint, is_settled, tell_stranger};

/// How soon a registry that does not answer is asked again.
pub(crate) const ASK_AGAIN: TimeDelta = TimeDelta::seconds(10);

/// What is asked of many decisions, with the remote registries as far as they answer.
pub(crate) struct MissingTagCheck<'a> {
    promoter: &'a Promoter,
    cause: &'a Cause,
    remotes: BTreeMap<RegistryHost, Option<TargetEndpoint>>,
}

/// A decision whose image should stand in its target.
struct Stands {
    target: Target,
    target_tag: Tag,
    digest: Digest,
    command: JudgeImage,
}

impl<'a> MissingTagCheck<'a> {
    pub(crate) const fn of(promoter: &'a Promoter, cause: &'a Cause) -> Self {
        Self {
            promoter,
            cause,
            remotes: BTreeMap::new(),
        }
    }

    /// Returns the judgement that repairs a promotion whose tag is gone from the target.
    pub(crate) async fn vanished(
        &mut self,
        entry: &Entry<Decision>,
    ) -> Result<Option<JudgeImage>, Error> {
        let Some(stands) = stands(&entry.value) else {
            return Ok(None);
        };
        // What the source no longer names cannot be brought again.
        let JudgeImage {
            repository, tag, ..
        } = &stands.command;
        let source = key::tag(repository, tag);
        let source = self.promoter.state.tags.get(&source).await?;
        if source.is_none_or(|source| source.value.digest != entry.value.digest) {
            return Ok(None);
        }
        let is_away = match stands.target.local() {
            Some(target) => self.is_unreachable(&entry.value, &stands, target).await?,
            None => self.is_away_remotely(entry, &stands).await?,
        };
        Ok(is_away.then_some(stands.command))
    }

    async fn is_unreachable(
        &self,
        decision: &Decision,
        stands: &Stands,
        target: &Repository,
    ) -> Result<bool, Error> {
        let Promoter {
            state, registry, ..
        } = self.promoter;
        let target_tag = &stands.target_tag;
        let head = registry.head(target, &target_tag.into()).await;
        let head = head.map_err(|error| {
            if error.is_unreachable() || matches!(error.class(), Class::Transient { .. }) {
                return Error::Away {
                    until: now() + ASK_AGAIN,
                    source: error,
                };
            }
            error.into()
        })?;
        Ok(match head {
            None => true,
            Some(head) if head.digest == stands.digest => false,
            // The source's tag came back to this image after it had brought another one. What somebody else put there
            // is for the comparison to tell.
            Some(head) => {
                let entry = state.tags.get(&key::tag(target, target_tag)).await?;
                entry.is_some_and(|entry| {
                    entry.value.digest == head.digest.as_str() && is_of(&entry.value, decision)
                })
            }
        })
    }

    async fn is_away_remotely(
        &mut self,
        decision: &Entry<Decision>,
        stands: &Stands,
    ) -> Result<bool, Error> {
        let key = key::target_tag(&stands.target, &stands.target_tag);
        let Some(held) = self.promoter.state.tags.get(&key).await? else {
            return Ok(true);
        };
        if !is_settled(&held.value, &decision.value) {
            // Whoever is changing it comes to its end; what the same source brought before is out of date.
            return Ok(held.value.claim.is_none() && is_of(&held.value, &decision.value));
        }
        if !is_of(&held.value, &decision.value) {
            return Ok(false);
        }
        let Some(endpoint) = self.remote(&stands.target).await? else {
            return Ok(false);
        };
        match self.ask(&endpoint, decision, stands).await {
            Err(Error::Registry(error)) => {
                self.gives_up(&stands.target, &error);
                Ok(false)
            }
            asked => asked,
        }
    }

    /// Says whether a remote tag is gone, after what else is known of it now was told and noted.
    async fn ask(
        &self,
        endpoint: &TargetEndpoint,
        decision: &Entry<Decision>,
        stands: &Stands,
    ) -> Result<bool, Error> {
        let Some(head) = endpoint.head(&stands.target_tag).await? else {
            return Ok(true);
        };
        let mut pending_events = PendingEvents::default();
        let (tag, found) = (&stands.target_tag, &head.digest);
        let note = if *found == stands.digest {
            String::new()
        } else if endpoint
            .registry
            .is_tombstone(endpoint.repository(), found)
            .await?
        {
            return Ok(true);
        } else {
            match tell_stranger(
                &decision.value,
                &endpoint.target,
                tag,
                found,
                &mut pending_events,
            ) {
                Some(note) => note,
                None => return Ok(false),
            }
        };
        if note == decision.value.note {
            return Ok(false);
        }
        let Promoter { bus, state, .. } = self.promoter;
        let settled = pending_events.settle(bus, self.cause).await;
        settled.map_err(|source| Error::Telling { source })?;
        let next = Decision {
            note,
            ..decision.value.clone()
        };
        let written = state
            .decisions
            .write(&decision.key, &next, Some(decision.revision));
        match written.await {
            // It is another decision by now.
            Err(error) if !error.is_conflict() => Err(error.into()),
            _ => Ok(false),
        }
    }

    /// Says whether an image is missing in a remote target; of one that does not answer nobody can tell.
    pub(crate) async fn is_missing_or_unknown(
        &mut self,
        target: &Target,
        tag: &Tag,
    ) -> Result<bool, Error> {
        let Some(endpoint) = self.remote(target).await? else {
            return Ok(true);
        };
        match endpoint.head(tag).await {
            Ok(head) => Ok(head.is_none()),
            Err(error) => {
                self.gives_up(target, &error);
                Ok(true)
            }
        }
    }

    /// Returns a remote target with what writes there; nothing of a registry that cannot be asked now.
    async fn remote(&mut self, target: &Target) -> Result<Option<TargetEndpoint>, Error> {
        let Some(host) = target.registry.clone() else {
            return Ok(None);
        };
        if let Some(known) = self.remotes.get(&host) {
            return Ok(known.clone().map(|endpoint| endpoint.at(target.clone())));
        }
        let endpoint = match self.promoter.endpoint(target.clone()).await {
            Ok(endpoint) => Some(endpoint),
            Err(error @ Error::Remote { .. }) => {
                tracing::warn!(registry.host = %host, %error, "what was promoted there is not looked at");
                None
            }
            Err(error) => return Err(error),
        };
        self.remotes.insert(host, endpoint.clone());
        Ok(endpoint)
    }

    fn gives_up(&mut self, target: &Target, error: &sluice_registry::Error) {
        if let Some(host) = target.registry.clone() {
            tracing::warn!(registry.host = %host, %error, "what was promoted there cannot be looked at now");
            self.remotes.insert(host, None);
        }
    }
}

/// Reads a decision by which an image should stand in its target.
fn stands(decision: &Decision) -> Option<Stands> {
    let stands = decision.outcome() == DecisionOutcome::Allow
        && decision.promoted_at.is_some()
        && decision.announced;
    let digest: Digest = decision.digest.parse().ok()?;
    let command = JudgeImage {
        repository: decision.repository.parse().ok()?,
        tag: decision.tag.parse().ok()?,
        digest: digest.clone(),
    };
    let target = Target::from_stored(&decision.target).ok()?;
    let target_tag = decision.target_tag.parse().ok()?;
    stands.then_some(Stands {
        target,
        target_tag,
        digest,
        command,
    })
}

/// Says whether a tag names what the policy of a decision brought from the same source.
fn is_of(entry: &TagEntry, decision: &Decision) -> bool {
    entry.promoted_from.as_ref().is_some_and(|from| {
        from.policy == decision.policy
            && from.repository == decision.repository
            && from.tag == decision.tag
    })
}
