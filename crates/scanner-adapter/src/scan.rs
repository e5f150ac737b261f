//! One image: which of its manifests are scanned, and what is told of it.

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
use sluice_state::reconcile::after_events;
use sluice_state::{Catalog, Snapshot, describe};

use crate::error::{ChildError, Error, StageError};
use crate::image::ImageScanner;
use crate::keeper::Scanner;
use crate::reconcile::is_scanned_unasked;
use crate::server::Server;
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

/// The stage.
#[derive(Debug)]
pub(crate) struct ScannerAdapter {
    pub(crate) bus: Bus,
    pub(crate) catalog: Catalog,
    pub(crate) scanner: Scanner,
    pub(crate) images: ImageScanner,
    /// The name of the scanner in facts.
    pub(crate) name: ResourceName,
    /// How many platforms of one image are looked at together.
    pub(crate) parallel: usize,
    pub(crate) limit: Duration,
}

impl Handler for ScannerAdapter {
    type Input = Input;
    type Error = StageError;

    const SPAN: &'static str = sluice_telemetry::span::SCAN;

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, StageError> {
        if let Input::Reconcile(command) = input {
            after_events(&self.bus, &topology::SCANNER_ADAPTER, &command, cause).await?;
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
        // This limit comes before the bus's own, so that the failure can still be told.
        let scanned = tokio::time::timeout(self.limit, self.scan(&target)).await;
        let scanned = scanned.unwrap_or_else(|_| Err(target.failed(Error::TimedOut(self.limit))));
        match scanned {
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
                    self.scanner.doubt();
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
    fn failed(&self, source: impl Into<Error>) -> ChildError {
        ChildError {
            platform: None,
            digest: self.digest.clone(),
            source: Box::new(source.into()),
        }
    }
}

impl ScannerAdapter {
    async fn scan(&self, target: &Target) -> Result<Outcome, ChildError> {
        let server = self
            .scanner
            .server()
            .await
            .map_err(|reason| target.failed(Error::not_ready(reason)))?;
        let images = &self.images;
        let entry = describe(
            &images.state,
            &images.registry,
            &target.repository,
            &target.digest,
        )
        .await
        .map_err(|error| target.failed(error))?;
        let mut runnable = entry.children;
        runnable.retain(|child| !child.attestation);
        let server = &server;
        let verdicts: Vec<_> = stream::iter(runnable)
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
        let digest: Digest = child
            .digest
            .parse()
            .map_err(|_| target.failed(Error::Entry(child.digest.clone())))?;
        let platform: Option<Platform> = child.platform.parse().ok();
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
        let Some(entry) = self
            .images
            .state
            .images
            .get(&key::image(&target.digest))
            .await?
        else {
            return Ok(());
        };
        for child in entry
            .value
            .children
            .iter()
            .filter(|child| !child.attestation)
        {
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
mod tests {
    use chrono::Utc;
    use sluice_domain::resources::{Kind, Resource};

    use super::*;

    fn digest() -> Digest {
        format!("sha256:{}", "a".repeat(64)).parse().unwrap()
    }

    fn pushed(repository: &str, actor: &str) -> Input {
        Input::Pushed(TagPushed {
            registry: "registry.internal".parse().unwrap(),
            repository: repository.parse().unwrap(),
            tag: "1.0".parse().unwrap(),
            digest: digest(),
            media_type: String::new(),
            size_bytes: 0,
            actor: actor.to_owned(),
            at: Utc::now(),
        })
    }

    fn asked(repository: &str) -> Input {
        Input::Scan(ScanImage {
            repository: repository.parse().unwrap(),
            tag: None,
            digest: digest(),
        })
    }

    fn catalog() -> Snapshot {
        let mut snapshot = Snapshot::default();
        let settings = r#"{"name":"manual/*","scan":"manual"}"#;
        let policy =
            r#"{"name":"p","from":"hub/*","to":"official/{name}","tag":"%n","when":"true"}"#;
        for (kind, json) in [
            (Kind::Repository, settings),
            (Kind::PromotionPolicy, policy),
        ] {
            match Resource::from_json(kind, json).unwrap() {
                Resource::Repository(resource) => {
                    drop(
                        snapshot
                            .repositories
                            .insert(resource.name.clone(), resource),
                    );
                }
                Resource::PromotionPolicy(resource) => {
                    drop(snapshot.policies.insert(resource.name.clone(), resource));
                }
                other => panic!("{other:?}"),
            }
        }
        snapshot
    }

    #[test]
    fn what_is_scanned_without_being_asked() {
        let catalog = catalog();
        for (input, scanned) in [
            (pushed("hub/app", "alice"), true),
            (pushed("hub/app", ""), true),
            (pushed("hub/app", "mirror-worker"), false),
            (pushed("official/app", "alice"), false),
            (pushed("manual/app", "alice"), false),
            (asked("manual/app"), true),
            (asked("official/app"), true),
        ] {
            let told = format!("{input:?}");
            assert_eq!(input.target(&catalog).is_some(), scanned, "{told}");
        }
    }
}
