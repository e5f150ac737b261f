//! One image: which of its manifests are scanned, and what is told of it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use sluice_bus::{Bus, Cause, Handler, Outcome, topology};
use sluice_domain::{
    Classify as _, Digest, Platform, Repository, ResourceName, SeverityCounts, Tag,
    is_service_account,
};
use sluice_events::commands::{Reconcile, ScanImage};
use sluice_events::facts::{ScanFailed, ScanSucceeded, ScannedChild, TagMirrored, TagPushed};
use sluice_events::wire::state::{ImageChild, Verdict, VerdictStatus};
use sluice_events::{Command, Decode, Event, Message, Unexpected};
use sluice_service::crash;
use sluice_state::key;
use sluice_state::reconcile::ensure_no_pending_events;
use sluice_state::{Catalog, Snapshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::admission::{Admission, Busy};
use crate::error::{ChildError, Error, StageError};
use crate::image::ImageScanner;
use crate::reconcile::is_scanned_unasked;
use crate::server::Server;
use crate::supervisor::Scanner;
use crate::verdict::Image;

/// What the stage works on.
#[derive(Debug)]
pub(crate) enum Input {
    Mirrored(TagMirrored),
    Pushed(TagPushed),
    Scan(ScanImage),
    Reconcile(Reconcile),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, Unexpected> {
        match message {
            Message::Event(Event::TagMirrored(fact)) => Ok(Self::Mirrored(fact)),
            Message::Event(Event::TagPushed(fact)) => Ok(Self::Pushed(fact)),
            Message::Command(Command::ScanImage(command)) => Ok(Self::Scan(command)),
            Message::Command(Command::Reconcile(command)) => Ok(Self::Reconcile(command)),
            other => Err(other.unexpected()),
        }
    }
}

impl Input {
    /// Returns the image to scan, unless it is none of our business or somebody wants to ask for it.
    pub(crate) fn target(self, catalog: &Snapshot) -> Option<Target> {
        let (repository, tag, digest) = match self {
            // Whoever asks gets it, whatever the settings say.
            Self::Scan(command) => {
                return Some(Target {
                    repository: command.repository,
                    tag: command.tag,
                    digest: command.digest,
                });
            }
            Self::Mirrored(fact) => (fact.repository, fact.tag, fact.digest),
            // What Sluice itself pushes is told as mirrored or promoted.
            Self::Pushed(fact) if is_service_account(&fact.actor) => return None,
            Self::Pushed(fact) => (fact.repository, fact.tag, fact.digest),
            Self::Reconcile(_) => return None,
        };
        let is_image = tag.attached_to().is_none();
        (is_image && is_scanned_unasked(catalog, &repository)).then_some(Target {
            repository,
            tag: Some(tag),
            digest,
        })
    }
}

/// An image to scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) repository: Repository,
    tag: Option<Tag>,
    pub(crate) digest: Digest,
}

/// What is left to do for an image.
enum Prepared {
    /// Nothing: all that can be run has a verdict.
    Ready(Outcome),
    /// These are scanned, as far as they have none.
    Scan(Arc<Server>, Vec<ImageChild>),
}

/// The stage.
#[derive(Debug)]
pub(crate) struct ScannerAdapter {
    pub(crate) bus: Bus,
    pub(crate) catalog: Catalog,
    pub(crate) scanner: Scanner,
    pub(crate) images: ImageScanner,
    pub(crate) admission: Arc<Admission>,
    /// The name of the scanner in facts.
    pub(crate) name: ResourceName,
    /// How many platforms of one image are looked at together.
    pub(crate) parallel: usize,
    pub(crate) limit: Duration,
    pub(crate) stopping: CancellationToken,
    /// Ends the server once no scan needs it.
    pub(crate) _finished: DropGuard,
}

impl Handler for ScannerAdapter {
    type Input = Input;
    type Error = StageError;

    const SPAN: &'static str = sluice_telemetry::span::SCAN;

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, StageError> {
        if let Input::Reconcile(command) = input {
            ensure_no_pending_events(&self.bus, &topology::SCANNER_ADAPTER, &command, cause)
                .await?;
            let found = self.missing(&command).await?;
            return Ok(found.into_outcome(&self.images.state, &command, cause));
        }
        Ok(self.scan_or_tell(input, cause).await?)
    }
}

impl ScannerAdapter {
    async fn scan_or_tell(&self, input: Input, cause: &Cause) -> Result<Outcome, ChildError> {
        let Some(target) = input.target(&self.catalog.current()) else {
            return Ok(Outcome::done());
        };
        match self.scan(&target).await {
            Ok(outcome) => Ok(outcome),
            Err(error) if self.is_superseded(&target, &error).await => {
                tracing::info!(
                    image.repository = %target.repository, image.digest = %target.digest,
                    "the image is gone and its tag names another one by now"
                );
                Ok(Outcome::done())
            }
            Err(error) => {
                if error.source.is_scanner() {
                    self.scanner.recheck();
                }
                self.tell_failure(&target, cause, &error)
                    .await
                    .map_err(|error| target.failed(error))?;
                Err(error)
            }
        }
    }
}

impl Target {
    fn child(&self, child: &ImageChild) -> Result<(Digest, Option<Platform>), ChildError> {
        let digest = child.digest.parse();
        let digest = digest.map_err(|_| self.failed(Error::Entry(child.digest.clone())))?;
        Ok((digest, child.platform.parse().ok()))
    }

    fn failed(&self, source: impl Into<Error>) -> ChildError {
        ChildError {
            platform: None,
            digest: self.digest.clone(),
            source: Box::new(source.into()),
        }
    }
}

impl ScannerAdapter {
    /// Scans an image; waiting for a place does not count as its time.
    async fn scan(&self, target: &Target) -> Result<Outcome, ChildError> {
        // This limit comes before the bus's own, so that the failure can still be told.
        let timed_out = |_| target.failed(Error::TimedOut(self.limit));
        let began = Instant::now();
        let prepared = tokio::time::timeout(self.limit, self.prepare(target)).await;
        if let Prepared::Ready(outcome) = prepared.map_err(timed_out)?? {
            return Ok(outcome);
        }
        let left = self.limit.saturating_sub(began.elapsed());
        // A process that stops leaves what waits to others.
        let place = tokio::select! {
            () = self.stopping.cancelled() => Err(Busy),
            place = self.admission.place(&target.repository) => place,
        };
        let _place = place.map_err(|Busy| target.failed(Error::busy(&target.digest)))?;
        let scanned = tokio::time::timeout(left, async {
            // While it waited there may have come another database, or a verdict by another tag of the image.
            match self.prepare(target).await? {
                Prepared::Ready(outcome) => Ok(outcome),
                Prepared::Scan(server, children) => self.children(&server, target, children).await,
            }
        });
        scanned.await.map_err(timed_out)?
    }

    /// Finds out what is to be scanned, and whether anything is.
    async fn prepare(&self, target: &Target) -> Result<Prepared, ChildError> {
        let server = self
            .scanner
            .server()
            .await
            .map_err(|reason| target.failed(Error::not_ready(reason)))?;
        let images = &self.images;
        let described = images.described(&target.repository, &target.digest);
        let described = described.await.map_err(|error| target.failed(error))?;
        let mut children = described.children;
        children.retain(|child| !child.attestation);
        let mut known = Vec::new();
        for child in &children {
            let (digest, platform) = target.child(child)?;
            let standing = images.standing(&server.version, &digest).await;
            if let Some(verdict) = standing.map_err(|error| target.failed(error))? {
                known.push((scanned(&verdict, platform, digest), verdict));
            }
        }
        if known.len() == children.len() {
            return Ok(Prepared::Ready(self.told(target, &server, &known)));
        }
        Ok(Prepared::Scan(server, children))
    }

    async fn children(
        &self,
        server: &Server,
        target: &Target,
        children: Vec<ImageChild>,
    ) -> Result<Outcome, ChildError> {
        let verdicts: Vec<_> = stream::iter(children)
            .map(|child| async move { self.child(server, target, &child).await })
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
        Ok(self.told(target, server, &children))
    }

    async fn child(
        &self,
        server: &Server,
        target: &Target,
        child: &ImageChild,
    ) -> Result<(ScannedChild, Verdict), ChildError> {
        let (digest, platform) = target.child(child)?;
        let image = Image {
            repository: &target.repository,
            digest: &digest,
            platform: &child.platform,
        };
        match self.images.verdict(server, image).await {
            Ok(verdict) => Ok((scanned(&verdict, platform, digest), verdict)),
            Err(source) => Err(ChildError {
                platform,
                digest,
                source: Box::new(source),
            }),
        }
    }

    /// Tells an image whose manifests all have verdicts: understood everywhere, or not.
    fn told(
        &self,
        target: &Target,
        server: &Server,
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
                ..self.failed(target, reason)
            });
        }
        let counts = children
            .iter()
            .fold(SeverityCounts::default(), |sum, (child, _)| {
                sum.plus(child.counts)
            });
        // Some may be from a newer database than ours already; the image as a whole is as new as the oldest.
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
            scanner_version: server.version.scanner.clone(),
            database_version: oldest.unwrap_or_default(),
            counts,
            children: children.iter().map(|(child, _)| child.clone()).collect(),
        })
    }

    fn failed(&self, target: &Target, reason: String) -> ScanFailed {
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

    /// Says whether an image is gone because its tag names another one by now, which has a message of its own.
    async fn is_superseded(&self, target: &Target, error: &ChildError) -> bool {
        let Some(tag) = target.tag.as_ref().filter(|_| error.source.is_gone()) else {
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

    /// Records and tells a failure that is final; the message itself becomes a dead letter.
    async fn tell_failure(
        &self,
        target: &Target,
        cause: &Cause,
        error: &ChildError,
    ) -> Result<(), Error> {
        if !cause.is_final(error.class()) {
            return Ok(());
        }
        let reason = error.told();
        // A repository without the image says nothing of the same image elsewhere.
        if !error.source.is_gone() {
            self.record_failure(target, &reason).await?;
        }
        let fact = ScanFailed {
            platform: error.platform.clone(),
            ..self.failed(target, reason)
        };
        self.bus
            .publish(&fact.into(), cause, &cause.occurrence)
            .await
            .map_err(sluice_state::Error::from)?;
        crash::point("scanner-adapter.failure_told");
        Ok(())
    }

    /// Records the failure at every manifest that has no verdict by today's database.
    async fn record_failure(&self, target: &Target, reason: &str) -> Result<(), Error> {
        let server = self.scanner.server().await.map_err(Error::not_ready)?;
        let entry = match self
            .images
            .described(&target.repository, &target.digest)
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
            let image = Image {
                repository: &target.repository,
                digest: &digest,
                platform: &child.platform,
            };
            self.images
                .record_failure(&server.version, image, reason.to_owned())
                .await?;
        }
        Ok(())
    }
}

fn scanned(verdict: &Verdict, platform: Option<Platform>, digest: Digest) -> ScannedChild {
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

#[cfg(test)]
mod tests;
