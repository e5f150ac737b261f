//! Compares what the registry has in each target with the entries and decisions, and tells what nobody allowed.
//!
//! It never touches what a live claim or a decision covers, and a listing that failed changes nothing. The first
//! comparison after a restore only remembers what it finds, because the state may be older than the registry.

use std::collections::{BTreeMap, BTreeSet};

use sluice_bus::Cause;
use sluice_domain::resources::Unauthorised as Setting;
use sluice_domain::{Class, Classify as _, Digest, Repository, Tag};
use sluice_events::wire::state::{Restored, TagEntry, Unauthorised};
use sluice_events::{time_from_wire, time_to_wire};
use sluice_state::{Entry, Snapshot, key, reconciled};

use crate::handler::{Error, Promoter};
use crate::restored;
use crate::revert::Found;

/// What the stage calls itself among those that have reconciled.
pub(crate) const NAME: &str = "promoter";

/// One comparison of all targets.
pub(crate) struct Comparison<'a> {
    pub(crate) promoter: &'a Promoter,
    pub(crate) catalog: &'a Snapshot,
    pub(crate) cause: &'a Cause,
    /// The restore after which this is the first comparison.
    pub(crate) restored: Option<Restored>,
    /// Whether promotion and deletion are paused by a person.
    paused: bool,
}

/// Compares every target, and ends the pause after a restore once all of them could be compared.
///
/// Returns false if some could not, or if something is left to be done.
pub(crate) async fn compare(
    promoter: &Promoter,
    catalog: &Snapshot,
    cause: &Cause,
) -> Result<bool, Error> {
    let (held, restored) = promoter.state.control_now().await?;
    let comparison = Comparison {
        promoter,
        catalog,
        cause,
        restored: restored.filter(|restored| !reconciled(restored, NAME)),
        paused: held.is_some(),
    };
    let (mut complete, mut listed) = (true, BTreeMap::new());
    for repository in comparison.repositories().await? {
        match comparison.repository(&repository).await {
            Ok((done, tags)) => {
                complete &= done;
                if comparison.restored.is_some() {
                    listed.insert(repository, tags);
                }
            }
            Err(Error::State(sluice_state::Error::Bus(error))) => {
                return Err(sluice_state::Error::from(error).into());
            }
            Err(error) => {
                complete = false;
                tracing::warn!(image.repository = %repository, %error, "a target cannot be compared with the decisions");
            }
        }
    }
    if let Some(restored) = &comparison.restored {
        restored::hold_missing(&comparison, restored, &listed).await?;
        if !complete {
            return Ok(false);
        }
        promoter.state.note_reconciled(NAME, restored).await?;
        tracing::info!("every target was compared since the restore");
    }
    Ok(complete)
}

impl Comparison<'_> {
    /// Returns the targets: those that have tags, and those that only the registry knows, if it tells.
    async fn repositories(&self) -> Result<BTreeSet<Repository>, Error> {
        let state = &self.promoter.state;
        let mut targets = BTreeSet::new();
        for entry in state.tags.list(">").await? {
            let entry = entry.value;
            if let Ok(repository) = entry.repository.parse::<Repository>()
                && (self.catalog.is_target(&repository) || entry.promoted_from.is_some())
            {
                targets.insert(repository);
            }
        }
        for policy in self.catalog.policies.values() {
            if policy.to.registry().is_none() {
                targets.extend(policy.to.to_string().parse::<Repository>().ok());
            }
        }
        if self.restored.is_some() {
            for entry in state.decisions.list(">").await? {
                targets.extend(entry.value.target.parse::<Repository>().ok());
            }
        }
        let registry = &self.promoter.registry;
        match registry
            .repositories(|repository| self.catalog.is_target(repository))
            .await
        {
            Ok(listed) => targets.extend(listed),
            // Not every registry has such a listing, and not every account may see it.
            Err(error) if error.class() == Class::Permanent => {
                tracing::debug!(%error, "the registry does not list its repositories");
            }
            Err(error) => return Err(error.into()),
        }
        Ok(targets)
    }

    /// Compares one target; returns whether nothing is left to be done, and its tags.
    async fn repository(&self, repository: &Repository) -> Result<(bool, BTreeSet<Tag>), Error> {
        let Promoter {
            state, registry, ..
        } = self.promoter;
        let mut found = BTreeMap::new();
        for entry in state
            .unauthorised
            .list(&key::unauthorised_in(repository))
            .await?
        {
            if let Ok(tag) = entry.value.tag.parse::<Tag>() {
                found.insert(tag, entry);
            }
        }
        let mut entries = BTreeMap::new();
        for entry in state.tags.list(&key::tags_of(repository)).await? {
            if let Ok(tag) = entry.value.tag.parse::<Tag>() {
                entries.insert(tag, entry.value);
            }
        }
        let listed = match registry.tags(repository).await {
            Err(error) if error.is_not_found() => Vec::new(),
            listed => listed?,
        };
        let (mut complete, mut names) = (true, BTreeSet::new());
        for tag in listed {
            let Some(head) = registry.head(repository, &(&tag).into()).await? else {
                continue;
            };
            let known = found.remove(&tag);
            complete &= self
                .tag((repository, &tag, &head.digest), entries.get(&tag), known)
                .await?;
            names.insert(tag);
        }
        // What was found before is gone.
        for (tag, before) in found {
            self.forget(repository, &tag, &before, true).await?;
        }
        Ok((complete, names))
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
    ) -> Result<Option<Found>, Error> {
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
            return Ok(Some(Found::new(repository, tag, digest, before)));
        }
        let restored = self.restored.as_ref();
        let taken_at = restored.and_then(|restored| time_from_wire(restored.taken_at.as_ref()));
        let reason = match taken_at {
            Some(taken_at) => format!(
                "{reason}; the state was restored from a backup of {}, than which it may be newer, so it stays",
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
        Ok(Some(Found::new(repository, tag, digest, entry)))
    }

    /// Tells what was found, or puts it right.
    async fn answer(&self, found: &Found) -> Result<bool, Error> {
        let setting = self
            .catalog
            .settings(&found.repository)
            .map(|settings| settings.unauthorised);
        let reverts = setting == Some(Setting::Revert) && !found.entry.value.kept && !self.paused;
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
            let found = Found::new(repository, tag, &digest, before.clone());
            self.promoter
                .tell(&found, before.value.reverting, self.cause)
                .await?;
        }
        Ok(self.promoter.state.unauthorised.delete(&before.key).await?)
    }
}
