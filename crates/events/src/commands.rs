//! Commands: one struct for each, and [`Command`] over all of them.

use chrono::{DateTime, Utc};
use prost::Message as _;
use sluice_domain::{Digest, Repository, ResourceName, Tag};

use crate::convert::{DecodeError, messages};
use crate::id::EventId;
use crate::subject::encode;

messages! {
/// Poll a mirror now.
PollMirror {
    /// The mirror, by its resource name.
    mirror: ResourceName,
    /// Whether a person waits for it: its copies may then use the reserve of the account's pull budget.
    urgent: bool,
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
/// Evaluate an image against the policies of its repository.
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
    /// The process that published it, as in `/sluice/promoter`.
    event_source: String,
}
/// Find missing work from state, and queue it.
Reconcile {
    /// The stage, by its name.
    stage: String,
    /// Why: start, hourly, asked, changed, lost, restarted, audit or cleanup.
    reason: String,
    /// The reconciliation of which this is a page, empty for a new one.
    run: String,
    /// The number of the stage's scan that is continued.
    scan: u64,
    /// The revision in the bucket after which it continues.
    after: u64,
    /// The entries that earlier pages checked.
    looked_at: u64,
    /// The items of missing work that earlier pages found.
    found: u64,
    /// A number that the stage's scan has counted in earlier pages.
    counted: u64,
    /// The name after which it continues, where the scan has no revisions.
    after_name: String,
    /// The time of the last restore before the scan began, for scans that depend on it; empty if there was none.
    restored: String,
}
/// Copy a mirrored tag to the digest that it has upstream.
MirrorTag {
    /// The mirror, by its resource name.
    mirror: ResourceName,
    /// The tag.
    tag: Tag,
    /// Which move of the tag led to this, counted from 1.
    move_number: u64,
    /// Whether content of the tag is missing from the registry.
    damaged: bool,
    /// Whether only the referrers of the image are copied, and not the tag.
    referrers: bool,
    /// Whether a person waits for it: it may then use the reserve of the account's pull budget.
    urgent: bool,
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
            /// Every type of command: the full name of its message.
            pub const TYPES: &'static [&'static str] =
                &[$( concat!("sluice.events.v1.", stringify!($name)) ),*];

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
    DeliverEvent,
    Reconcile,
    MirrorTag
);

impl Command {
    /// Returns the rest of its subject after `sluice.do.`, or after `sluice.due.` when a schedule fires it.
    #[must_use]
    pub fn topic(&self) -> String {
        match self {
            Self::PollMirror(command) => format!("poll.{}", encode(command.mirror.as_str())),
            // One subject for each image, so that the stream knows whether the same command is pending.
            Self::ScanImage(command) => format!(
                "scan.{}.{}",
                encode(command.repository.as_str()),
                encode(command.digest.as_str())
            ),
            Self::JudgeImage(command) => format!(
                "judge.{}.{}.{}",
                encode(command.repository.as_str()),
                encode(command.tag.as_str()),
                encode(command.digest.as_str())
            ),
            Self::PruneRepositories(command) => {
                let policy = command.policy.as_ref();
                let policy = policy.map_or_else(|| "_".to_owned(), |name| encode(name.as_str()));
                match &command.repository {
                    Some(repository) => format!("prune.{policy}.{}", encode(repository.as_str())),
                    None => format!("prune.{policy}"),
                }
            }
            Self::DeliverEvent(command) => format!("deliver.{}", encode(command.endpoint.as_str())),
            Self::Reconcile(command) => format!("reconcile.{}", encode(&command.stage)),
            Self::MirrorTag(command) => format!(
                "mirror.{}.{}",
                encode(command.mirror.as_str()),
                encode(command.tag.as_str())
            ),
        }
    }
}
