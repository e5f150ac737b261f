//! The exit codes of the commands that copy, and the errors that choose one.

use std::fmt;
use std::process::ExitCode;

/// Something failed; the rest was done.
pub(crate) const FAILED: u8 = 1;
/// A file or a setting cannot be used, as in `sysexits.h`.
pub(crate) const CONFIGURATION: u8 = 78;
/// Somebody interrupted it, as a shell tells it.
pub(crate) const INTERRUPTED: u8 = 130;

/// What every command that copies says of its exit codes.
pub(crate) const HELP: &str = "Exit codes:
  0    everything is done, or was there already
  1    something failed; everything else was done
  2    the arguments are wrong
  78   a file, a credential or a certificate cannot be used
  130  interrupted; no tag points to something that is not complete";

/// A file or a setting that cannot be used.
#[derive(Debug)]
pub(crate) struct Misconfigured(pub(crate) anyhow::Error);

impl fmt::Display for Misconfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Misconfigured {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Returns the exit code for a command that failed as a whole.
pub(crate) fn code_of(error: &anyhow::Error) -> ExitCode {
    let misconfigured = error
        .chain()
        .any(<dyn std::error::Error>::is::<Misconfigured>);
    ExitCode::from(if misconfigured { CONFIGURATION } else { FAILED })
}
