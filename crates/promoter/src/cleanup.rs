//! Forgets what is known of what exists no longer: once a day, a part of a bucket at a time.
//!
//! Only what is certain is removed. An entry goes if it is older than the set time, if nothing of what it is about is in
//! staging, in a target or selected by a mirror, and if nobody has changed it since it was looked at. A registry that does
//! not answer, or does not list everything, lets everything stay. Of what was promoted and not withdrawn the decision stays.

mod decisions;
mod existing;
mod reports;
mod tags;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::topology::PROMOTER;
use sluice_bus::{Cause, Outcome};
use sluice_domain::{Class, Classify as _, Digest, Repository, Tag, now};
use sluice_events::commands::Reconcile;
use sluice_events::wire::state::{ImageEntry, Reconciliation};
use sluice_events::{time_from_wire, time_to_wire};
use sluice_service::crash;
use sluice_state::reconcile::{self, Next, PAGE, ReconcilePage, reason};
use sluice_state::{Entries, Entry, State, Stored, key};
use sluice_telemetry::metrics;
use tokio_util::sync::CancellationToken;

use crate::cleanup::existing::Existing;
use crate::handler::{Error, Promoter};
use crate::missing_tags::ASK_AGAIN;

/// How often it is done.
const EVERY: TimeDelta = TimeDelta::hours(24);
/// The hourly search asks for it, and comes a little early or late.
const SLACK: TimeDelta = TimeDelta::minutes(30);
/// How many pages of a bucket one message looks at: what exists is found out once for all of them.
const PAGES: usize = 40;
/// How often is counted how much there is.
const COUNT: Duration = Duration::from_secs(60);
/// What is looked at, in this order: what stands for an image is forgotten before what is known of it.
const KINDS: [&str; 6] = ["decision", "tag", "upstream", "image", "verdict", "report"];

/// A part of a bucket that one message looks at, and what became of it.
#[derive(Debug, Default)]
struct Part {
    removed: u64,
    /// How many pages were read.
    pages: usize,
    /// After which place it goes on, if it does.
    next: Option<u64>,
}

impl Part {
    const fn after(place: u64) -> Self {
        Self {
            removed: 0,
            pages: 0,
            next: Some(place),
        }
    }

    /// Reads the next page; nothing once the part is at its end.
    async fn page<R: Stored>(
        &mut self,
        entries: &Entries<R>,
        filter: &str,
    ) -> Result<Option<Vec<Entry<R>>>, Error> {
        let Some(after) = self.next.filter(|_| self.pages < PAGES) else {
            return Ok(None);
        };
        let page = entries.page(filter, after, PAGE).await?;
        self.pages += 1;
        self.next = page.next;
        Ok(Some(page.entries))
    }

    /// Forgets an entry if that is certain and nobody has changed it since.
    async fn settle<R: Stored>(
        &mut self,
        entries: &Entries<R>,
        entry: &Entry<R>,
        is_certain: bool,
    ) -> Result<(), Error> {
        if is_certain && entries.forget(entry).await? {
            self.removed += 1;
            crash::point("cleanup.forgotten");
        }
        Ok(())
    }
}

/// Tells how much of each kind there is, until it is told to stop.
pub(crate) async fn tell_entries(state: State, stopping: CancellationToken) -> anyhow::Result<()> {
    for kind in KINDS {
        // A counter that begins with its first removal would hide that one from a rate.
        metrics::STATE_REMOVED.add(0, &[kind]);
    }
    loop {
        if let Err(error) = count_entries(&state).await {
            tracing::warn!(%error, "how much there is to know cannot be counted; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(COUNT) => {}
            () = stopping.cancelled() => return Ok(()),
        }
    }
}

async fn count_entries(state: &State) -> Result<(), sluice_state::Error> {
    for (kind, count) in [
        ("decision", state.decisions.count().await?),
        ("tag", state.tags.count().await?),
        ("upstream", state.upstream.count().await?),
        ("image", state.images.count().await?),
        ("verdict", state.verdicts.count().await?),
    ] {
        tell_count(kind, count);
    }
    Ok(())
}

fn tell_count(kind: &str, count: u64) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    metrics::STATE_ENTRIES.set(f64::from(count), &[kind]);
}

impl Promoter {
    /// Asks for a cleanup if the last one was long enough ago.
    pub(crate) async fn ask_for_cleanup(&self, command: &Reconcile) -> Result<(), Error> {
        if !command.run.is_empty() || command.reason != reason::HOURLY {
            return Ok(());
        }
        let last = self.state.cleanups.get(key::CLEANUP).await?;
        let last = last.and_then(|last| time_from_wire(last.value.ended_at.as_ref()));
        if last.is_some_and(|last| now() - last < EVERY - SLACK) {
            return Ok(());
        }
        let day = now().format("%F").to_string();
        Ok(reconcile::request(&self.bus, &PROMOTER, reason::CLEANUP, &day).await?)
    }

    /// Looks at a part of what is known, and forgets what exists no longer.
    pub(crate) async fn clean_up_state(
        &self,
        command: &Reconcile,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        self.state.ensure_not_paused().await?;
        let before = now() - self.forget_after;
        let Some(kind) = usize::try_from(command.scan)
            .ok()
            .and_then(|scan| KINDS.get(scan))
        else {
            return Ok(Outcome::done());
        };
        let part = match *kind {
            "decision" => self.forget_decisions(command.after, before).await?,
            "tag" => self.forget_tags(command.after, before).await?,
            "upstream" => self.forget_upstream(command.after, before).await?,
            "image" => self.forget_images(command.after, before).await?,
            "verdict" => self.forget_verdicts(command.after, before).await?,
            _ => self.forget_reports(before).await?,
        };
        metrics::STATE_REMOVED.add(part.removed, &[kind]);
        if part.removed > 0 {
            tracing::info!(kind, removed = part.removed, "forgot what exists no longer");
        }
        if *kind == "report" && part.next.is_none() {
            return Ok(self.cleaned_up(command));
        }
        let found = ReconcilePage {
            next: Next::after(part.next, Next::Scan),
            ..ReconcilePage::default()
        };
        Ok(found.into_outcome(&self.state, command, cause))
    }

    fn cleaned_up(&self, command: &Reconcile) -> Outcome {
        let ended = Reconciliation {
            run: command.run.clone(),
            reason: command.reason.clone(),
            ended_at: Some(time_to_wire(now())),
            stage: PROMOTER.name.to_owned(),
            ..Default::default()
        };
        let cleanups = self.state.cleanups.clone();
        Outcome::done().then(async move { cleanups.put(key::CLEANUP, &ended).await.map(drop) })
    }

    /// Forgets what images consist of that exist no longer.
    async fn forget_images(&self, after: u64, before: DateTime<Utc>) -> Result<Part, Error> {
        let (images, mut part) = (&self.state.images, Part::after(after));
        let Some(mut existing) = Existing::read(self, before).await? else {
            return Ok(Part::default());
        };
        while let Some(page) = part.page(images, ">").await? {
            for entry in page {
                let described_at = time_from_wire(entry.value.described_at.as_ref());
                let is_old = described_at.is_some_and(|at| at < before);
                let is_certain = is_old && existing.lacks(self, &entry.value.digest).await?;
                part.settle(images, &entry, is_certain).await?;
                if described_at.is_none() {
                    self.stamp(&entry).await?;
                }
            }
        }
        Ok(part)
    }

    /// Lets the time begin of what an older version wrote.
    async fn stamp(&self, entry: &Entry<ImageEntry>) -> Result<(), Error> {
        let stamped = ImageEntry {
            described_at: Some(time_to_wire(now())),
            ..entry.value.clone()
        };
        let images = &self.state.images;
        match images
            .write(&entry.key, &stamped, Some(entry.revision))
            .await
        {
            Err(error) if !error.is_conflict() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Forgets the verdicts on what exists no longer.
    async fn forget_verdicts(&self, after: u64, before: DateTime<Utc>) -> Result<Part, Error> {
        let (verdicts, mut part) = (&self.state.verdicts, Part::after(after));
        let Some(mut existing) = Existing::read(self, before).await? else {
            return Ok(Part::default());
        };
        while let Some(page) = part.page(verdicts, ">").await? {
            for entry in page {
                let scanned_at = time_from_wire(entry.value.scanned_at.as_ref());
                let is_old = scanned_at.is_some_and(|at| at < before);
                let is_certain = is_old && existing.lacks(self, &entry.value.digest).await?;
                part.settle(verdicts, &entry, is_certain).await?;
            }
        }
        Ok(part)
    }

    /// Returns what a tag of the internal registry names. One of which that cannot be told is waited for.
    async fn names(&self, repository: &Repository, tag: &Tag) -> Result<Option<Digest>, Error> {
        let head = self.registry.head(repository, &tag.into()).await;
        Ok(head.map_err(waited_for)?.map(|head| head.digest))
    }
}

/// Lets a registry that does not answer be asked later.
fn waited_for(error: sluice_registry::Error) -> Error {
    if error.is_unreachable() || !matches!(error.class(), Class::Permanent) {
        return Error::Away {
            until: now() + ASK_AGAIN,
            source: error,
        };
    }
    error.into()
}
