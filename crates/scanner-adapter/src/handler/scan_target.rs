//! Which image a message leads to the scan of.

use sluice_domain::resources::ScanMode;
use sluice_domain::{Digest, Platform, Repository, Tag, is_service_account};
use sluice_events::commands::{Reconcile, RematchImage, ScanImage};
use sluice_events::facts::{ScannerDatabaseUpdated, TagMirrored, TagPushed};
use sluice_events::wire::state::ImageChild;
use sluice_events::{Command, Decode, Event, Message, UnexpectedMessage};
use sluice_state::Snapshot;

use crate::error::{ChildError, Error};

/// The messages that the stage consumes.
#[derive(Debug)]
pub(crate) enum Input {
    Mirrored(TagMirrored),
    Pushed(TagPushed),
    Scan(ScanImage),
    Rematch(RematchImage),
    DatabaseUpdated(ScannerDatabaseUpdated),
    Reconcile(Reconcile),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, UnexpectedMessage> {
        match message {
            Message::Event(Event::TagMirrored(fact)) => Ok(Self::Mirrored(fact)),
            Message::Event(Event::TagPushed(fact)) => Ok(Self::Pushed(fact)),
            Message::Command(Command::ScanImage(command)) => Ok(Self::Scan(command)),
            Message::Command(Command::RematchImage(command)) => Ok(Self::Rematch(command)),
            Message::Event(Event::ScannerDatabaseUpdated(fact)) => Ok(Self::DatabaseUpdated(fact)),
            Message::Command(Command::Reconcile(command)) => Ok(Self::Reconcile(command)),
            other => Err(other.unexpected()),
        }
    }
}

impl Input {
    /// Returns the image to scan, unless it is no image that this stage scans, or one that is scanned on demand only.
    pub(crate) fn scan_target(self, catalog: &Snapshot) -> Option<ScanTarget> {
        let (repository, tag, digest) = match self {
            // A scan on demand does not depend on the settings.
            Self::Scan(command) => {
                return Some(ScanTarget {
                    repository: command.repository,
                    tag: command.tag,
                    digest: command.digest,
                    rematched_with: None,
                });
            }
            Self::Rematch(command) => {
                return Some(ScanTarget {
                    repository: command.repository,
                    tag: command.tag,
                    digest: command.digest,
                    rematched_with: Some(command.database_version),
                });
            }
            Self::Mirrored(fact) => (fact.repository, fact.tag, fact.digest),
            // What Sluice itself pushes is published as mirrored or promoted.
            Self::Pushed(fact) if is_service_account(&fact.actor) => return None,
            Self::Pushed(fact) => (fact.repository, fact.tag, fact.digest),
            Self::DatabaseUpdated(_) | Self::Reconcile(_) => return None,
        };
        let is_image = tag.attached_to().is_none();
        (is_image && is_scanned_automatically(catalog, &repository)).then_some(ScanTarget {
            repository,
            tag: Some(tag),
            digest,
            rematched_with: None,
        })
    }
}

/// Says whether images of a repository are scanned as soon as they arrive.
pub(crate) fn is_scanned_automatically(catalog: &Snapshot, repository: &Repository) -> bool {
    let is_manual = catalog.settings(repository).scan == ScanMode::Manual;
    !is_manual && !catalog.is_target(repository)
}

/// An image to scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScanTarget {
    pub(crate) repository: Repository,
    pub(crate) tag: Option<Tag>,
    pub(crate) digest: Digest,
    /// The version of the database with which an image that was scanned before is matched again: an event follows only if
    /// the result changed.
    pub(crate) rematched_with: Option<String>,
}

impl ScanTarget {
    /// Returns digest and platform of one of its manifests.
    pub(crate) fn child(
        &self,
        child: &ImageChild,
    ) -> Result<(Digest, Option<Platform>), ChildError> {
        let digest = child.digest.parse();
        let digest = digest.map_err(|_| self.failure(Error::Entry(child.digest.clone())))?;
        Ok((digest, child.platform.parse().ok()))
    }

    /// Makes a failure one of the whole image.
    pub(crate) fn failure(&self, source: impl Into<Error>) -> ChildError {
        ChildError {
            platform: None,
            digest: self.digest.clone(),
            source: Box::new(source.into()),
        }
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

    fn scan_command(repository: &str) -> Input {
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
    fn targets_and_manual_repositories_are_scanned_on_demand_only() {
        let catalog = catalog();
        for (input, scanned) in [
            (pushed("hub/app", "alice"), true),
            (pushed("hub/app", ""), true),
            (pushed("hub/app", "mirror-worker"), false),
            (pushed("official/app", "alice"), false),
            (pushed("manual/app", "alice"), false),
            (scan_command("manual/app"), true),
            (scan_command("official/app"), true),
        ] {
            let message = format!("{input:?}");
            assert_eq!(input.scan_target(&catalog).is_some(), scanned, "{message}");
        }
    }
}
