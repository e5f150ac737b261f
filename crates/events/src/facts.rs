//! Facts: one struct for each event that services publish, and [`Event`] over all of them.

use prost::Message as _;
use sluice_domain::{
    Digest, RegistryHost, RemoteRepository, Repository, ResourceName, Tag, Target,
};

use crate::convert::DecodeError;
use crate::id::EventId;
use crate::subject;

/// The structs, generated from `/proto`.
mod generated {
    include!("gen/facts.rs");
}
pub use generated::*;

/// A type of facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventType {
    /// The full name of the protobuf message.
    pub type_name: &'static str,
    /// The name as used in webhooks, as in `image.promoted`.
    pub name: &'static str,
    /// The one service that publishes it.
    pub publisher: &'static str,
    /// The last two tokens of its subject, in words.
    pub tokens: &'static str,
}

/// Declares the enum over all facts: for each its public name, the service that publishes it, the last tokens of its
/// subject, and its identity.
macro_rules! events {
    ($( $name:ident => $noun:literal $fact:literal by $publisher:literal $form:tt [$($key:tt)*], )*) => {
        /// Any fact.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each variant is documented at its struct")]
        pub enum Event { $( $name($name), )* }

        $( impl From<$name> for Event {
            fn from(fact: $name) -> Self {
                Self::$name(fact)
            }
        }

        impl $name {
            const FORM: SubjectForm<Self> = subject_form!($form);
        } )*

        impl Event {
            /// Every type of facts, in the order of the protocol.
            pub const TYPES: &'static [EventType] = &[$( EventType {
                type_name: concat!("sluice.events.v1.", stringify!($name)),
                name: concat!($noun, ".", $fact),
                publisher: $publisher,
                tokens: $name::FORM.words,
            }, )*];

            /// Returns the full name of the protobuf message.
            #[must_use]
            pub const fn type_name(&self) -> &'static str {
                match self { $( Self::$name(_) => concat!("sluice.events.v1.", stringify!($name)), )* }
            }

            /// Returns the name as used in webhooks, as in `image.promoted`.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $( Self::$name(_) => concat!($noun, ".", $fact), )* }
            }

            /// Returns the subject that it is published on.
            #[must_use]
            pub fn subject(&self) -> String {
                match self { $( Self::$name(fact) =>
                    format!(concat!("sluice.v1.", $noun, ".", $fact, ".{}"), ($name::FORM.tokens)(fact)), )* }
            }

            /// Returns the repositories of the fact: its source, then its target, which may be in a remote registry.
            #[must_use]
            pub fn repositories(&self) -> Vec<Target> {
                match self { $( Self::$name(fact) => ($name::FORM.repositories)(fact), )* }
            }

            /// Returns the identity of the fact: the fields that tell it from other facts of its type.
            #[must_use]
            pub fn key(&self) -> String {
                match self { $( Self::$name(fact) => [$( identity_field!($key, fact), )*].join("|"), )* }
            }

            /// Returns the id of an occurrence of the fact.
            #[must_use]
            pub fn id(&self, occurrence: &str) -> EventId {
                EventId::of(self.type_name(), &self.key(), occurrence)
            }

            /// Returns the protobuf form.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                match self { $( Self::$name(fact) => crate::wire::events::$name::from(fact).encode_to_vec(), )* }
            }

            /// Returns the public JSON form: lower camel case, digests and times as text.
            #[must_use]
            pub fn to_json(&self) -> serde_json::Value {
                match self { $( Self::$name(fact) => serde_json::to_value(fact), )* }.unwrap_or_default()
            }

            /// Reads a fact, if the type is one.
            pub fn decode(type_name: &str, payload: &[u8]) -> Option<Result<Self, DecodeError>> {
                match type_name {
                    $( concat!("sluice.events.v1.", stringify!($name)) => Some(
                        crate::wire::events::$name::decode(payload)
                            .map_err(|source| DecodeError::Bytes { type_name: type_name.to_owned(), source })
                            .and_then(|wire| $name::try_from(wire).map(Self::$name)),
                    ), )*
                    _ => None,
                }
            }
        }
    };
}

/// One field of the identity; a repository that may be remote is written with its registry.
macro_rules! identity_field {
    (($registry:ident $repository:ident), $fact:ident) => {
        target($fact.$registry.as_ref(), &$fact.$repository).stored()
    };
    ($key:ident, $fact:ident) => {
        IdentityField::text(&$fact.$key)
    };
}

/// What a line of the table says by the form of the last two tokens of the subject.
struct SubjectForm<T> {
    words: &'static str,
    tokens: fn(&T) -> String,
    repositories: fn(&T) -> Vec<Target>,
}

macro_rules! subject_form {
    (repository) => {
        SubjectForm {
            words: "<organisation>.<name>",
            tokens: |fact| subject::of_repository(&fact.repository),
            repositories: |fact| vec![fact.repository.clone().into()],
        }
    };
    (remote) => {
        SubjectForm {
            words: "<target organisation>.<target name>",
            tokens: |fact| subject::of_target(fact.registry.as_ref(), &fact.repository),
            repositories: |fact| vec![target(fact.registry.as_ref(), &fact.repository)],
        }
    };
    (($target:ident from $source:ident)) => {
        SubjectForm {
            words: "<target organisation>.<target name>",
            tokens: |fact| subject::of_target(fact.registry.as_ref(), &fact.$target),
            repositories: |fact| {
                let target = target(fact.registry.as_ref(), &fact.$target);
                vec![fact.$source.clone().into(), target]
            },
        }
    };
    (($source:ident to $target:ident)) => {
        SubjectForm {
            words: "<source organisation>.<source name>",
            tokens: |fact| subject::of_repository(&fact.$source),
            repositories: |fact| {
                let target = target(fact.registry.as_ref(), &fact.$target);
                vec![fact.$source.clone().into(), target]
            },
        }
    };
    (resource) => {
        SubjectForm {
            words: "<kind>.<name>",
            tokens: |fact| {
                let kind = subject::encode(&fact.kind.to_ascii_lowercase());
                format!("{kind}.{}", subject::encode(fact.name.as_str()))
            },
            repositories: |_| Vec::new(),
        }
    };
    ($field:ident) => {
        SubjectForm {
            words: concat!("_.<", stringify!($field), ">"),
            tokens: |fact| format!("_.{}", subject::encode(fact.$field.as_str())),
            repositories: |_| Vec::new(),
        }
    };
}

events! {
    UpstreamTagMoved => "upstream" "tag_moved" by "poller" repository [mirror source repository tag digest],
    UpstreamTagGone => "upstream" "tag_gone" by "poller" repository [mirror source repository tag],
    UpstreamPollFailed => "upstream" "poll_failed" by "poller" repository [mirror source],
    UpstreamPollRecovered => "upstream" "poll_recovered" by "poller" repository [mirror source],
    TagMirrored => "tag" "mirrored" by "mirror-worker" repository [mirror source repository tag digest],
    TagMirrorFailed => "tag" "mirror_failed" by "mirror-worker" repository [mirror source repository tag digest],
    TagMoveRefused => "tag" "move_refused" by "mirror-worker" repository [mirror source repository tag digest],
    TagRepaired => "tag" "repaired" by "mirror-worker" repository [mirror source repository tag digest],
    TagPushed => "tag" "pushed" by "gateway" repository [registry repository tag digest],
    TagPulled => "tag" "pulled" by "gateway" repository [registry repository tag digest],
    TagDeleted => "tag" "deleted" by "gateway" repository [registry repository tag],
    ManifestPushed => "manifest" "pushed" by "gateway" repository [registry repository digest],
    ManifestPulled => "manifest" "pulled" by "gateway" repository [registry repository digest],
    ManifestDeleted => "manifest" "deleted" by "gateway" repository [registry repository digest],
    ScanSucceeded => "scan" "succeeded" by "scanner-adapter" repository [repository tag digest scanner],
    ScanFailed => "scan" "failed" by "scanner-adapter" repository [repository tag digest scanner],
    ScanFindingsChanged => "scan" "findings_changed" by "scanner-adapter" repository [repository tag digest scanner database_version],
    ScannerDatabaseUpdated => "scanner" "database_updated" by "scanner-adapter" scanner [scanner database_version],
    ImagePromoted => "image" "promoted" by "promoter" (target from source) [policy source source_tag (registry target) target_tag digest],
    ImagePromotionDenied => "image" "promotion_denied" by "promoter" (repository to target) [policy repository tag digest (registry target)],
    ImageFlagged => "image" "flagged" by "promoter" remote [policy (registry repository) tag digest],
    ImageWithdrawn => "image" "withdrawn" by "promoter" remote [policy (registry repository) tag digest],
    ImageUnauthorised => "image" "unauthorised" by "promoter" remote [(registry repository) tag digest],
    PruneCompleted => "prune" "completed" by "pruner" repository [repository policy],
    WebhookDelivered => "webhook" "delivered" by "webhook-dispatcher" endpoint [endpoint event_id],
    WebhookFailed => "webhook" "failed" by "webhook-dispatcher" endpoint [endpoint event_id],
    ResourceApplied => "resource" "applied" by "gateway" resource [kind name revision],
}

impl Event {
    /// Returns the remote registry that the fact is about: the upstream of a mirror, or that of a remote target.
    #[must_use]
    pub fn remote_registry(&self) -> Option<RegistryHost> {
        let source = match self {
            Self::UpstreamTagMoved(fact) => &fact.source,
            Self::UpstreamTagGone(fact) => &fact.source,
            Self::UpstreamPollFailed(fact) => &fact.source,
            Self::UpstreamPollRecovered(fact) => &fact.source,
            Self::TagMirrored(fact) => &fact.source,
            Self::TagMirrorFailed(fact) => &fact.source,
            Self::TagMoveRefused(fact) => &fact.source,
            Self::TagRepaired(fact) => &fact.source,
            _ => {
                let repositories = self.repositories().into_iter();
                return repositories.filter_map(|one| one.registry).next();
            }
        };
        Some(source.host.clone())
    }
}

fn target(registry: Option<&RegistryHost>, repository: &Repository) -> Target {
    Target {
        registry: registry.cloned(),
        repository: repository.clone(),
    }
}

/// A field of the identity of a fact, as text; an absent one is empty.
trait IdentityField {
    fn text(&self) -> String;
}

macro_rules! identity_fields {
    ($($type:ty),*) => { $(
        impl IdentityField for $type {
            fn text(&self) -> String {
                self.to_string()
            }
        }

        impl IdentityField for Option<$type> {
            fn text(&self) -> String {
                self.as_ref().map(ToString::to_string).unwrap_or_default()
            }
        }
    )* };
}
identity_fields!(
    String,
    u64,
    Digest,
    EventId,
    RegistryHost,
    RemoteRepository,
    Repository,
    ResourceName,
    Tag
);
