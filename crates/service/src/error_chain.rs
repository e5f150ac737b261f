//! An error together with its sources, for messages in one line.

use std::error::Error;
use std::iter;

/// Returns the sources of an error, the nearest first.
pub fn error_sources<'a>(error: &'a dyn Error) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(error.source(), |&cause| cause.source())
}

/// Formats an error and its sources in one line, joined by colons; a source that ends the line already is left out.
#[must_use]
pub fn error_chain(error: &dyn Error) -> String {
    error_sources(error).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.ends_with(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("failed to read `a`")]
    struct Outer {
        source: io::Error,
    }

    #[test]
    fn each_source_is_printed_once() {
        let error = Outer {
            source: io::Error::other("the disk is gone"),
        };
        assert_eq!(error_chain(&error), "failed to read `a`: the disk is gone");
        assert_eq!(error_chain(&io::Error::other("x")), "x");
        // Many errors print their source themselves.
        let refused = io::Error::other("nats: refused");
        let error = io::Error::other(Outer { source: refused });
        assert_eq!(error_chain(&error), "failed to read `a`: nats: refused");
    }
}
