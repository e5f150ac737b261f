//! Finds promoted tags that are missing in their target, and those that others overwrote in remote registries.
//!
//! The tags of a remote registry are not listed: only promoted tags are checked there, with a HEAD each. A registry that
//! cannot be reached is not asked again in the same page, and holds up no other one.

use std::collections::BTreeMap;

use sluice_bus::{Bus, Cause};
use sluice_domain::{Class, Classify as _, Digest, RegistryHost, Repository, Tag, Target};
use sluice_events::commands::JudgeImage;
use sluice_events::wire::state::{Decision, DecisionOutcome};
use sluice_state::{Entry, key};

use super::overwritten_tag::report_overwritten;
use crate::error::Error;
use crate::evaluate::decision::{evaluation_command, is_promoted_by, is_settled};
use crate::targets::endpoint::{TargetEndpoint, Targets};
use crate::targets::pending_events::PendingEvents;

/// Checks the promoted tags of many decisions; remembers which remote registries cannot be reached.
pub(crate) struct MissingTagCheck<'a> {
    bus: &'a Bus,
    targets: &'a Targets,
    cause: &'a Cause,
    /// The endpoints by registry; `None` for one that cannot be reached.
    remotes: BTreeMap<RegistryHost, Option<TargetEndpoint>>,
}

/// A tag that a decision promoted and that its target should have.
struct PromotedTag {
    target: Target,
    target_tag: Tag,
    digest: Digest,
    command: JudgeImage,
}

impl<'a> MissingTagCheck<'a> {
    pub(crate) const fn new(bus: &'a Bus, targets: &'a Targets, cause: &'a Cause) -> Self {
        Self {
            bus,
            targets,
            cause,
            remotes: BTreeMap::new(),
        }
    }

    /// Returns the evaluation that repairs a promotion whose tag is missing in the target.
    pub(crate) async fn repair(
        &mut self,
        entry: &Entry<Decision>,
    ) -> Result<Option<JudgeImage>, Error> {
        let Some(promoted) = promoted_tag(&entry.value) else {
            return Ok(None);
        };
        // An image that its source does not name any more cannot be promoted again.
        let JudgeImage {
            repository, tag, ..
        } = &promoted.command;
        let source = key::tag(repository, tag);
        let source = self.targets.state.tags.get(&source).await?;
        if source.is_none_or(|source| source.value.digest != entry.value.digest) {
            return Ok(None);
        }
        let is_missing = match promoted.target.local() {
            Some(target) => self.is_missing(&entry.value, &promoted, target).await?,
            None => self.is_missing_remotely(entry, &promoted).await?,
        };
        Ok(is_missing.then_some(promoted.command))
    }

    /// Says whether a tag of the internal registry is missing, or names an older image of the same source.
    async fn is_missing(
        &self,
        decision: &Decision,
        promoted: &PromotedTag,
        target: &Repository,
    ) -> Result<bool, Error> {
        let Targets {
            state, registry, ..
        } = self.targets;
        let target_tag = &promoted.target_tag;
        let head = registry.head(target, &target_tag.into()).await;
        let head = head.map_err(|error| {
            if error.is_unreachable() || matches!(error.class(), Class::Transient { .. }) {
                return Error::unreachable(error);
            }
            error.into()
        })?;
        Ok(match head {
            None => true,
            Some(head) if head.digest == promoted.digest => false,
            // The source's tag was moved back to this image after another one was promoted from it. An unauthorised image
            // is found by the audit of the targets.
            Some(head) => {
                let entry = state.tags.get(&key::tag(target, target_tag)).await?;
                entry.is_some_and(|entry| {
                    entry.value.digest == head.digest.as_str()
                        && is_promoted_by(&entry.value, decision)
                })
            }
        })
    }

    async fn is_missing_remotely(
        &mut self,
        decision: &Entry<Decision>,
        promoted: &PromotedTag,
    ) -> Result<bool, Error> {
        let key = key::target_tag(&promoted.target, &promoted.target_tag);
        let Some(entry) = self.targets.state.tags.get(&key).await? else {
            return Ok(true);
        };
        if !is_settled(&entry.value, &decision.value) {
            // A change that is under way is completed; an older image of the same source is outdated.
            return Ok(entry.value.claim.is_none() && is_promoted_by(&entry.value, &decision.value));
        }
        if !is_promoted_by(&entry.value, &decision.value) {
            return Ok(false);
        }
        let Some(endpoint) = self.remote(&promoted.target).await? else {
            return Ok(false);
        };
        match self.check(&endpoint, decision, promoted).await {
            Err(Error::Registry(error)) => {
                self.note_unreachable(&promoted.target, &error);
                Ok(false)
            }
            checked => checked,
        }
    }

    /// Says whether a remote tag is missing. One that was overwritten is published and noted in the decision.
    async fn check(
        &self,
        endpoint: &TargetEndpoint,
        decision: &Entry<Decision>,
        promoted: &PromotedTag,
    ) -> Result<bool, Error> {
        let Some(head) = endpoint.head(&promoted.target_tag).await? else {
            return Ok(true);
        };
        let mut pending_events = PendingEvents::default();
        let (tag, found) = (&promoted.target_tag, &head.digest);
        let note = if *found == promoted.digest {
            String::new()
        } else if endpoint
            .registry
            .is_tombstone(endpoint.repository(), found)
            .await?
        {
            return Ok(true);
        } else {
            match report_overwritten(
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
        pending_events.publish(self.bus, self.cause).await?;
        let next = Decision {
            note,
            ..decision.value.clone()
        };
        let written =
            self.targets
                .state
                .decisions
                .write(&decision.key, &next, Some(decision.revision));
        match written.await {
            // The decision changed meanwhile.
            Err(error) if !error.is_conflict() => Err(error.into()),
            _ => Ok(false),
        }
    }

    /// Says whether an image is missing in a remote target, or whether that is not known.
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
                self.note_unreachable(target, &error);
                Ok(true)
            }
        }
    }

    /// Returns the endpoint of a remote target; `None` for a registry that cannot be asked now.
    async fn remote(&mut self, target: &Target) -> Result<Option<TargetEndpoint>, Error> {
        let Some(host) = target.registry.clone() else {
            return Ok(None);
        };
        if let Some(known) = self.remotes.get(&host) {
            return Ok(known.clone().map(|endpoint| endpoint.at(target.clone())));
        }
        let endpoint = match self.targets.endpoint(target.clone()).await {
            Ok(endpoint) => Some(endpoint),
            Err(error @ Error::Remote { .. }) => {
                tracing::warn!(registry.host = %host, %error, "the images that were promoted there are not checked");
                None
            }
            Err(error) => return Err(error),
        };
        self.remotes.insert(host, endpoint.clone());
        Ok(endpoint)
    }

    fn note_unreachable(&mut self, target: &Target, error: &sluice_registry::Error) {
        if let Some(host) = target.registry.clone() {
            tracing::warn!(registry.host = %host, %error, "the images that were promoted there cannot be checked now");
            self.remotes.insert(host, None);
        }
    }
}

/// Reads the tag that a decision promoted, if its target should have it.
fn promoted_tag(decision: &Decision) -> Option<PromotedTag> {
    let is_promoted = decision.outcome() == DecisionOutcome::Allow
        && decision.promoted_at.is_some()
        && decision.published;
    let digest = decision.digest.parse().ok()?;
    let command = evaluation_command(decision)?;
    let target = Target::from_stored(&decision.target).ok()?;
    let target_tag = decision.target_tag.parse().ok()?;
    is_promoted.then_some(PromotedTag {
        target,
        target_tag,
        digest,
        command,
    })
}
