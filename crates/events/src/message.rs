//! The messages that a stage may receive: facts and commands.

use thiserror::Error;

use crate::commands::Command;
use crate::convert::DecodeError;
use crate::facts::Event;

/// A fact or a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A fact.
    Event(Event),
    /// A command.
    Command(Command),
}

impl Message {
    /// Reads a message by the full name of its type.
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

/// A message of a type that a stage does not process.
#[derive(Debug, Error)]
#[error("this stage does not process messages of type `{type_name}`")]
pub struct UnexpectedMessage {
    /// Its type.
    pub type_name: &'static str,
}

/// The messages that a stage processes: its own enum over their types.
pub trait Decode: Sized {
    /// Reads a message, if the stage processes its type.
    fn decode(message: Message) -> Result<Self, UnexpectedMessage>;
}

impl Message {
    /// Makes the error of a stage that does not process this message.
    #[must_use]
    pub const fn unexpected(&self) -> UnexpectedMessage {
        let type_name = match self {
            Self::Event(event) => event.type_name(),
            Self::Command(command) => command.type_name(),
        };
        UnexpectedMessage { type_name }
    }
}
