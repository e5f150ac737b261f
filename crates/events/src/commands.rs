//! Commands: what somebody asks a stage to do.

use chrono::{DateTime, Utc};
use prost::Message as _;
use sluice_domain::{Digest, Repository, ResourceName, Tag};

use crate::convert::{DecodeError, messages};
use crate::id::EventId;
use crate::subject::token;

messages! {
/// Poll a mirror now.
PollMirror {
    /// The mirror, by its resource name.
    mirror: ResourceName,
}
/// Scan an image.
ScanImage {
    /// The repository.
    repository: Repository,
    /// The tag, empty where only the digest is known.
    tag: Option<Tag>,
    /// The digest of the image or index.
    digest: Digest,
}
/// Judge an image by the policies of its repository.
JudgeImage {
    /// The repository.
    repository: Repository,
    /// The tag.
    tag: Tag,
    /// The digest of the image or index.
    digest: Digest,
}
/// Run retention.
PruneRepositories {
    /// The pruning policy, empty for the tag limit.
    policy: Option<ResourceName>,
    /// The repository, empty for all that the policy names.
    repository: Option<Repository>,
}
/// Deliver an event to one endpoint.
DeliverEvent {
    /// The endpoint, by its resource name.
    endpoint: ResourceName,
    /// The event.
    event_id: EventId,
    /// Its full message name.
    event_type: String,
    /// When it happened.
    event_time: DateTime<Utc>,
    /// The event, encoded.
    payload: Vec<u8>,
    /// Who published it, as in `/sluice/promoter`.
    event_source: String,
}}

macro_rules! commands {
    ($($name:ident),*) => {
        /// Any command.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each variant is documented at its struct")]
        pub enum Command { $( $name($name), )* }

        $( impl From<$name> for Command {
            fn from(command: $name) -> Self {
                Self::$name(command)
            }
        } )*

        impl Command {
            /// Returns the full name of the protobuf message.
            #[must_use]
            pub const fn type_name(&self) -> &'static str {
                match self { $( Self::$name(_) => concat!("sluice.events.v1.", stringify!($name)), )* }
            }

            /// Returns the protobuf form.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                match self { $( Self::$name(command) => crate::wire::events::$name::from(command).encode_to_vec(), )* }
            }

            /// Reads a command, if the type is one.
            ///
            /// # Errors
            /// Bytes or fields that are not what the type says.
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

commands!(
    PollMirror,
    ScanImage,
    JudgeImage,
    PruneRepositories,
    DeliverEvent
);

impl Command {
    /// Returns what stands after `sluice.do.` in its subject, and after `sluice.due.` when it is scheduled.
    #[must_use]
    pub fn topic(&self) -> String {
        match self {
            Self::PollMirror(command) => format!("poll.{}", token(command.mirror.as_str())),
            Self::ScanImage(_) => "scan".to_owned(),
            Self::JudgeImage(_) => "judge".to_owned(),
            Self::PruneRepositories(command) => format!(
                "prune.{}",
                command
                    .policy
                    .as_ref()
                    .map_or_else(|| "_".to_owned(), |policy| token(policy.as_str()))
            ),
            Self::DeliverEvent(command) => format!("deliver.{}", token(command.endpoint.as_str())),
        }
    }
}
