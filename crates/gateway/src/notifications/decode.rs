//! Decodes the registry's notifications into events. Pure; the state is checked elsewhere.
//!
//! A push by tag is both a pushed tag and a pushed manifest, as in DTR, and so is a pull. HEAD transfers no manifest:
//! by tag several clients begin a pull with it, so it counts as a pull of the tag alone; by digest it is no event.
//! Blobs and mounts are no events. A deletion by digest does not say whether it was a manifest, so that is decided
//! elsewhere.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sluice_domain::{Digest, InvalidName, RegistryHost, Repository, Tag, is_service_account};
use sluice_events::facts::{
    ManifestDeleted, ManifestPulled, ManifestPushed, TagDeleted, TagPulled, TagPushed,
};
use sluice_events::{Event, without_leap_second};
use thiserror::Error;

/// The media type that Distribution gives to every blob.
const BLOB: &str = "application/octet-stream";
/// The most events of one notification; Distribution sends one.
const MAX_EVENTS: usize = 1_000;
/// The longest id of a notification; Distribution's are UUIDs.
const MAX_ID_LENGTH: usize = 128;

/// The body of a notification; Distribution sends one event in each.
#[derive(Debug, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) events: Vec<Notification>,
}

impl Envelope {
    /// Parses a body.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, String> {
        let envelope: Self = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if envelope.events.len() > MAX_EVENTS {
            return Err(format!("the body has more than {MAX_EVENTS} events"));
        }
        Ok(envelope)
    }
}

/// Returns the events of a body; without those that cannot be decoded.
#[doc(hidden)]
#[must_use]
pub fn decode_events(body: &[u8], registry: &RegistryHost) -> Vec<Event> {
    let notifications = Envelope::parse(body).map(|envelope| envelope.events);
    let notifications = notifications.unwrap_or_default().into_iter();
    notifications
        .filter_map(|notification| notification.decode(registry).ok().flatten())
        .flat_map(|decoded| decoded.events)
        .collect()
}

/// One event of the registry; other fields are ignored.
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

/// The process of the registry that sent the notification.
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

/// Why a notification cannot be decoded, at any time.
#[derive(Debug, Error)]
pub(crate) enum InvalidNotification {
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error("its id is missing or too long")]
    Id,
    #[error("its action `{0}` is unknown")]
    Action(String),
    #[error("it names neither a digest nor a tag")]
    Target,
}

/// The events of a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecodedNotification {
    /// The registry's id of the notification, the same when it is sent again.
    pub(crate) id: String,
    /// The digest of the manifest; those of tombstones are ignored.
    pub(crate) digest: Option<Digest>,
    /// Whether the digest may be that of a blob, which has no event.
    pub(crate) may_be_blob: bool,
    pub(crate) events: Vec<Event>,
}

/// Creates an event with the fields that all share, and its own ones from variables of their names.
macro_rules! event {
    ($event:ident, $context:ident $(, $field:ident)*) => {
        Event::$event($event {
            registry: $context.registry.clone(),
            repository: $context.repository.clone(),
            actor: $context.actor.clone(),
            at: $context.at,
            $($field: $field.to_owned(),)*
        })
    };
}

impl DecodedNotification {
    /// Returns the pulled image and the time of the pull, if it is a pull.
    pub(crate) fn pull(&self) -> Option<(&Repository, &Digest, DateTime<Utc>)> {
        self.events.iter().find_map(|event| match event {
            Event::TagPulled(pull) => Some((&pull.repository, &pull.digest, pull.at)),
            Event::ManifestPulled(pull) => Some((&pull.repository, &pull.digest, pull.at)),
            _ => None,
        })
    }

    /// Says whether it is a pull.
    pub(crate) fn is_pull(&self) -> bool {
        self.pull().is_some()
    }
}

impl Notification {
    /// Returns the registry's id, for the log.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Returns the process of the registry, if the notification names it; a new one shows a restart.
    pub(crate) fn instance(&self) -> Option<&str> {
        Some(self.source.instance.as_str()).filter(|id| !id.is_empty() && id.len() <= MAX_ID_LENGTH)
    }

    /// Decodes the notification; `None` if it has no event.
    pub(crate) fn decode(
        &self,
        registry: &RegistryHost,
    ) -> Result<Option<DecodedNotification>, InvalidNotification> {
        if self.id.is_empty() || self.id.len() > MAX_ID_LENGTH {
            return Err(InvalidNotification::Id);
        }
        let by_service = is_service_account(&self.actor.name);
        match self.action.as_str() {
            "mount" => return Ok(None),
            "push" | "pull" if self.target.media_type == BLOB => return Ok(None),
            // The services pull all the time.
            "pull" if by_service => return Ok(None),
            "push" | "pull" | "delete" => {}
            other => {
                return Err(InvalidNotification::Action(
                    other.chars().take(32).collect(),
                ));
            }
        }
        let context = EventContext {
            registry: registry.clone(),
            repository: self.target.repository.parse()?,
            actor: self.actor.name.clone(),
            at: without_leap_second(self.timestamp),
        };
        let digest = parse_optional(&self.target.digest)?;
        let tag = parse_optional(&self.target.tag)?;
        let events = self.events(&context, tag.as_ref(), digest.as_ref())?;
        if events.is_empty() {
            return Ok(None);
        }
        let deletes_digest = matches!(events.first(), Some(Event::ManifestDeleted(_)));
        Ok(Some(DecodedNotification {
            id: self.id.clone(),
            digest,
            // Sluice never deletes a blob by itself.
            may_be_blob: deletes_digest && !by_service,
            events,
        }))
    }

    fn events(
        &self,
        context: &EventContext,
        tag: Option<&Tag>,
        digest: Option<&Digest>,
    ) -> Result<Vec<Event>, InvalidNotification> {
        let (media_type, size_bytes) = (&self.target.media_type, self.target.size);
        let (manifest, tag) = match (self.action.as_str(), tag, digest) {
            ("push", tag, Some(digest)) => (
                Some(event!(
                    ManifestPushed,
                    context,
                    digest,
                    media_type,
                    size_bytes
                )),
                tag.map(|tag| event!(TagPushed, context, tag, digest, media_type, size_bytes)),
            ),
            ("pull", tag, Some(digest)) => (
                (self.request.method != "HEAD")
                    .then(|| event!(ManifestPulled, context, digest, media_type, size_bytes)),
                tag.map(|tag| event!(TagPulled, context, tag, digest, media_type, size_bytes)),
            ),
            ("delete", Some(tag), _) => (None, Some(event!(TagDeleted, context, tag))),
            ("delete", None, Some(digest)) => {
                (Some(event!(ManifestDeleted, context, digest)), None)
            }
            _ => return Err(InvalidNotification::Target),
        };
        Ok(manifest.into_iter().chain(tag).collect())
    }
}

/// The fields that all events share.
struct EventContext {
    registry: RegistryHost,
    repository: Repository,
    actor: String,
    at: DateTime<Utc>,
}

/// Parses a name that may be absent.
fn parse_optional<T: std::str::FromStr<Err = InvalidName>>(
    text: &str,
) -> Result<Option<T>, InvalidName> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some)
}

#[cfg(test)]
mod tests;
