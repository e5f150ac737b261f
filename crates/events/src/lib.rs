//! The protocol: facts, commands, subjects, event ids and headers.
//!
//! Wire types stop here: handlers see the domain values of [`facts`] and [`commands`].

mod convert;

pub mod commands;
pub mod facts;
pub mod headers;
pub mod id;
pub mod message;
pub mod subject;
mod verdict;
pub mod wire;

pub use commands::Command;
pub use convert::{DecodeError, time_from_wire, time_to_wire, without_leap_second};
pub use facts::{Event, EventType};
pub use id::EventId;
pub use message::{Decode, Message, UnexpectedMessage};
