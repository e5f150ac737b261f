//! A tag of a target that names an image that no decision allows: how it is reported and reverted.

use sluice_bus::{Bus, Cause};
use sluice_domain::{Digest, Repository, Tag};
use sluice_events::commands::JudgeImage;
use sluice_events::facts::ImageUnauthorised;
use sluice_events::subject::of_repository;
use sluice_events::wire::state::Unauthorised;
use sluice_events::{Event, time_from_wire};
use sluice_registry::Manifest;
use sluice_state::{Entry, Freshness, Precondition, Provenance, TagChange, TagChangeOutcome, key};

use super::authority::{expected_by_entry, expected_digest, missing_decision};
use crate::error::Error;
use crate::settings::STAGE;
use crate::targets::endpoint::Targets;
use crate::targets::pending_events::PendingEvents;
use crate::targets::sweep::sweep;
use crate::targets::sweep::sweep_plan::SweepPlan;

/// A tag in a target that no decision allows, with its stored entry.
pub(crate) struct UnauthorisedTag {
    pub(crate) repository: Repository,
    pub(crate) tag: Tag,
    pub(crate) digest: Digest,
    pub(crate) entry: Entry<Unauthorised>,
}

impl UnauthorisedTag {
    pub(crate) fn new(
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
        entry: Entry<Unauthorised>,
    ) -> Self {
        Self {
            repository: repository.clone(),
            tag: tag.clone(),
            digest: digest.clone(),
            entry,
        }
    }

    /// Distinguishes the events of this tag from those of the next unauthorised image under it.
    fn occurrence(&self) -> String {
        time_from_wire(self.entry.value.found_at.as_ref())
            .unwrap_or_default()
            .to_rfc3339()
    }
}

/// The precondition of a reversal: still no decision allows what the tag names, and the same image is expected instead.
struct ReversalPrecondition<'a> {
    targets: &'a Targets,
    found: &'a UnauthorisedTag,
    expected: Option<&'a Digest>,
}

impl Precondition for ReversalPrecondition<'_> {
    async fn freshness(&self) -> Result<Freshness, sluice_state::Error> {
        let UnauthorisedTag {
            repository,
            tag,
            digest,
            ..
        } = self.found;
        let Targets {
            state, registry, ..
        } = self.targets;
        let head = registry.head(repository, &tag.into()).await?;
        let head = head.map(|head| head.digest);
        let is_untouched = head.as_ref() == Some(digest) || head.as_ref() == self.expected;
        let entry = state.tags.get(&key::tag(repository, tag)).await?;
        let mut entry = entry.map(|entry| entry.value);
        // The claim of this reversal does not say what is allowed.
        if let Some(entry) = &mut entry {
            entry.claim = None;
        }
        let missing = missing_decision(state, repository, tag, digest, entry.as_ref()).await?;
        let expected = expected_by_entry(state, repository, entry.as_ref()).await?;
        Ok(
            if is_untouched && missing.is_some() && expected.as_ref() == self.expected {
                Freshness::Current
            } else {
                Freshness::Superseded
            },
        )
    }
}

/// Reports and reverts unauthorised tags.
#[derive(Clone, Copy)]
pub(crate) struct UnauthorisedTags<'a> {
    pub(super) bus: &'a Bus,
    pub(super) targets: &'a Targets,
    pub(super) cause: &'a Cause,
}

impl UnauthorisedTags<'_> {
    /// Publishes an unauthorised tag, once.
    pub(super) async fn report(&self, found: &UnauthorisedTag) -> Result<(), Error> {
        // A reversal that failed may have written the entry.
        let state = &self.targets.state;
        let Some(entry) = state.unauthorised.get(&found.entry.key).await? else {
            return Ok(());
        };
        if entry.value.published {
            return Ok(());
        }
        tracing::warn!(
            image.repository = %found.repository, image.tag = %found.tag, image.digest = %found.digest,
            reason = entry.value.reason, "unauthorised"
        );
        self.publish(found, false).await?;
        let reported = Unauthorised {
            published: true,
            reverting: false,
            ..entry.value
        };
        state
            .unauthorised
            .write(&entry.key, &reported, Some(entry.revision))
            .await?;
        Ok(())
    }

    /// Publishes an unauthorised tag, or its reversal, which is an event of its own.
    pub(super) async fn publish(
        &self,
        found: &UnauthorisedTag,
        reverted: bool,
    ) -> Result<(), Error> {
        let entry = &found.entry.value;
        let event = ImageUnauthorised {
            repository: found.repository.clone(),
            tag: Some(found.tag.clone()),
            digest: found.digest.clone(),
            reverted,
            reason: entry.reason.clone(),
            pushed_by: entry.pushed_by.clone(),
            expected: entry.expected.parse().ok(),
            registry: None,
        };
        let mut occurrence = found.occurrence();
        if reverted {
            occurrence.push_str("/reverted");
        }
        self.bus
            .publish(&event.into(), self.cause, &occurrence)
            .await
            .map_err(sluice_state::Error::from)?;
        Ok(())
    }

    /// Moves a tag back to what it should name, or removes it, and then the manifests that nothing else in the target needs.
    pub(super) async fn revert(&self, found: &UnauthorisedTag) -> Result<(), Error> {
        let state = &self.targets.state;
        state.ensure_not_paused().await?;
        let UnauthorisedTag {
            repository,
            tag,
            digest,
            entry,
        } = found;
        // An audit that finds the tag removed after this knows that it was reverted.
        let begun = Unauthorised {
            reverting: true,
            ..entry.value.clone()
        };
        state
            .unauthorised
            .write(&entry.key, &begun, Some(entry.revision))
            .await?;
        let expected = expected_digest(state, repository, tag).await?;
        let back = self.manifest(repository, expected.as_ref()).await?;
        let manifests = self.manifests(repository, digest).await?;
        let precondition = ReversalPrecondition {
            targets: self.targets,
            found,
            expected: expected.as_ref(),
        };
        let entry_of_tag = state.tags.get(&key::tag(repository, tag)).await?;
        let promotion = entry_of_tag.and_then(|entry| entry.value.promoted_from);
        let change = TagChange {
            repository,
            tag,
            wanted: back.as_ref(),
            provenance: Provenance {
                by: STAGE.to_owned(),
                promotion: promotion.clone().filter(|_| back.is_some()),
                ..Provenance::default()
            },
            precondition: &precondition,
        };
        let tags = self.targets.tags.clone().overriding_immutability();
        if tags.apply(&change).await? == TagChangeOutcome::Superseded {
            tracing::info!(image.repository = %repository, image.tag = %tag, "the tag is allowed by now, or was changed again");
            return Ok(state.unauthorised.delete(&entry.key).await?);
        }
        tracing::warn!(
            image.repository = %repository, image.tag = %tag, image.digest = %digest,
            "reverted an unauthorised tag"
        );
        let mut pending_events = PendingEvents::default();
        let endpoint = self.targets.internal(repository.clone());
        let plan = SweepPlan {
            endpoint: &endpoint,
            manifests: &manifests,
            without: "",
            digest: None,
            source: None,
            is_withdrawal: false,
        };
        sweep(self.targets, &plan, &mut pending_events).await?;
        // The expected image, where the target does not have it any more, is promoted again.
        if let (Some(expected), None, Some(from)) = (expected, back, promotion)
            && let (Ok(repository), Ok(tag)) = (from.repository.parse(), from.tag.parse())
        {
            let command = JudgeImage {
                repository,
                tag,
                digest: expected,
            };
            pending_events.command(command, format!("judge/revert/{}", found.occurrence()));
        }
        self.publish(found, true).await?;
        pending_events.publish(self.bus, self.cause).await?;
        Ok(state.unauthorised.delete(&entry.key).await?)
    }

    /// Returns the manifest to which a tag is moved back, if the target still has it.
    async fn manifest(
        &self,
        repository: &Repository,
        digest: Option<&Digest>,
    ) -> Result<Option<Manifest>, Error> {
        let Some(digest) = digest else {
            return Ok(None);
        };
        match self
            .targets
            .registry
            .fetch_manifest(repository, &digest.into())
            .await
        {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the manifests of an unauthorised image; of one whose bytes do not match its digest, only the top.
    async fn manifests(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Digest>, Error> {
        let mut manifests = vec![digest.clone()];
        let read = self
            .targets
            .contents
            .read(&self.targets.registry, repository, digest);
        match read.await {
            Ok(entry) => manifests.extend(
                entry
                    .children
                    .iter()
                    .filter_map(|child| child.digest.parse().ok())
                    .filter(|child: &Digest| child != digest),
            ),
            Err(sluice_state::Error::Registry(error))
                if error.is_not_found()
                    || matches!(error, sluice_registry::Error::Untrusted { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(manifests)
    }
}

/// Returns the account that pushed a tag, if that was the last push to its repository; empty where that is not known.
pub(super) async fn pushed_by(
    bus: &Bus,
    repository: &Repository,
    tag: &Tag,
    digest: &Digest,
) -> String {
    let subject = format!("sluice.v1.tag.pushed.{}", of_repository(repository));
    match bus.last_fact(&subject).await {
        Ok(Some(Event::TagPushed(fact))) if fact.tag == *tag && fact.digest == *digest => {
            fact.actor
        }
        Ok(_) => String::new(),
        Err(error) => {
            tracing::warn!(%error, "the account that pushed an unauthorised tag is not known");
            String::new()
        }
    }
}
