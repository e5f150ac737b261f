//! What the registry's notifications say: which of them is which fact. Pure; state is asked elsewhere.
//!
//! A push by tag is both a tag and a manifest pushed, as in DTR, and so is a pull. HEAD delivers no manifest: by tag it
//! is how several clients begin a pull, so it counts for the tag alone, and by digest for nothing. Blobs and mounts are
//! no facts. A deletion by digest does not say whether it was a manifest, so that is left open here.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sluice_domain::{Digest, InvalidName, RegistryHost, Repository, Tag, is_service_account};
use sluice_events::facts::{
    ManifestDeleted, ManifestPulled, ManifestPushed, TagDeleted, TagPulled, TagPushed,
};
use sluice_events::{Event, time_as_told};
use thiserror::Error;

/// The media type that Distribution gives to every blob.
const BLOB: &str = "application/octet-stream";
/// The most events of one notification; Distribution sends one.
const MOST_EVENTS: usize = 1_000;
/// The longest id of a notification; Distribution's are UUIDs.
const LONGEST_ID: usize = 128;

/// The body of a notification; Distribution sends one event in each.
#[derive(Debug, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) events: Vec<Notification>,
}

impl Envelope {
    /// Reads a body.
    pub(crate) fn read(body: &[u8]) -> Result<Self, String> {
        let envelope: Self = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if envelope.events.len() > MOST_EVENTS {
            return Err(format!("it holds more than {MOST_EVENTS} events"));
        }
        Ok(envelope)
    }
}

/// Returns the facts in a body; what cannot be understood tells none.
#[doc(hidden)]
#[must_use]
pub fn facts_of(body: &[u8], registry: &RegistryHost) -> Vec<Event> {
    let events = Envelope::read(body).map(|envelope| envelope.events);
    let told = events.unwrap_or_default().into_iter();
    told.filter_map(|notification| notification.read(registry).ok().flatten())
        .flat_map(|told| told.facts)
        .collect()
}

/// One event of the registry; what is not needed is not read.
#[derive(Debug, Deserialize)]
pub(crate) struct Notification {
    id: String,
    timestamp: DateTime<Utc>,
    action: String,
    target: Target,
    #[serde(default)]
    request: Request,
    #[serde(default)]
    actor: Actor,
    #[serde(default)]
    source: Source,
}

/// Which process of the registry speaks.
#[derive(Debug, Default, Deserialize)]
struct Source {
    #[serde(default, rename = "instanceID")]
    instance: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    digest: String,
    repository: String,
    #[serde(default)]
    tag: String,
}

#[derive(Debug, Default, Deserialize)]
struct Request {
    #[serde(default)]
    method: String,
}

#[derive(Debug, Default, Deserialize)]
struct Actor {
    #[serde(default)]
    name: String,
}

/// Why a notification cannot be understood, and never will be.
#[derive(Debug, Error)]
pub(crate) enum Invalid {
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error("its id is missing or too long")]
    Id,
    #[error("its action `{0}` is not known")]
    Action(String),
    #[error("it names neither a digest nor a tag")]
    Target,
}

/// What a notification tells, if it is not one of our own traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecodedNotification {
    /// The registry's id of it, the same when it is sent again.
    pub(crate) id: String,
    /// The digest that it is about; a tombstone leaves no trace.
    pub(crate) digest: Option<Digest>,
    /// Whether it may be about a blob, which is no fact.
    pub(crate) may_be_blob: bool,
    /// What happened.
    pub(crate) facts: Vec<Event>,
}

impl DecodedNotification {
    /// Returns which image of a repository was pulled, and when, if it is about a pull.
    pub(crate) fn pull(&self) -> Option<(&Repository, &Digest, DateTime<Utc>)> {
        self.facts.iter().find_map(|fact| match fact {
            Event::TagPulled(pull) => Some((&pull.repository, &pull.digest, pull.at)),
            Event::ManifestPulled(pull) => Some((&pull.repository, &pull.digest, pull.at)),
            _ => None,
        })
    }

    /// Says whether it is about a pull.
    pub(crate) fn is_pull(&self) -> bool {
        self.pull().is_some()
    }
}

impl Notification {
    /// Returns the registry's id, for the log.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Returns which process of the registry speaks, if it says so; another one than before was started anew.
    pub(crate) fn instance(&self) -> Option<&str> {
        Some(self.source.instance.as_str()).filter(|id| !id.is_empty() && id.len() <= LONGEST_ID)
    }

    /// Says what happened; `None` where nothing did that anybody is told.
    ///
    /// # Errors
    /// What no later attempt would understand either.
    pub(crate) fn read(
        &self,
        registry: &RegistryHost,
    ) -> Result<Option<DecodedNotification>, Invalid> {
        if self.id.is_empty() || self.id.len() > LONGEST_ID {
            return Err(Invalid::Id);
        }
        let by_service = is_service_account(&self.actor.name);
        match self.action.as_str() {
            "mount" => return Ok(None),
            "push" | "pull" if self.target.media_type == BLOB => return Ok(None),
            // The services read all the time, and nobody is interested.
            "pull" if by_service => return Ok(None),
            "push" | "pull" | "delete" => {}
            other => return Err(Invalid::Action(other.chars().take(32).collect())),
        }
        let place = Place {
            registry: registry.clone(),
            repository: self.target.repository.parse()?,
            actor: self.actor.name.clone(),
            at: time_as_told(self.timestamp),
        };
        let digest = given(&self.target.digest)?;
        let tag = given(&self.target.tag)?;
        let facts = match (self.action.as_str(), &digest) {
            ("push", Some(digest)) => self.pushed(&place, digest, tag),
            ("pull", Some(digest)) => self.pulled(&place, digest, tag),
            ("delete", _) => match (tag, &digest) {
                (Some(tag), _) => vec![place.tag_deleted(tag)],
                (None, Some(digest)) => vec![place.manifest_deleted(digest)],
                (None, None) => return Err(Invalid::Target),
            },
            _ => return Err(Invalid::Target),
        };
        if facts.is_empty() {
            return Ok(None);
        }
        let deletes_digest = matches!(facts.first(), Some(Event::ManifestDeleted(_)));
        Ok(Some(DecodedNotification {
            id: self.id.clone(),
            digest,
            // Sluice never deletes a blob by itself.
            may_be_blob: deletes_digest && !by_service,
            facts,
        }))
    }

    fn pushed(&self, place: &Place, digest: &Digest, tag: Option<Tag>) -> Vec<Event> {
        let (media_type, size_bytes) = (&self.target.media_type, self.target.size);
        let mut facts = vec![Event::ManifestPushed(ManifestPushed {
            registry: place.registry.clone(),
            repository: place.repository.clone(),
            digest: digest.clone(),
            media_type: media_type.clone(),
            size_bytes,
            actor: place.actor.clone(),
            at: place.at,
        })];
        if let Some(tag) = tag {
            facts.push(Event::TagPushed(TagPushed {
                registry: place.registry.clone(),
                repository: place.repository.clone(),
                tag,
                digest: digest.clone(),
                media_type: media_type.clone(),
                size_bytes,
                actor: place.actor.clone(),
                at: place.at,
            }));
        }
        facts
    }

    fn pulled(&self, place: &Place, digest: &Digest, tag: Option<Tag>) -> Vec<Event> {
        let (media_type, size_bytes) = (&self.target.media_type, self.target.size);
        let mut facts = Vec::new();
        if self.request.method != "HEAD" {
            facts.push(Event::ManifestPulled(ManifestPulled {
                registry: place.registry.clone(),
                repository: place.repository.clone(),
                digest: digest.clone(),
                media_type: media_type.clone(),
                size_bytes,
                actor: place.actor.clone(),
                at: place.at,
            }));
        }
        if let Some(tag) = tag {
            facts.push(Event::TagPulled(TagPulled {
                registry: place.registry.clone(),
                repository: place.repository.clone(),
                tag,
                digest: digest.clone(),
                media_type: media_type.clone(),
                size_bytes,
                actor: place.actor.clone(),
                at: place.at,
            }));
        }
        facts
    }
}

/// What every fact says.
struct Place {
    registry: RegistryHost,
    repository: Repository,
    actor: String,
    at: DateTime<Utc>,
}

impl Place {
    fn tag_deleted(self, tag: Tag) -> Event {
        Event::TagDeleted(TagDeleted {
            registry: self.registry,
            repository: self.repository,
            tag,
            actor: self.actor,
            at: self.at,
        })
    }

    fn manifest_deleted(self, digest: &Digest) -> Event {
        Event::ManifestDeleted(ManifestDeleted {
            registry: self.registry,
            repository: self.repository,
            digest: digest.clone(),
            actor: self.actor,
            at: self.at,
        })
    }
}

/// Reads a name that may be absent.
fn given<T: std::str::FromStr<Err = InvalidName>>(text: &str) -> Result<Option<T>, InvalidName> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some)
}

#[cfg(test)]
mod tests;
