//! One run of retention in one repository: reads its tags, plans, and removes the tags of the plan.

pub(crate) mod condition_facts;
pub(crate) mod policy;
pub(crate) mod protection;
pub(crate) mod removal;
mod tag_facts;

use std::collections::{BTreeMap, BTreeSet};

use sluice_bus::{Cause, Outcome};
use sluice_domain::{Digest, Repository, ResourceName, Tag};
use sluice_events::facts::{PruneCompleted, PrunedTag};
use sluice_events::wire::state::TagEntry;
use sluice_policy::retention::{Plan, PlannedDeletion, Rules, plan};
use sluice_registry::Client;
use sluice_state::{Provenance, Snapshot, State, TagWriter, key, remove_attachments};

use self::policy::{compile_condition, enabled_policy};
use self::protection::{is_own, is_promotion_target, is_within_limit};
use self::removal::TagRemoval;
use self::tag_facts::TagFactsReader;
use crate::error::Error;
use crate::request::request_run;
use crate::settings::STAGE;

/// The most tags that one run removes, so that its event stays small; another run removes the rest.
const MAX_REMOVED: usize = 300;
/// The longest reason in an event, in characters.
const MAX_REASON: usize = 400;

/// One run of retention in one repository.
pub(crate) struct RetentionRun<'a> {
    pub(crate) state: &'a State,
    pub(crate) registry: &'a Client,
    pub(crate) tags: &'a TagWriter,
    pub(crate) catalog: &'a Snapshot,
    pub(crate) repository: &'a Repository,
    /// The pruning policy; `None` for a run of the tag limit alone.
    pub(crate) policy: Option<&'a ResourceName>,
    pub(crate) cause: &'a Cause,
}

impl RetentionRun<'_> {
    /// Plans the retention of the repository and carries it out.
    pub(crate) async fn execute(&self) -> Result<Outcome, Error> {
        let (catalog, repository) = (self.catalog, self.repository);
        if is_promotion_target(catalog, repository) {
            return Ok(Outcome::done());
        }
        let policy = match self.policy {
            None => None,
            Some(name) => match enabled_policy(catalog, name, repository) {
                Some(policy) => Some((&policy.name, compile_condition(policy)?)),
                None => {
                    tracing::info!(policy = %name, image.repository = %repository, "no enabled policy of this name selects the repository");
                    return Ok(Outcome::done());
                }
            },
        };
        let rules = Rules {
            repository,
            keep: catalog.settings(repository).keep,
            policy: policy.as_ref().map(|(name, condition)| (*name, condition)),
            now: sluice_domain::now(),
        };
        let entries = self.read_entries().await?;
        if rules.policy.is_none()
            && is_within_limit(&entries, rules.keep.newest, &self.cause.occurrence)
        {
            return Ok(Outcome::done());
        }
        let listed: BTreeSet<Tag> = match self.registry.list_tags(repository).await {
            Ok(tags) => tags.into_iter().collect(),
            Err(error) if error.is_not_found() => return Ok(Outcome::done()),
            Err(error) => return Err(error.into()),
        };
        let interrupted = self.find_interrupted(&entries).await?;
        let listed = listed
            .into_iter()
            .filter(|tag| !interrupted.iter().any(|planned| planned.tag == *tag))
            .collect();
        let reader = TagFactsReader {
            state: self.state,
            registry: self.registry,
            catalog,
            rules: &rules,
        };
        let tags = reader.read(&entries, &listed).await?;
        let mut plan = plan(&rules, &tags);
        plan.delete.splice(..0, interrupted);
        self.end_unplanned(&entries, &plan).await?;
        self.carry_out(&entries, plan).await
    }

    /// Returns the entries of the images of the repository by tag; those of removed tags too, if they say by which run.
    async fn read_entries(&self) -> Result<BTreeMap<Tag, TagEntry>, Error> {
        let filter = key::tags_of(self.repository);
        let entries = self.state.tags.collect(&filter, |entry| {
            let is_known = !entry.value.digest.is_empty() || entry.value.pruning.is_some();
            let tag = entry.value.tag.parse::<Tag>().ok()?;
            // Attachments are no images: they neither count nor are evaluated.
            let is_image = tag.attached_to().is_none();
            (is_known && is_image).then_some((tag, entry.value))
        });
        Ok(entries.await?.into_values().collect())
    }

    /// Returns the removals that were interrupted after the tag was removed and before its entry said so.
    async fn find_interrupted(
        &self,
        entries: &BTreeMap<Tag, TagEntry>,
    ) -> Result<Vec<PlannedDeletion>, Error> {
        let mut found = Vec::new();
        for (tag, entry) in entries {
            let (Some(pruning), Ok(digest)) = (&entry.pruning, entry.digest.parse::<Digest>())
            else {
                continue;
            };
            if self.removal(tag, &digest).is_tag_removed(entry).await? {
                found.push(PlannedDeletion {
                    tag: tag.clone(),
                    digest,
                    reason: pruning.reason.clone(),
                });
            }
        }
        Ok(found)
    }

    /// Ends removals that were begun, changed nothing, and are not planned any more.
    async fn end_unplanned(
        &self,
        entries: &BTreeMap<Tag, TagEntry>,
        plan: &Plan,
    ) -> Result<(), Error> {
        for (tag, entry) in entries {
            let is_begun = entry.pruning.is_some() && entry.claim.is_some();
            let is_planned = plan.delete.iter().any(|deletion| deletion.tag == *tag);
            if let (true, false, Ok(digest)) = (is_begun, is_planned, entry.digest.parse()) {
                let provenance = Provenance::default();
                let ended =
                    self.tags
                        .clean_up_stale(self.repository, tag, Some(&digest), &provenance);
                match ended.await {
                    // The run that holds the claim ends it.
                    Err(sluice_state::Error::Claimed { .. }) => {}
                    ended => ended?,
                }
            }
        }
        Ok(())
    }

    const fn removal<'r>(&'r self, tag: &'r Tag, digest: &'r Digest) -> TagRemoval<'r> {
        TagRemoval {
            state: self.state,
            registry: self.registry,
            catalog: self.catalog,
            repository: self.repository,
            tag,
            digest,
        }
    }

    /// Returns the tags that this very run removed before it was interrupted, and that were not published yet.
    fn removed_before(&self, entries: &BTreeMap<Tag, TagEntry>) -> Vec<PrunedTag> {
        entries
            .iter()
            .filter(|(_, entry)| entry.digest.is_empty())
            .filter_map(|(tag, entry)| {
                let pruning = entry
                    .pruning
                    .as_ref()
                    .filter(|pruning| pruning.run == self.cause.occurrence)?;
                Some(PrunedTag {
                    tag: tag.clone(),
                    digest: pruning.digest.parse().ok()?,
                    reason: pruning.reason.clone(),
                })
            })
            .collect()
    }

    /// Removes the tags of a plan, and publishes what was removed.
    async fn carry_out(
        &self,
        entries: &BTreeMap<Tag, TagEntry>,
        plan: Plan,
    ) -> Result<Outcome, Error> {
        let occurrence = &self.cause.occurrence;
        if !plan.delete.is_empty() {
            self.state.ensure_not_paused().await?;
        }
        let (mut removed, mut kept) = (self.removed_before(entries), plan.kept.len());
        for deletion in plan.delete.iter().take(MAX_REMOVED) {
            let removal = self.removal(&deletion.tag, &deletion.digest);
            let Some(entry) = entries.get(&deletion.tag) else {
                continue;
            };
            let reason: String = deletion.reason.chars().take(MAX_REASON).collect();
            let is_removed = match removal
                .carry_out(self.tags, entry, occurrence, &reason)
                .await
            {
                // A stage that changes the tag now wants it. Another run that removes it must end first, or its claim lapse.
                Err(sluice_state::Error::Claimed { ref holder, .. }) if !is_own(holder) => false,
                other => other?,
            };
            if is_removed {
                tracing::info!(
                    image.repository = %self.repository, image.tag = %deletion.tag, image.digest = %deletion.digest,
                    reason, "pruned"
                );
                removed.push(PrunedTag {
                    tag: deletion.tag.clone(),
                    digest: deletion.digest.clone(),
                    reason,
                });
            } else {
                tracing::info!(image.repository = %self.repository, image.tag = %deletion.tag, "not pruned: the tag changed since the plan was made");
                kept += 1;
            }
        }
        let digests: Vec<Digest> = removed.iter().map(|tag| tag.digest.clone()).collect();
        remove_attachments(self.state, self.tags, self.repository, &digests, STAGE).await?;
        let mut outcome = Outcome::done();
        let remaining = plan.delete.len().saturating_sub(MAX_REMOVED);
        if remaining > 0 {
            kept += remaining;
            outcome = request_run(outcome, self.policy, self.repository, occurrence);
        }
        if removed.is_empty() {
            return Ok(outcome);
        }
        Ok(outcome.fact(PruneCompleted {
            repository: self.repository.clone(),
            policy: self.policy.cloned(),
            deleted: removed,
            kept: u64::try_from(kept).unwrap_or(u64::MAX),
            dry_run: false,
        }))
    }
}
