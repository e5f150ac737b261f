//! A tag of a target that names what no decision put there: why, by whom, and how it is put right.

use sluice_bus::Cause;
use sluice_domain::{Digest, Repository, Tag};
use sluice_events::commands::JudgeImage;
use sluice_events::facts::ImageUnauthorised;
use sluice_events::subject::of_repository;
use sluice_events::wire::state::{Decision, DecisionOutcome, TagEntry, Unauthorised};
use sluice_events::{Event, time_from_wire};
use sluice_registry::Manifest;
use sluice_state::{
    Applied, Entry, Freshness, Precondition, Provenance, TagChange, key, live_claim,
};

use crate::decide::stands_at;
use crate::handler::{Error, Promoter};
use crate::pending_events::PendingEvents;
use crate::promote::key_of_holder;
use crate::sweep::Sweep;
use crate::targets::NAME;

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

    /// What tells this happening from the next.
    fn occurrence(&self) -> String {
        time_from_wire(self.entry.value.found_at.as_ref())
            .unwrap_or_default()
            .to_rfc3339()
    }
}

/// The source of truth of a reversal: still nothing allows what the tag names, and the same is to be there instead.
struct Unallowed<'a> {
    promoter: &'a Promoter,
    found: &'a UnauthorisedTag,
    expected: Option<&'a Digest>,
}

impl Precondition for Unallowed<'_> {
    async fn freshness(&self) -> Result<Freshness, sluice_state::Error> {
        let UnauthorisedTag {
            repository,
            tag,
            digest,
            ..
        } = self.found;
        let Promoter {
            state, registry, ..
        } = self.promoter;
        let head = registry.head(repository, &tag.into()).await?;
        let head = head.map(|head| head.digest);
        let untouched = head.as_ref() == Some(digest) || head.as_ref() == self.expected;
        let entry = state.tags.get(&key::tag(repository, tag)).await?;
        let mut entry = entry.map(|entry| entry.value);
        // Our own claim says nothing about what was allowed.
        if let Some(entry) = &mut entry {
            entry.claim = None;
        }
        let allowed = self
            .promoter
            .authority(repository, tag, digest, entry.as_ref())
            .await?
            .is_none();
        let expected = self
            .promoter
            .expected_by(repository, entry.as_ref())
            .await?;
        Ok(
            if untouched && !allowed && expected.as_ref() == self.expected {
                Freshness::Current
            } else {
                Freshness::Superseded
            },
        )
    }
}

impl Promoter {
    /// Says why a tag may not name a digest; nothing if it may, or while somebody is changing it.
    pub(crate) async fn why_unauthorised(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
        entry: Option<&TagEntry>,
    ) -> Result<Option<String>, Error> {
        if entry.and_then(live_claim).is_some() {
            return Ok(None);
        }
        Ok(self.authority(repository, tag, digest, entry).await?)
    }

    /// Says why no decision puts a digest at a tag; nothing if one does.
    async fn authority(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
        entry: Option<&TagEntry>,
    ) -> Result<Option<String>, sluice_state::Error> {
        let names_it = entry.is_some_and(|entry| entry.digest == digest.as_str());
        if tag.attached_to().is_some() {
            // Only the promoter attaches something, to what was promoted.
            let is_ours = entry.is_some_and(|entry| names_it && entry.arrived_by == NAME);
            return Ok((!is_ours).then(|| "nothing that was promoted came with it".to_owned()));
        }
        let holder = self.holder(repository, entry).await?;
        if names_it && holder.is_some() {
            return Ok(None);
        }
        // It may be carried out just now, or be what another source or policy has put there.
        let claimed = entry.and_then(|entry| entry.claim.as_ref());
        let begun = claimed.is_some_and(|claim| claim.digest == digest.as_str());
        let mut older = false;
        for other in self
            .state
            .decisions
            .list(&key::decisions_about(digest))
            .await?
        {
            let other = other.value;
            if !stands_at(&other, repository.as_str(), tag.as_str()) {
                continue;
            }
            let promoted = |decision: &Decision| time_from_wire(decision.promoted_at.as_ref());
            let newer = holder.as_ref().is_some_and(|holder| {
                holder.outcome() == DecisionOutcome::Allow && promoted(holder) > promoted(&other)
            });
            if begun || !newer {
                return Ok(None);
            }
            older = true;
        }
        Ok(Some(match holder {
            Some(holder) if older => format!(
                "it was allowed once, but policy `{}` has put {} there since",
                holder.policy, holder.digest
            ),
            Some(holder) => format!(
                "no decision allows it; policy `{}` has put {} there",
                holder.policy, holder.digest
            ),
            None if names_it => "the decision that brought it is not known".to_owned(),
            None => "no decision allows it".to_owned(),
        }))
    }

    /// Returns the decision by which a target's tag names what its entry says, if it still has its place.
    async fn holder(
        &self,
        repository: &Repository,
        entry: Option<&TagEntry>,
    ) -> Result<Option<Decision>, sluice_state::Error> {
        let Some(key) = entry.and_then(key_of_holder) else {
            return Ok(None);
        };
        let decision = self.state.decisions.get(&key).await?;
        let tag = entry.map_or("", |entry| entry.tag.as_str());
        let decision = decision.map(|decision| decision.value);
        Ok(decision.filter(|decision| stands_at(decision, repository.as_str(), tag)))
    }

    /// Returns what a tag should name by its entry and the decision of that.
    pub(crate) async fn expected(
        &self,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<Option<Digest>, Error> {
        let entry = self.state.tags.get(&key::tag(repository, tag)).await?;
        let entry = entry.map(|entry| entry.value);
        Ok(self.expected_by(repository, entry.as_ref()).await?)
    }

    async fn expected_by(
        &self,
        repository: &Repository,
        entry: Option<&TagEntry>,
    ) -> Result<Option<Digest>, sluice_state::Error> {
        let holder = self.holder(repository, entry).await?;
        // What is refused and not only flagged is about to be withdrawn.
        let holder = holder.filter(|holder| {
            holder.outcome() != DecisionOutcome::Deny || !holder.flagged.is_empty()
        });
        Ok(holder.and_then(|holder| holder.digest.parse().ok()))
    }

    /// Returns who pushed a tag, if that was the last push to its repository; nobody's word is waited for.
    pub(crate) async fn pushed_by(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
    ) -> String {
        let subject = format!("sluice.v1.tag.pushed.{}", of_repository(repository));
        match self.bus.last_fact(&subject).await {
            Ok(Some(Event::TagPushed(fact))) if fact.tag == *tag && fact.digest == *digest => {
                fact.actor
            }
            Ok(_) => String::new(),
            Err(error) => {
                tracing::warn!(%error, "who pushed it cannot be found out");
                String::new()
            }
        }
    }

    /// Tells what was found, once.
    pub(crate) async fn report(&self, found: &UnauthorisedTag, cause: &Cause) -> Result<(), Error> {
        // A reversal that was tried may have written it.
        let Some(entry) = self.state.unauthorised.get(&found.entry.key).await? else {
            return Ok(());
        };
        if entry.value.announced {
            return Ok(());
        }
        tracing::warn!(
            image.repository = %found.repository, image.tag = %found.tag, image.digest = %found.digest,
            reason = entry.value.reason, "unauthorised"
        );
        self.tell(found, false, cause).await?;
        let reported = Unauthorised {
            announced: true,
            reverting: false,
            ..entry.value
        };
        self.state
            .unauthorised
            .write(&entry.key, &reported, Some(entry.revision))
            .await?;
        Ok(())
    }

    /// Publishes one happening; its reversal is a happening of its own.
    pub(crate) async fn tell(
        &self,
        found: &UnauthorisedTag,
        reverted: bool,
        cause: &Cause,
    ) -> Result<(), Error> {
        let entry = &found.entry.value;
        let fact = ImageUnauthorised {
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
            .publish(&fact.into(), cause, &occurrence)
            .await
            .map_err(sluice_state::Error::from)?;
        Ok(())
    }

    /// Puts a tag back to what it should name, or removes it, and then what nothing else in the target reaches.
    pub(crate) async fn revert(&self, found: &UnauthorisedTag, cause: &Cause) -> Result<(), Error> {
        self.state.ensure_not_paused().await?;
        let UnauthorisedTag {
            repository,
            tag,
            digest,
            entry,
        } = found;
        // From here on whoever finds it gone knows by whom.
        let begun = Unauthorised {
            reverting: true,
            ..entry.value.clone()
        };
        self.state
            .unauthorised
            .write(&entry.key, &begun, Some(entry.revision))
            .await?;
        let expected = self.expected(repository, tag).await?;
        let back = self.standing_there(repository, expected.as_ref()).await?;
        let manifests = self.manifests(repository, digest).await?;
        let precondition = Unallowed {
            promoter: self,
            found,
            expected: expected.as_ref(),
        };
        let held = self.state.tags.get(&key::tag(repository, tag)).await?;
        let promotion = held.and_then(|held| held.value.promoted_from);
        let change = TagChange {
            repository,
            tag,
            wanted: back.as_ref(),
            provenance: Provenance {
                by: NAME.to_owned(),
                promotion: promotion.clone().filter(|_| back.is_some()),
                ..Provenance::default()
            },
            precondition: &precondition,
        };
        let tags = self.tags.clone().overriding_immutability();
        if tags.apply(&change).await? == Applied::Superseded {
            tracing::info!(image.repository = %repository, image.tag = %tag, "it is allowed by now, or somebody changed it");
            return Ok(self.state.unauthorised.delete(&entry.key).await?);
        }
        tracing::warn!(
            image.repository = %repository, image.tag = %tag, image.digest = %digest,
            "reverted what no decision allows"
        );
        let mut pending_events = PendingEvents::default();
        let endpoint = self.internal(repository.clone());
        let sweep = Sweep {
            endpoint: &endpoint,
            manifests: &manifests,
            without: "",
            digest: None,
            source: None,
            is_withdrawal: false,
        };
        self.sweep(&sweep, &mut pending_events).await?;
        // What should be there and is not, its promotion brings again.
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
        self.tell(found, true, cause).await?;
        pending_events
            .settle(&self.bus, cause)
            .await
            .map_err(|source| Error::Telling { source })?;
        Ok(self.state.unauthorised.delete(&entry.key).await?)
    }

    /// Returns the manifest that a tag is put back to, if it is still in the target.
    async fn standing_there(
        &self,
        repository: &Repository,
        digest: Option<&Digest>,
    ) -> Result<Option<Manifest>, Error> {
        let Some(digest) = digest else {
            return Ok(None);
        };
        match self.registry.manifest(repository, &digest.into()).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the manifests of an image that somebody else made; of one whose bytes are not those of its digest, only the top.
    async fn manifests(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Digest>, Error> {
        let mut manifests = vec![digest.clone()];
        match self.images.read(&self.registry, repository, digest).await {
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
