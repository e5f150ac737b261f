//! Converts the configuration of other tools to resources: regsync, and the YAML files of `skopeo sync`.
//!
//! Whatever has no equivalent is reported with its line; nothing is dropped silently. Secrets are never written.
//! It does no I/O: text in, text and warnings out.

mod documents;
mod regsync;
mod selection;
mod skopeo;
#[cfg(test)]
mod tests;
mod yaml;

pub use documents::{Conversion, Warning};
pub use regsync::convert as convert_regsync;
pub use skopeo::convert as convert_skopeo;

/// A file from which no resources can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Error {
    line: usize,
    reason: String,
}

impl Error {
    fn new(line: usize, reason: impl Into<String>) -> Self {
        Self {
            line,
            reason: reason.into(),
        }
    }
}
