//! Compares what the registry has in each target with the entries and decisions, and tells what nobody allowed.
//!
//! A message compares so many tags, and the next one goes on after them. It never touches what a live claim or a decision
//! covers, and a listing that failed changes nothing. The first comparison after a restore only remembers what it finds,
//! because the state may be older than the registry.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use sluice_bus::Cause;
use sluice_domain::resources::Unauthorised as Setting;
use sluice_domain::{Class, Classify as _, Digest, Repository, Tag};
use sluice_events::commands::Reconcile;
use sluice_events::wire::state::{Restored, TagEntry, Unauthorised};
use sluice_events::{time_from_wire, time_to_wire};
use sluice_state::reconcile::Next;
use sluice_state::{Entry, Snapshot, is_reconciled, key};

use crate::decide::targets_of;
use crate::handler::{Error, Promoter};
use crate::unauthorised_tags::UnauthorisedTag;

/// What the stage calls itself among those that have reconciled.
pub(crate) const NAME: &str = "promoter";
/// How many tags one message compares at most; a repository counts as one, so that it may have none.
const TAGS: usize = 1_000;

/// One comparison of all targets.
pub(crate) struct Comparison<'a> {
    promoter: &'a Promoter,
    catalog: &'a Snapshot,
    cause: &'a Cause,
    /// The restore after which this is the first comparison.
    restored: Option<Restored>,
    /// The repositories that are recorded as targets.
    recorded: BTreeSet<Repository>,
    /// Whether promotion and deletion are paused by a person.
    paused: bool,
}

/// A part of a comparison.
pub(crate) struct Part {
    /// How many tags were compared.
    pub(crate) tags: usize,
    /// In how many targets something could not be compared, or is left to be done.
    pub(crate) incomplete: u64,
    /// Where the next part begins; nowhere after the last.
    pub(crate) next: Next,
    /// The restore after which nothing was compared before.
    pub(crate) restored: Option<Restored>,
}

/// How one target fares.
struct Compared {
    /// Whether nothing is left to be done.
    is_complete: bool,
    tags: usize,
    /// Whether the registry lists no tag of it.
    is_empty: bool,
    /// After which tag the next part goes on, if it does.
    stopped_after: Option<Tag>,
}

/// The place after which a part begins: a repository, as in `official/app`, or one of its tags, as in `official/app:1.0`.
#[derive(Clone, Copy)]
struct After<'a> {
    repository: &'a str,
    tag: Option<&'a str>,
}

impl<'a> After<'a> {
    fn read(name: &'a str) -> Self {
        let (repository, tag) = match name.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (name, None),
        };
        Self { repository, tag }
    }

    /// Says whether something of a repository is left.
    fn leaves(&self, repository: &Repository) -> bool {
        let is_begun = self.tag.is_some() && repository.as_str() == self.repository;
        is_begun || repository.as_str() > self.repository
    }
}

/// Compares the targets from a place on.
pub(crate) async fn compare(
    promoter: &Promoter,
    catalog: &Snapshot,
    command: &Reconcile,
    cause: &Cause,
) -> Result<Part, Error> {
    let (held, restored) = promoter.state.pause_and_restore().await?;
    let comparison = Comparison {
        promoter,
        catalog,
        cause,
        restored: restored.filter(|restored| !is_reconciled(restored, NAME)),
        recorded: promoter.state.promotion_targets().await?,
        paused: held.is_some(),
    };
    let after = After::read(&command.after_name);
    let mut part = Part {
        tags: 0,
        incomplete: 0,
        next: Next::Scan,
        restored: comparison.restored.clone(),
    };
    let mut left = TAGS;
    for repository in comparison.repositories(after).await? {
        let begins_after = after
            .tag
            .filter(|_| repository.as_str() == after.repository);
        match comparison.repository(&repository, begins_after, left).await {
            Ok(compared) => {
                part.tags += compared.tags;
                part.incomplete += u64::from(!compared.is_complete);
                if let Some(tag) = compared.stopped_after {
                    part.next = Next::AfterName(format!("{repository}:{tag}"));
                    return Ok(part);
                }
                if compared.is_complete && compared.is_empty {
                    comparison.release(&repository).await?;
                }
                left = left.saturating_sub(compared.tags);
            }
            Err(Error::State(sluice_state::Error::Bus(error))) => {
                return Err(sluice_state::Error::from(error).into());
            }
            Err(error) => {
                part.incomplete += 1;
                tracing::warn!(image.repository = %repository, %error, "a target cannot be compared with the decisions");
            }
        }
        left = left.saturating_sub(1);
        if left == 0 {
            part.next = Next::AfterName(repository.to_string());
            return Ok(part);
        }
    }
    Ok(part)
}

impl Comparison<'_> {
    /// Returns the next targets in the order of their names: those that have tags, and those that only the registry knows,
    /// if it tells.
    async fn repositories(&self, after: After<'_>) -> Result<BTreeSet<Repository>, Error> {
        let state = &self.promoter.state;
        let mut targets = BTreeSet::new();
        let mut add = |repository: Repository| {
            if after.leaves(&repository) {
                targets.insert(repository);
                if targets.len() > TAGS {
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
        let is_left = |one: &Repository| self.is_target(one) && after.leaves(one);
        match self.promoter.registry.repositories(is_left).await {
            Ok(listed) => listed.into_iter().for_each(&mut add),
            // Not every registry has such a listing, and not every account may see it.
            Err(error) if error.class() == Class::Permanent => {
                tracing::debug!(%error, "the registry does not list its repositories");
                let held = state.tags.each(">", |_, entry| {
                    let named = entry.and_then(|entry| entry.value.repository.parse().ok());
                    let target = named.filter(|named| self.is_target(named));
                    target.into_iter().for_each(&mut add);
                    ControlFlow::Continue(())
                });
                held.await?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(targets)
    }

    fn is_target(&self, repository: &Repository) -> bool {
        self.recorded.contains(repository) || self.catalog.is_target(repository)
    }

    /// Lets others write to a repository again that no policy names, and in which nothing that was promoted is left.
    async fn release(&self, repository: &Repository) -> Result<(), Error> {
        let state = &self.promoter.state;
        if !self.recorded.contains(repository) || self.catalog.is_named_by_policy(repository) {
            return Ok(());
        }
        let is_of =
            |entry: &Entry<_>| targets_of(&entry.value).any(|target| target == repository.as_str());
        if state.decisions.has_more_than(0, ">", is_of).await? {
            return Ok(());
        }
        tracing::info!(image.repository = %repository, "nothing that was promoted is left there, so it is no target any more");
        let key = key::promotion_target(repository);
        Ok(state.targets.delete(&key).await?)
    }

    /// Compares so many tags of one target.
    async fn repository(
        &self,
        repository: &Repository,
        after: Option<&str>,
        most: usize,
    ) -> Result<Compared, Error> {
        let Promoter {
            state, registry, ..
        } = self.promoter;
        let mut listed = match registry.tags(repository).await {
            Err(error) if error.is_not_found() => Vec::new(),
            listed => listed?,
        };
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
                .tag((repository, &tag, &head.digest), entry.as_ref(), known)
                .await?;
        }
        // What was found before is gone.
        for (tag, before) in found {
            self.forget(repository, &tag, &before, true).await?;
        }
        Ok(Compared {
            is_complete,
            tags,
            is_empty,
            stopped_after,
        })
    }

    async fn tag(
        &self,
        (repository, tag, digest): (&Repository, &Tag, &Digest),
        entry: Option<&TagEntry>,
        before: Option<Entry<Unauthorised>>,
    ) -> Result<bool, Error> {
        let promoter = self.promoter;
        if let Some(before) = &before {
            let same = before.value.digest == digest.as_str();
            if same && before.value.kept && self.doubt(repository, tag, digest).await?.is_some() {
                return Ok(true);
            }
            if !same {
                self.forget(repository, tag, before, true).await?;
            }
        } else if promoter
            .why_unauthorised(repository, tag, digest, entry)
            .await?
            .is_none()
        {
            return Ok(true);
        }
        // The listing may be old by now, so nothing is said before everything was read again.
        let reason = self.doubt(repository, tag, digest).await?;
        let before = before.filter(|before| before.value.digest == digest.as_str());
        match (reason, before) {
            (None, None) => Ok(true),
            (None, Some(before)) => {
                self.forget(repository, tag, &before, false).await?;
                Ok(true)
            }
            (Some(reason), before) => {
                let place = (repository, tag, digest);
                match self.remember(place, reason, before).await? {
                    Some(found) => self.answer(&found).await,
                    None => Ok(true),
                }
            }
        }
    }

    /// Says why a tag names what it should not, as everything is now.
    async fn doubt(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<Option<String>, Error> {
        let Promoter {
            state, registry, ..
        } = self.promoter;
        let entry = state.tags.get(&key::tag(repository, tag)).await?;
        let entry = entry.map(|entry| entry.value);
        let reason = self
            .promoter
            .why_unauthorised(repository, tag, digest, entry.as_ref())
            .await?;
        let head = registry.head(repository, &tag.into()).await?;
        if reason.is_none() || head.is_none_or(|head| head.digest != *digest) {
            return Ok(None);
        }
        // A removal that was interrupted leaves it; whoever began that removal ends it.
        if registry.is_tombstone(repository, digest).await? {
            return Ok(None);
        }
        Ok(reason)
    }

    /// Writes down what was found, before anything is told or done about it; nothing if it is gone by now.
    ///
    /// Two searches may find the same at the same time: it is one happening, which the first of them has written down.
    async fn remember(
        &self,
        (repository, tag, digest): (&Repository, &Tag, &Digest),
        reason: String,
        before: Option<Entry<Unauthorised>>,
    ) -> Result<Option<UnauthorisedTag>, Error> {
        let promoter = self.promoter;
        let key = key::unauthorised(repository, tag);
        let written = promoter.state.unauthorised.get(&key).await?;
        let same = |entry: &Entry<Unauthorised>| entry.value.digest == digest.as_str();
        if let Some(mut before) = before.or_else(|| written.clone().filter(same)) {
            if self.restored.is_some() && !before.value.kept {
                // It may have been allowed since the backup.
                before.value.kept = true;
                before.revision = promoter
                    .state
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
        let expected = promoter.expected(repository, tag).await?;
        let value = Unauthorised {
            repository: repository.to_string(),
            tag: tag.to_string(),
            digest: digest.to_string(),
            found_at: Some(time_to_wire(sluice_domain::now())),
            reason,
            pushed_by: promoter.pushed_by(repository, tag, digest).await,
            expected: expected
                .map(|digest| digest.to_string())
                .unwrap_or_default(),
            kept: self.restored.is_some(),
            ..Default::default()
        };
        let revision = promoter
            .state
            .unauthorised
            .write(&key, &value, written.map(|written| written.revision))
            .await?;
        // Whoever put it right since it was looked for has told that, and forgotten it.
        let head = promoter.registry.head(repository, &tag.into()).await?;
        if head.is_none_or(|head| head.digest != *digest) {
            promoter.state.unauthorised.delete(&key).await?;
            return Ok(None);
        }
        let entry = Entry {
            key,
            value,
            revision,
        };
        Ok(Some(UnauthorisedTag::new(repository, tag, digest, entry)))
    }

    /// Tells what was found, or puts it right.
    async fn answer(&self, found: &UnauthorisedTag) -> Result<bool, Error> {
        let setting = self.catalog.settings(&found.repository).unauthorised;
        let reverts = setting == Setting::Revert && !found.entry.value.kept && !self.paused;
        if !reverts {
            self.promoter.report(found, self.cause).await?;
            return Ok(true);
        }
        match self.promoter.revert(found, self.cause).await {
            Ok(()) => Ok(true),
            // Most likely another search reverts it just now, and tells that; the next look says what is left of it.
            Err(Error::State(sluice_state::Error::Claimed { .. })) => Ok(false),
            Err(Error::State(error)) if error.is_conflict() => Ok(false),
            Err(error) => {
                tracing::warn!(image.repository = %found.repository, image.tag = %found.tag, %error, "an unauthorised tag cannot be reverted now");
                self.promoter.report(found, self.cause).await?;
                Ok(false)
            }
        }
    }

    /// Ends a happening whose tag is gone, or allowed by now; what was not told yet is told first.
    async fn forget(
        &self,
        repository: &Repository,
        tag: &Tag,
        before: &Entry<Unauthorised>,
        is_gone: bool,
    ) -> Result<(), Error> {
        if is_gone
            && !before.value.announced
            && let Ok(digest) = before.value.digest.parse::<Digest>()
        {
            let found = UnauthorisedTag::new(repository, tag, &digest, before.clone());
            self.promoter
                .tell(&found, before.value.reverting, self.cause)
                .await?;
        }
        Ok(self.promoter.state.unauthorised.delete(&before.key).await?)
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
            let after = After::read(after);
            let all = ["a/a", "a/b", "a/c"];
            let found: Vec<_> = all
                .into_iter()
                .filter(|one| after.leaves(&one.parse().unwrap()))
                .collect();
            assert_eq!(found, left);
        }
    }
}
