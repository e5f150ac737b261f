//! The error for which a command exits with the code of a wrong configuration.

use std::error::Error;
use std::fmt;

/// A file, a credential or a certificate that cannot be used.
#[derive(Debug)]
pub struct ConfigurationError(pub anyhow::Error);

impl fmt::Display for ConfigurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for ConfigurationError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
