//! The audit of the targets: compares the tags in the internal registry with the entries and decisions, and reports or
//! reverts unauthorised ones.
//!
//! A message compares a number of tags, and the next one continues after them. A tag that is claimed, or that a decision
//! allows, is never touched, and a listing that failed changes nothing. The first audit after a restore only stores what it
//! finds, because the state may be older than the registry.

pub(crate) mod authority;
pub(crate) mod missing_tags;
pub(crate) mod overwritten_tag;
pub(crate) mod restore_guard;
pub(crate) mod unauthorised_tag;
mod unpermitted_images;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use sluice_bus::{Bus, Cause};
use sluice_domain::resources::Unauthorised as Setting;
use sluice_domain::{Class, Classify as _, Digest, Repository, Tag, now};
use sluice_events::commands::Reconcile;
use sluice_events::wire::state::{Restored, TagEntry, Unauthorised};
use sluice_events::{time_from_wire, time_to_wire};
use sluice_state::reconcile::Next;
use sluice_state::{Entry, Snapshot, has_expired_claim, is_reconciled, key};

use self::authority::{expected_digest, unauthorised_reason};
use self::unauthorised_tag::{UnauthorisedTag, UnauthorisedTags, pushed_by};
use self::unpermitted_images::remove_unpermitted_images;
use crate::error::Error;
use crate::evaluate::decision::targets_of;
use crate::settings::STAGE;
use crate::targets::endpoint::Targets;

/// How many tags one message compares at most; each repository counts as one more, because it may be empty.
const TAGS_PER_MESSAGE: usize = 1_000;

/// An audit of all targets.
struct TargetAudit<'a> {
    targets: &'a Targets,
    unauthorised: UnauthorisedTags<'a>,
    catalog: &'a Snapshot,
    /// The restore after which this is the first audit.
    restored: Option<Restored>,
    /// The repositories that are recorded as targets.
    recorded: BTreeSet<Repository>,
    /// Whether promotion and deletion are paused by a person.
    paused: bool,
}

/// The part of an audit that one message does.
pub(crate) struct AuditPart {
    /// How many tags were compared.
    pub(crate) tags: usize,
    /// How many targets could not be compared, or have a tag that could not be reverted.
    pub(crate) incomplete: u64,
    /// Where the next part begins.
    pub(crate) next: Next,
    /// The restore after which this is the first audit.
    pub(crate) restored: Option<Restored>,
}

/// The result of comparing one target.
struct ComparedTarget {
    /// Whether every tag is allowed, reported or reverted.
    is_complete: bool,
    tags: usize,
    /// Whether the registry lists no tag of the target.
    is_empty: bool,
    /// The tag after which the next part continues, if the target was not compared completely.
    stopped_after: Option<Tag>,
}

/// Where a part begins: after a repository, as in `official/app`, or after one of its tags, as in `official/app:1.0`.
#[derive(Clone, Copy)]
struct AuditPosition<'a> {
    repository: &'a str,
    tag: Option<&'a str>,
}

impl<'a> AuditPosition<'a> {
    fn parse(name: &'a str) -> Self {
        let (repository, tag) = match name.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (name, None),
        };
        Self { repository, tag }
    }

    /// Says whether a repository was not compared completely before this position.
    fn is_before(&self, repository: &Repository) -> bool {
        let is_begun = self.tag.is_some() && repository.as_str() == self.repository;
        is_begun || repository.as_str() > self.repository
    }
}

/// Audits the targets after the position of a command.
pub(crate) async fn audit_targets(
    bus: &Bus,
    targets: &Targets,
    command: &Reconcile,
    cause: &Cause,
) -> Result<AuditPart, Error> {
    let (paused, restored) = targets.state.pause_and_restore().await?;
    let audit = TargetAudit {
        targets,
        unauthorised: UnauthorisedTags {
            bus,
            targets,
            cause,
        },
        catalog: &targets.catalog.current(),
        restored: restored.filter(|restored| !is_reconciled(restored, STAGE)),
        recorded: targets.state.promotion_targets().await?,
        paused: paused.is_some(),
    };
    let after = AuditPosition::parse(&command.after_name);
    let mut part = AuditPart {
        tags: 0,
        incomplete: 0,
        next: Next::Scan,
        restored: audit.restored.clone(),
    };
    let mut remaining = TAGS_PER_MESSAGE;
    for repository in audit.repositories(after).await? {
        let begins_after = after
            .tag
            .filter(|_| repository.as_str() == after.repository);
        match audit.compare(&repository, begins_after, remaining).await {
            Ok(compared) => {
                part.tags += compared.tags;
                part.incomplete += u64::from(!compared.is_complete);
                if let Some(tag) = compared.stopped_after {
                    part.next = Next::AfterName(format!("{repository}:{tag}"));
                    return Ok(part);
                }
                if compared.is_complete && compared.is_empty {
                    audit.release(&repository).await?;
                }
                remaining = remaining.saturating_sub(compared.tags);
            }
            Err(Error::State(sluice_state::Error::Bus(error))) => {
                return Err(sluice_state::Error::from(error).into());
            }
            Err(error) => {
                part.incomplete += 1;
                tracing::warn!(image.repository = %repository, %error, "a target cannot be compared with the decisions");
            }
        }
        remaining = remaining.saturating_sub(1);
        if remaining == 0 {
            part.next = Next::AfterName(repository.to_string());
            return Ok(part);
        }
    }
    Ok(part)
}

impl TargetAudit<'_> {
    /// Returns the next targets in the order of their names: those of policies, recorded ones, and those that only the registry
    /// lists, if it lists its repositories.
    async fn repositories(&self, after: AuditPosition<'_>) -> Result<BTreeSet<Repository>, Error> {
        let state = &self.targets.state;
        let mut targets = BTreeSet::new();
        let mut add = |repository: Repository| {
            if after.is_before(&repository) {
                targets.insert(repository);
                if targets.len() > TAGS_PER_MESSAGE {
                    targets.pop_last();
                }
            }
        };
        for policy in self.catalog.policies.values() {
            if policy.to.registry().is_none() {
                policy.to.to_string().parse().into_iter().for_each(&mut add);
            }
        }
        self.recorded.iter().cloned().for_each(&mut add);
        if self.restored.is_some() {
            let decided = state.decisions.each(">", |_, entry| {
                let target = entry.and_then(|entry| entry.value.target.parse().ok());
                target.into_iter().for_each(&mut add);
                ControlFlow::Continue(())
            });
            decided.await?;
        }
        let is_next = |one: &Repository| self.is_target(one) && after.is_before(one);
        match self.targets.registry.list_repositories(is_next).await {
            Ok(listed) => listed.into_iter().for_each(&mut add),
            // Not every registry lists its repositories, and not to every account.
            Err(error) if error.class() == Class::Permanent => {
                tracing::debug!(%error, "the registry does not list its repositories");
                let listed = state.tags.each(">", |_, entry| {
                    let named = entry.and_then(|entry| entry.value.repository.parse().ok());
                    let target = named.filter(|named| self.is_target(named));
                    target.into_iter().for_each(&mut add);
                    ControlFlow::Continue(())
                });
                listed.await?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(targets)
    }

    fn is_target(&self, repository: &Repository) -> bool {
        self.recorded.contains(repository) || self.catalog.is_target(repository)
    }

    /// Removes the record of a target that no policy names and that has no promoted image any more, so that others may write
    /// there again.
    async fn release(&self, repository: &Repository) -> Result<(), Error> {
        let state = &self.targets.state;
        if !self.recorded.contains(repository) || self.catalog.is_named_by_policy(repository) {
            return Ok(());
        }
        let is_of =
            |entry: &Entry<_>| targets_of(&entry.value).any(|target| target == repository.as_str());
        let is_unsettled =
            |entry: &Entry<TagEntry>| entry.value.claim.is_some() || !entry.value.digest.is_empty();
        let tags = key::tags_of(repository);
        if state.decisions.has_more_than(0, ">", is_of).await?
            || state.tags.has_more_than(0, &tags, is_unsettled).await?
        {
            return Ok(());
        }
        tracing::info!(image.repository = %repository, "no promoted image is left in the repository, so it is no target any more");
        let key = key::promotion_target(repository);
        Ok(state.targets.delete(&key).await?)
    }

    /// Compares at most so many tags of one target.
    async fn compare(
        &self,
        repository: &Repository,
        after: Option<&str>,
        most: usize,
    ) -> Result<ComparedTarget, Error> {
        let Targets {
            state, registry, ..
        } = self.targets;
        let mut listed = match registry.list_tags(repository).await {
            Err(error) if error.is_not_found() => Vec::new(),
            listed => listed?,
        };
        if after.is_none() {
            self.settle_entries(repository, &listed).await?;
        }
        let is_empty = listed.is_empty();
        listed.retain(|tag| after.is_none_or(|after| tag.as_str() > after));
        listed.sort_unstable();
        let is_last = listed.len() <= most;
        listed.truncate(most);
        let stopped_after = listed.last().filter(|_| !is_last).cloned();
        let filter = key::unauthorised_in(repository);
        let found = state.unauthorised.collect(&filter, |entry| {
            let tag: Tag = entry.value.tag.parse().ok()?;
            let is_here = after.is_none_or(|after| tag.as_str() > after)
                && stopped_after.as_ref().is_none_or(|last| tag <= *last);
            is_here.then_some((tag, entry))
        });
        let mut found: BTreeMap<_, _> = found.await?.into_values().collect();
        let (mut is_complete, tags) = (true, listed.len());
        for tag in listed {
            let entry = state.tags.get(&key::tag(repository, &tag)).await?;
            let Some(head) = registry.head(repository, &(&tag).into()).await? else {
                continue;
            };
            let entry = entry.map(|entry| entry.value);
            let known = found.remove(&tag);
            is_complete &= self
                .compare_tag((repository, &tag, &head.digest), entry.as_ref(), known)
                .await?;
        }
        // The tags that were unauthorised before and are missing now.
        for (tag, before) in found {
            self.publish_and_forget(repository, &tag, &before).await?;
        }
        if is_last && self.restored.is_none() && !self.paused {
            let UnauthorisedTags { bus, cause, .. } = self.unauthorised;
            remove_unpermitted_images(self.targets, repository, bus, cause).await?;
        }
        Ok(ComparedTarget {
            is_complete,
            tags,
            is_empty,
            stopped_after,
        })
    }

    /// Ends the claims of promotions and withdrawals that died, and records which tags are gone, so that no entry names what
    /// the registry does not have.
    ///
    /// A tag goes without a change of its own when its manifest is deleted by digest. After a restore the entry of such a tag
    /// is left to the next audit: what the registry lacks may be what the backup knows of.
    async fn settle_entries(&self, repository: &Repository, listed: &[Tag]) -> Result<(), Error> {
        let listed: BTreeSet<&Tag> = listed.iter().collect();
        let filter = key::tags_of(repository);
        let Targets { state, tags, .. } = self.targets;
        let unsettled = state.tags.collect(&filter, |entry| {
            let tag: Tag = entry.value.tag.parse().ok()?;
            let is_expired = has_expired_claim(&entry.value);
            let is_gone = self.restored.is_none()
                && entry.value.claim.is_none()
                && !entry.value.digest.is_empty()
                && !listed.contains(&tag);
            (is_expired || is_gone).then_some((tag, is_expired))
        });
        for (tag, is_expired) in unsettled.await?.into_values() {
            if is_expired {
                tags.end_expired_claim(repository, &tag).await?;
            } else {
                // Whoever changes the tag meanwhile records that.
                match tags
                    .record_external_change(repository, &tag, None, STAGE, now())
                    .await
                {
                    Err(sluice_state::Error::Claimed { .. }) => {}
                    observed => drop(observed?),
                }
            }
        }
        Ok(())
    }

    /// Compares one tag; says whether it is allowed, reported or reverted now.
    async fn compare_tag(
        &self,
        (repository, tag, digest): (&Repository, &Tag, &Digest),
        entry: Option<&TagEntry>,
        before: Option<Entry<Unauthorised>>,
    ) -> Result<bool, Error> {
        let state = &self.targets.state;
        if let Some(before) = &before {
            let is_same = before.value.digest == digest.as_str();
            if is_same
                && before.value.kept
                && self.check_again(repository, tag, digest).await?.is_some()
            {
                return Ok(true);
            }
            if !is_same {
                self.publish_and_forget(repository, tag, before).await?;
            }
        } else if unauthorised_reason(state, repository, tag, digest, entry)
            .await?
            .is_none()
        {
            return Ok(true);
        }
        // The listing may be old by now, so everything is read again before the tag is reported.
        let reason = self.check_again(repository, tag, digest).await?;
        let before = before.filter(|before| before.value.digest == digest.as_str());
        match (reason, before) {
            (None, None) => Ok(true),
            (None, Some(before)) => {
                state.unauthorised.delete(&before.key).await?;
                Ok(true)
            }
            (Some(reason), before) => {
                let place = (repository, tag, digest);
                match self.store(place, reason, before).await? {
                    Some(found) => self.report_or_revert(&found).await,
                    None => Ok(true),
                }
            }
        }
    }

    /// Returns why a tag is unauthorised, with everything read again.
    async fn check_again(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<Option<String>, Error> {
        let Targets {
            state, registry, ..
        } = self.targets;
        let entry = state.tags.get(&key::tag(repository, tag)).await?;
        let entry = entry.map(|entry| entry.value);
        let reason = unauthorised_reason(state, repository, tag, digest, entry.as_ref()).await?;
        let head = registry.head(repository, &tag.into()).await?;
        if reason.is_none() || head.is_none_or(|head| head.digest != *digest) {
            return Ok(None);
        }
        // A tombstone of an interrupted removal, which is finished by the stage that began it.
        if registry.is_tombstone(repository, digest).await? {
            return Ok(None);
        }
        Ok(reason)
    }

    /// Stores an unauthorised tag before it is reported or reverted; `None` if it was removed meanwhile.
    ///
    /// Two audits may find the same tag at the same time; the first of them stores it, so that it is reported once.
    async fn store(
        &self,
        (repository, tag, digest): (&Repository, &Tag, &Digest),
        reason: String,
        before: Option<Entry<Unauthorised>>,
    ) -> Result<Option<UnauthorisedTag>, Error> {
        let state = &self.targets.state;
        let key = key::unauthorised(repository, tag);
        let stored = state.unauthorised.get(&key).await?;
        let is_same = |entry: &Entry<Unauthorised>| entry.value.digest == digest.as_str();
        if let Some(mut before) = before.or_else(|| stored.clone().filter(is_same)) {
            if self.restored.is_some() && !before.value.kept {
                // The image may have been allowed after the backup.
                before.value.kept = true;
                before.revision = state
                    .unauthorised
                    .write(&before.key, &before.value, Some(before.revision))
                    .await?;
            }
            return Ok(Some(UnauthorisedTag::new(repository, tag, digest, before)));
        }
        let restored = self.restored.as_ref();
        let taken_at = restored.and_then(|restored| time_from_wire(restored.taken_at.as_ref()));
        let reason = match taken_at {
            Some(taken_at) => format!(
                "{reason}; kept: may be newer than the backup of {}",
                taken_at.to_rfc3339()
            ),
            None => reason,
        };
        let expected = expected_digest(state, repository, tag).await?;
        let value = Unauthorised {
            repository: repository.to_string(),
            tag: tag.to_string(),
            digest: digest.to_string(),
            found_at: Some(time_to_wire(now())),
            reason,
            pushed_by: pushed_by(self.unauthorised.bus, repository, tag, digest).await,
            expected: expected
                .map(|digest| digest.to_string())
                .unwrap_or_default(),
            kept: self.restored.is_some(),
            ..Default::default()
        };
        let revision = state
            .unauthorised
            .write(&key, &value, stored.map(|stored| stored.revision))
            .await?;
        // An audit that reverted the tag meanwhile has published that, and deleted the entry.
        let head = self.targets.registry.head(repository, &tag.into()).await?;
        if head.is_none_or(|head| head.digest != *digest) {
            state.unauthorised.delete(&key).await?;
            return Ok(None);
        }
        let entry = Entry {
            key,
            value,
            revision,
        };
        Ok(Some(UnauthorisedTag::new(repository, tag, digest, entry)))
    }

    /// Reports an unauthorised tag, or reverts it; says whether that was done.
    async fn report_or_revert(&self, found: &UnauthorisedTag) -> Result<bool, Error> {
        let setting = self.catalog.settings(&found.repository).unauthorised;
        let is_reverted = setting == Setting::Revert && !found.entry.value.kept && !self.paused;
        if !is_reverted {
            self.unauthorised.report(found).await?;
            return Ok(true);
        }
        match self.unauthorised.revert(found).await {
            Ok(()) => Ok(true),
            // Most likely another audit reverts it just now, and publishes that; the next audit checks it again.
            Err(Error::State(sluice_state::Error::Claimed { .. })) => Ok(false),
            Err(Error::State(error)) if error.is_conflict() => Ok(false),
            Err(error) => {
                tracing::warn!(image.repository = %found.repository, image.tag = %found.tag, %error, "an unauthorised tag cannot be reverted now");
                self.unauthorised.report(found).await?;
                Ok(false)
            }
        }
    }

    /// Deletes the entry of an unauthorised tag that was removed; its event, if it was not published yet, is published first.
    async fn publish_and_forget(
        &self,
        repository: &Repository,
        tag: &Tag,
        before: &Entry<Unauthorised>,
    ) -> Result<(), Error> {
        if !before.value.published
            && let Ok(digest) = before.value.digest.parse::<Digest>()
        {
            let found = UnauthorisedTag::new(repository, tag, &digest, before.clone());
            let is_reverted = before.value.reverting;
            self.unauthorised.publish(&found, is_reverted).await?;
        }
        let unauthorised = &self.targets.state.unauthorised;
        Ok(unauthorised.delete(&before.key).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_begins_after_a_repository_or_after_one_of_its_tags() {
        for (after, left) in [
            ("", ["a/a", "a/b", "a/c"].as_slice()),
            ("a/a", &["a/b", "a/c"]),
            ("a/b:1.0", &["a/b", "a/c"]),
            ("a/c:zz", &["a/c"]),
            ("a/c", &[]),
        ] {
            let after = AuditPosition::parse(after);
            let all = ["a/a", "a/b", "a/c"];
            let found: Vec<_> = all
                .into_iter()
                .filter(|one| after.is_before(&one.parse().unwrap()))
                .collect();
            assert_eq!(found, left);
        }
    }
}
