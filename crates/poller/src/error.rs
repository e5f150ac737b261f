//! The error of a poll.

use sluice_domain::{Class, Classify};
use thiserror::Error;

/// A poll that could not be recorded; a failing upstream is an event and not an error.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct Error(#[from] sluice_state::Error);

impl Classify for Error {
    fn class(&self) -> Class {
        self.0.class()
    }
}
