//! Compares the registry with what the state says is there, and brings again what somebody deleted.
//!
//! An audit is a search for missing work that asks the registry too. What retention removed is not missing, and while
//! deletion is paused the state may be older than the registry, so nothing is compared.

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt as _, stream};
use sluice_bus::topology::MIRROR_WORKER;
use sluice_bus::{Cause, Outcome};
use sluice_domain::Digest;
use sluice_events::commands::{MirrorTag, Reconcile};
use sluice_events::facts::{TagRepaired, UpstreamTagMoved};
use sluice_events::time_from_wire;
use sluice_events::wire::state::TagEntry;
use sluice_registry::Inspection;
use sluice_state::reconcile::reason;
use sluice_state::{Applied, Snapshot, key};

use crate::mirror::{Error, MirrorWorker, Verification};

/// How many tags a page of an audit looks at: each takes several requests.
pub(crate) const AUDIT_PAGE: usize = 100;
/// How many tags are looked at at once.
const PARALLEL: usize = 4;
/// What is told of damage that an attempt mended which could not tell it.
const MENDED: &str = "something that an earlier attempt has brought";

impl MirrorWorker {
    /// Makes the hourly search an audit where one is due.
    pub(crate) async fn audit_if_due(&self, command: Reconcile) -> Result<Reconcile, Error> {
        let begins_hourly = command.run.is_empty() && command.reason == reason::HOURLY;
        if begins_hourly && self.is_due().await? && self.state.unless_paused().await.is_ok() {
            return Ok(Reconcile {
                reason: reason::AUDIT.to_owned(),
                ..command
            });
        }
        if command.reason == reason::AUDIT {
            self.state.unless_paused().await?;
        }
        Ok(command)
    }

    async fn is_due(&self) -> Result<bool, Error> {
        let every = TimeDelta::from_std(self.audit_every).unwrap_or(TimeDelta::MAX);
        if every.is_zero() {
            return Ok(false);
        }
        // A search comes a little early or late; the one that is due is not to be missed for that.
        let slack = TimeDelta::minutes(30).min(every / 2);
        let before = self.audited_at().await?;
        let now = sluice_domain::now();
        Ok(before.is_none_or(|before| now - before >= every - slack))
    }

    /// Returns when the last audit ended.
    pub(crate) async fn audited_at(&self) -> Result<Option<DateTime<Utc>>, Error> {
        let key = key::reconciliation(MIRROR_WORKER.name);
        let last = self.state.reconciliations.get(&key).await?;
        Ok(last.and_then(|last| time_from_wire(last.value.audited_at.as_ref())))
    }

    /// Returns the commands for those tags of which the registry lacks something.
    ///
    /// One that cannot be told of is left to the next audit, unless that is all of them.
    pub(crate) async fn damaged(
        &self,
        held: &[(MirrorTag, UpstreamTagMoved, TagEntry)],
    ) -> Result<Vec<MirrorTag>, Error> {
        let inspection = Inspection::of(&self.registry);
        let inspection = &inspection;
        let looks: Vec<_> = held
            .iter()
            .filter_map(|(command, fact, held)| {
                let digest: Digest = held.digest.parse().ok()?;
                let (command, repository) = (command.clone(), &fact.repository);
                Some(async move {
                    let lacks = inspection.lacks(repository, &command.tag, &digest).await;
                    (command, repository, lacks)
                })
            })
            .collect();
        let mut looks = stream::iter(looks).buffer_unordered(PARALLEL);
        let (mut damaged, mut told, mut failure) = (Vec::new(), false, None);
        while let Some((command, repository, lacks)) = looks.next().await {
            match lacks {
                Ok(lacks) => {
                    told = true;
                    if let Some(missing) = lacks {
                        tracing::warn!(image.repository = %repository, image.tag = %command.tag, missing, "the registry lacks what was mirrored");
                        damaged.push(MirrorTag {
                            damaged: true,
                            ..command
                        });
                    }
                }
                Err(error) => {
                    tracing::warn!(image.repository = %repository, image.tag = %command.tag, %error, "whether it is whole cannot be told");
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if !told => Err(error.into()),
            _ => Ok(damaged),
        }
    }

    /// Returns the commands for those images of which upstream lists referrers that are not here.
    ///
    /// What cannot be told is left to the next audit.
    pub(crate) async fn unlisted(
        &self,
        catalog: &Snapshot,
        whole: Vec<(MirrorTag, UpstreamTagMoved, TagEntry)>,
    ) -> Vec<MirrorTag> {
        let looks = whole.into_iter().map(|(command, fact, held)| async move {
            let lacks = self.lacks_referrers(catalog, &fact, &held).await;
            (command, fact, lacks)
        });
        let mut looks = stream::iter(looks).buffer_unordered(PARALLEL);
        let mut unlisted = Vec::new();
        while let Some((command, fact, lacks)) = looks.next().await {
            match lacks {
                Ok(false) => {}
                Ok(true) => unlisted.push(MirrorTag {
                    referrers: true,
                    ..command
                }),
                Err(error) => {
                    tracing::warn!(%error, image.repository = %fact.repository, image.tag = %fact.tag, "what refers to it cannot be told");
                }
            }
        }
        unlisted
    }

    /// Brings again what is missing of a tag, and tells a failure that is final.
    pub(crate) async fn repair_or_tell(
        &self,
        fact: &UpstreamTagMoved,
        held: &TagEntry,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        match self.repair(fact, held, cause).await {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                self.tell_failure(fact, cause, &error).await?;
                Err(error)
            }
        }
    }

    async fn repair(
        &self,
        fact: &UpstreamTagMoved,
        held: &TagEntry,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        self.state.unless_paused().await?;
        let Ok(digest) = held.digest.parse::<Digest>() else {
            return Ok(Outcome::done());
        };
        let inspection = Inspection::of(&self.registry);
        let lacks = inspection.lacks(&fact.repository, &fact.tag, &digest).await;
        let missing = match lacks? {
            Some(missing) => missing,
            // An attempt before this one may have brought it and died before it told so.
            None if cause.attempt > 1 => MENDED.to_owned(),
            None => return Ok(Outcome::done()),
        };
        let catalog = self.catalog.current();
        // A manifest that is there proves nothing here: a blob of it may be what is missing.
        let copied = self.copy(&catalog, fact, Verification::Thorough).await?;
        let mut precondition =
            self.precondition(&fact.mirror, &fact.repository, &fact.tag, fact.move_number);
        precondition.digest = Some(&fact.digest);
        let (applied, top) = self
            .point(&catalog, fact, &copied.top, &precondition)
            .await?;
        match applied {
            Applied::Superseded => return Ok(Outcome::done()),
            Applied::Refused { kept } => return self.refused(fact, kept).await,
            Applied::Settled { .. } => {}
        }
        tracing::warn!(image.repository = %fact.repository, image.tag = %fact.tag, missing, "repaired");
        Ok(Outcome::done().fact(TagRepaired {
            mirror: fact.mirror.clone(),
            source: fact.source.clone(),
            repository: fact.repository.clone(),
            tag: fact.tag.clone(),
            digest: top.digest,
            missing,
            move_number: fact.move_number,
        }))
    }
}
