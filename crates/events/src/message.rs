//! Whatever a stage may receive.

use thiserror::Error;

use crate::commands::Command;
use crate::convert::DecodeError;
use crate::facts::Event;

/// A fact or a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Something happened.
    Event(Event),
    /// Something is asked for.
    Command(Command),
}

impl Message {
    /// Reads a message by the full name of its type.
    ///
    /// # Errors
    /// An unknown type, or bytes or fields that are not what the type says.
    pub fn decode(type_name: &str, payload: &[u8]) -> Result<Self, DecodeError> {
        if let Some(event) = Event::decode(type_name, payload) {
            return event.map(Self::Event);
        }
        if let Some(command) = Command::decode(type_name, payload) {
            return command.map(Self::Command);
        }
        Err(DecodeError::Unknown {
            type_name: type_name.to_owned(),
        })
    }
}

/// A message that a stage does not work on.
#[derive(Debug, Error)]
#[error("this stage does not work on `{type_name}`")]
pub struct Unexpected {
    /// Its type.
    pub type_name: &'static str,
}

/// What a stage consumes: its own enum over the messages that it knows.
pub trait Decode: Sized {
    /// Takes a message in.
    ///
    /// # Errors
    /// A message of another type.
    fn decode(message: Message) -> Result<Self, Unexpected>;
}

impl Message {
    /// Says that a stage does not work on this message.
    #[must_use]
    pub const fn unexpected(&self) -> Unexpected {
        let type_name = match self {
            Self::Event(event) => event.type_name(),
            Self::Command(command) => command.type_name(),
        };
        Unexpected { type_name }
    }
}
