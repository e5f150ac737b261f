//! Commands: one struct for each, and [`Command`] over all of them.

use prost::Message as _;

use crate::convert::DecodeError;
use crate::subject::encode;

/// The structs, generated from `/proto`.
mod generated {
    include!("gen/commands.rs");
}
pub use generated::*;

macro_rules! commands {
    ($($name:ident),*) => {
        /// Any command.
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
        #[serde(untagged)]
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
    RematchImage,
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
            Self::RematchImage(command) => format!(
                "rematch.{}.{}",
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
