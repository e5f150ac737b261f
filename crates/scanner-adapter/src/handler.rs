//! The handler of the stage: which manifests of an image are scanned, and which event follows.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures_util::{StreamExt as _, stream};
use sluice_bus::{Bus, Cause, Handler, Outcome, topology};
use sluice_domain::{Classify as _, Digest, Platform, ResourceName, SeverityCounts};
use sluice_events::EventId;
use sluice_events::commands::Reconcile;
use sluice_events::facts::{ScanFailed, ScanSucceeded, ScannedChild};
use sluice_events::wire::state::{ImageChild, Verdict, VerdictStatus};
use sluice_service::crash;
use sluice_state::reconcile::{ensure_no_pending_events, reason};
use sluice_state::{Catalog, key};
use sluice_telemetry::metrics::SCAN_DURATION;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{ChildError, Error, StageError};
use crate::handler::scan_queue::{Busy, ScanQueue};
use crate::handler::scan_target::{Input, ScanTarget};
use crate::image::ImageScanner;
use crate::image::verdict::{ManifestRef, compare_databases, has_changed};
use crate::reconcile::rematch::RematchFinder;
use crate::reconcile::{self, Reconciler};
use crate::scanner::{Scanner, ScannerVersion};

mod rematch;
pub(crate) mod scan_queue;
pub(crate) mod scan_target;

/// How many images may wait for a scan here when more are queued to be matched with a newer database.
const MAX_WAITING_BESIDE_REMATCH: usize = 8;
/// When the next images are queued, if more than that wait.
const PAGE_RETRY: TimeDelta = TimeDelta::seconds(3);

/// The work that an image needs.
enum Work<E> {
    /// None: each manifest that can be run has a verdict.
    Done(Outcome),
    /// These manifests are scanned, except those that have a verdict.
    Scan(Arc<E>, Vec<ImageChild>),
}

/// The handler of the stage.
#[derive(Debug)]
pub(crate) struct ScannerAdapter<S> {
    pub(crate) bus: Bus,
    pub(crate) catalog: Catalog,
    pub(crate) scanner: Arc<S>,
    pub(crate) images: ImageScanner<S>,
    pub(crate) queue: Arc<ScanQueue>,
    /// The name of the scanner in events.
    pub(crate) name: ResourceName,
    /// How many platforms of one image are scanned at once.
    pub(crate) parallel: usize,
    pub(crate) limit: Duration,
    pub(crate) stopping: CancellationToken,
    /// Stops the scanner once no scan needs it.
    pub(crate) _finished_when_dropped: DropGuard,
}

impl<S: Scanner> Handler for ScannerAdapter<S> {
    type Input = Input;
    type Error = StageError;

    const SPAN: &'static str = sluice_telemetry::span::SCAN;

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, StageError> {
        if let Input::DatabaseUpdated(fact) = &input {
            let (command, id) = reconcile::rematch::command(fact);
            return Ok(Outcome::done().command(command, EventId::random(), id));
        }
        if let Input::Reconcile(command) = input {
            if command.reason == reason::DATABASE {
                return Ok(self.rematch_page(&command, cause).await?);
            }
            ensure_no_pending_events(&self.bus, &topology::SCANNER_ADAPTER, &command, cause)
                .await?;
            let database = match command.reason.as_str() {
                reason::HOURLY => self.scanner.engine().await.ok(),
                _ => None,
            };
            let database = database.map(|engine| S::version(&engine).database_text());
            let reconciler = Reconciler {
                bus: &self.bus,
                state: &self.images.state,
                catalog: &self.catalog.current(),
                database_version: database.as_deref(),
            };
            let page = reconciler.page(&command).await?;
            return Ok(page.into_outcome(&self.images.state, &command, cause));
        }
        Ok(self.scan_or_report(input, cause).await?)
    }
}

impl<S: Scanner> ScannerAdapter<S> {
    /// Queues images that are matched with a newer database, while few images wait for a scan here.
    async fn rematch_page(
        &self,
        command: &Reconcile,
        cause: &Cause,
    ) -> Result<Outcome, sluice_state::Error> {
        if self.queue.waiting() > MAX_WAITING_BESIDE_REMATCH {
            return Err(sluice_state::Error::PendingEvents {
                stage: topology::SCANNER_ADAPTER.name,
                until: Utc::now() + PAGE_RETRY,
            });
        }
        let finder = RematchFinder {
            state: &self.images.state,
            catalog: &self.catalog.current(),
            database_version: &command.run,
        };
        let page = finder.page(command).await?;
        Ok(page.into_outcome(&self.images.state, command, cause))
    }

    /// Scans the image that a message leads to, and publishes a failure that is final.
    async fn scan_or_report(&self, input: Input, cause: &Cause) -> Result<Outcome, ChildError> {
        let Some(target) = input.scan_target(&self.catalog.current()) else {
            return Ok(Outcome::done());
        };
        match self.scan(&target).await {
            Ok(outcome) => Ok(outcome),
            Err(error) if self.is_superseded(&target, &error).await => {
                tracing::info!(
                    image.repository = %target.repository, image.digest = %target.digest,
                    "the image is missing, and its tag points to another one now"
                );
                Ok(Outcome::done())
            }
            Err(error) if target.rematched_with.is_some() && error.source.is_missing() => {
                tracing::info!(
                    image.repository = %target.repository, image.digest = %target.digest,
                    "the image is missing, so it is not matched with the newer database"
                );
                Ok(Outcome::done())
            }
            Err(error) => {
                if error.source.is_scanner_outage() {
                    self.scanner.recheck();
                }
                self.publish_failure(&target, cause, &error)
                    .await
                    .map_err(|error| target.failure(error))?;
                Err(error)
            }
        }
    }

    /// Scans an image; waiting for a permit does not count as its time.
    async fn scan(&self, target: &ScanTarget) -> Result<Outcome, ChildError> {
        // This limit is shorter than that of the bus, so that the failure can still be published.
        let timed_out = |_| target.failure(Error::TimedOut(self.limit));
        let start = Instant::now();
        let prepared = tokio::time::timeout(self.limit, self.prepare(target)).await;
        if let Work::Done(outcome) = prepared.map_err(timed_out)?? {
            return Ok(outcome);
        }
        let remaining = self.limit.saturating_sub(start.elapsed());
        // A process that stops leaves the images that wait to others.
        let permit = tokio::select! {
            () = self.stopping.cancelled() => Err(Busy),
            permit = self.queue.acquire(&target.repository) => permit,
        };
        let _permit = permit.map_err(|Busy| target.failure(Error::busy(&target.digest)))?;
        let scanned = tokio::time::timeout(remaining, async {
            // Meanwhile the database may have changed, or another tag of the image may have led to a verdict.
            match self.prepare(target).await? {
                Work::Done(outcome) => Ok(outcome),
                Work::Scan(engine, children) => {
                    let started = Instant::now();
                    let outcome = self.children(&engine, target, children).await?;
                    SCAN_DURATION.record(started.elapsed(), &[]);
                    Ok(outcome)
                }
            }
        });
        scanned.await.map_err(timed_out)?
    }

    /// Finds out which manifests of an image lack a current verdict.
    async fn prepare(&self, target: &ScanTarget) -> Result<Work<S::Engine>, ChildError> {
        let engine = self
            .scanner
            .engine()
            .await
            .map_err(|reason| target.failure(Error::not_ready(reason)))?;
        let version = S::version(&engine);
        if let Some(wanted) = &target.rematched_with
            && compare_databases(&version.database_text(), wanted).is_lt()
        {
            let reason =
                format!("the vulnerability database of this replica is older than {wanted}");
            return Err(target.failure(Error::not_ready(reason)));
        }
        let images = &self.images;
        let described = images.describe_image(&target.repository, &target.digest);
        let described = described.await.map_err(|error| target.failure(error))?;
        let mut children = described.children;
        children.retain(|child| !child.attestation);
        let mut verdicts = Vec::new();
        for child in &children {
            let (digest, platform) = target.child(child)?;
            let current = images.current_verdict(version, &digest).await;
            if let Some(verdict) = current.map_err(|error| target.failure(error))? {
                verdicts.push((scanned_child(&verdict, platform, digest), verdict));
            }
        }
        if verdicts.len() == children.len() {
            return Ok(Work::Done(self.outcome(target, version, &verdicts).await?));
        }
        Ok(Work::Scan(engine, children))
    }

    async fn children(
        &self,
        engine: &S::Engine,
        target: &ScanTarget,
        children: Vec<ImageChild>,
    ) -> Result<Outcome, ChildError> {
        let verdicts: Vec<_> = stream::iter(children)
            .map(|child| async move { self.child(engine, target, &child).await })
            .buffered(self.parallel)
            .collect()
            .await;
        let (mut children, mut failures) = (Vec::new(), Vec::new());
        for verdict in verdicts {
            match verdict {
                Ok(child) => children.push(child),
                Err(error) => failures.push(error),
            }
        }
        failures.sort_by_key(ChildError::rank);
        if let Some(first) = failures.into_iter().next() {
            return Err(first);
        }
        self.outcome(target, S::version(engine), &children).await
    }

    async fn child(
        &self,
        engine: &S::Engine,
        target: &ScanTarget,
        child: &ImageChild,
    ) -> Result<(ScannedChild, Verdict), ChildError> {
        let (digest, platform) = target.child(child)?;
        let manifest = ManifestRef {
            repository: &target.repository,
            digest: &digest,
            platform: &child.platform,
        };
        match self.images.verdict(engine, manifest).await {
            Ok(verdict) => Ok((scanned_child(&verdict, platform, digest), verdict)),
            Err(source) => Err(ChildError {
                platform,
                digest,
                source: Box::new(source),
            }),
        }
    }

    /// Returns the event on an image whose manifests all have verdicts; none if it was matched again and nothing changed.
    async fn outcome(
        &self,
        target: &ScanTarget,
        version: &ScannerVersion,
        children: &[(ScannedChild, Verdict)],
    ) -> Result<Outcome, ChildError> {
        let Some(database) = &target.rematched_with else {
            return Ok(self.scan_outcome(target, version, children));
        };
        let verdicts = || children.iter().map(|(_, verdict)| verdict);
        if !verdicts().any(|verdict| has_changed(verdict, database)) {
            return Ok(Outcome::done());
        }
        if children.is_empty() || verdicts().any(|one| one.status() != VerdictStatus::Covered) {
            return Ok(self.scan_outcome(target, version, children));
        }
        let (state, name) = (&self.images.state, self.name.clone());
        let fact = rematch::findings_changed(state, target, name, database, verdicts()).await;
        let fact = fact.map_err(|error| target.failure(error))?;
        tracing::info!(
            image.repository = %target.repository, image.digest = %target.digest, before = %fact.before, after = %fact.after,
            "a newer vulnerability database changed the findings"
        );
        Ok(Outcome::done().fact(fact))
    }

    /// Returns the event on an image that was scanned.
    fn scan_outcome(
        &self,
        target: &ScanTarget,
        version: &ScannerVersion,
        children: &[(ScannedChild, Verdict)],
    ) -> Outcome {
        let uncovered = children
            .iter()
            .find(|(_, verdict)| verdict.status() != VerdictStatus::Covered);
        if children.is_empty() || uncovered.is_some() {
            let reason = uncovered.map_or_else(
                || "the index has nothing that can be run".to_owned(),
                |(_, verdict)| verdict.reason.clone(),
            );
            tracing::info!(
                image.repository = %target.repository, image.digest = %target.digest, reason,
                "the scanner does not understand the image"
            );
            return Outcome::done().fact(ScanFailed {
                unsupported: true,
                platform: uncovered.and_then(|(child, _)| child.platform.clone()),
                ..self.scan_failed(target, reason)
            });
        }
        let counts = children
            .iter()
            .fold(SeverityCounts::default(), |sum, (child, _)| {
                sum.plus(child.counts)
            });
        // Some verdicts may be by a newer database than ours; the image as a whole counts by the oldest.
        let oldest = children
            .iter()
            .map(|(_, verdict)| verdict.database_version.clone())
            .min();
        tracing::info!(
            image.repository = %target.repository, image.digest = %target.digest, %counts, "scanned"
        );
        Outcome::done().fact(ScanSucceeded {
            repository: target.repository.clone(),
            tag: target.tag.clone(),
            digest: target.digest.clone(),
            scanner: self.name.clone(),
            scanner_version: version.scanner.clone(),
            database_version: oldest.unwrap_or_default(),
            counts,
            children: children.iter().map(|(child, _)| child.clone()).collect(),
        })
    }

    fn scan_failed(&self, target: &ScanTarget, reason: String) -> ScanFailed {
        ScanFailed {
            repository: target.repository.clone(),
            tag: target.tag.clone(),
            digest: target.digest.clone(),
            scanner: self.name.clone(),
            reason,
            unsupported: false,
            platform: None,
        }
    }

    /// Says whether an image is missing and its tag points to another one now, which has a message of its own.
    async fn is_superseded(&self, target: &ScanTarget, error: &ChildError) -> bool {
        let Some(tag) = target.tag.as_ref().filter(|_| error.source.is_missing()) else {
            return false;
        };
        let entry = self
            .images
            .state
            .tags
            .get(&key::tag(&target.repository, tag))
            .await;
        matches!(entry, Ok(Some(entry)) if entry.value.digest != target.digest.as_str())
    }

    /// Records and publishes a failure that is final; the message itself becomes a dead letter.
    async fn publish_failure(
        &self,
        target: &ScanTarget,
        cause: &Cause,
        error: &ChildError,
    ) -> Result<(), Error> {
        if !cause.is_final(error.class()) {
            return Ok(());
        }
        let reason = error.message();
        // A repository without the image says nothing of the same image elsewhere.
        if !error.source.is_missing() {
            self.record_failure(target, &reason).await?;
        }
        let fact = ScanFailed {
            platform: error.platform.clone(),
            ..self.scan_failed(target, reason)
        };
        self.bus
            .publish(&fact.into(), cause, &cause.occurrence)
            .await
            .map_err(sluice_state::Error::from)?;
        crash::point("scanner-adapter.failure_told");
        Ok(())
    }

    /// Records the failure at every manifest that has no verdict by today's database.
    async fn record_failure(&self, target: &ScanTarget, reason: &str) -> Result<(), Error> {
        let engine = self.scanner.engine().await.map_err(Error::not_ready)?;
        let entry = match self
            .images
            .describe_image(&target.repository, &target.digest)
            .await
        {
            Ok(entry) => entry,
            Err(sluice_state::Error::Registry(error)) if !error.is_unreachable() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for child in entry.children.iter().filter(|child| !child.attestation) {
            let digest = child
                .digest
                .parse()
                .map_err(|_| Error::Entry(child.digest.clone()))?;
            let manifest = ManifestRef {
                repository: &target.repository,
                digest: &digest,
                platform: &child.platform,
            };
            self.images
                .record_failure(S::version(&engine), manifest, reason.to_owned())
                .await?;
        }
        Ok(())
    }
}

fn scanned_child(verdict: &Verdict, platform: Option<Platform>, digest: Digest) -> ScannedChild {
    let counts = verdict.counts.unwrap_or_default();
    ScannedChild {
        platform,
        digest,
        counts: SeverityCounts {
            critical: counts.critical,
            high: counts.high,
            medium: counts.medium,
            low: counts.low,
            unknown: counts.unknown,
        },
        packages: verdict.packages,
        os: verdict.os.clone(),
        end_of_life: verdict.end_of_life,
    }
}
